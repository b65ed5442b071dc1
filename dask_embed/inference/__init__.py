"""One partition through a model: batches, forward passes, and what becomes of their results."""
