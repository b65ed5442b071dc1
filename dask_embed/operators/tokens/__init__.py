"""Operators that give tokens, or cut texts by them."""
