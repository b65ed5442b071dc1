"""Operators that give vectors, or read them."""
