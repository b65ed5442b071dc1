"""Operators that measure texts without a model: what corpora are filtered by."""
