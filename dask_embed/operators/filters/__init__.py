"""Operators that measure or mend texts without a transformer, as corpora are prepared."""
