"""What gets loaded: model specifications, checkpoints, weights and the per-process registry."""
