"""Operators of language models."""
