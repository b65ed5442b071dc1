"""What the command ``dask-embed`` is made of: options, a file of them, inputs, how it ends."""
