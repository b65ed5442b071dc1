"""What a process has once: models, threads, memory, imports, statistics."""
