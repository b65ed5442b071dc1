"""Weights on a device."""
