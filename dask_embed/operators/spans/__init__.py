"""Operators that find places in texts."""
