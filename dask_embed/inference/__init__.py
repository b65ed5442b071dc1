"""Batches of token lists to vectors: forward pass, packed attention, pooling, heads."""
