"""Operators that give labels and scores of whole texts."""
