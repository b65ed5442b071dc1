"""Texts as lists of tokens that are traced back to their characters."""
