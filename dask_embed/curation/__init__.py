"""Duplicates, clusters and neighbours of a whole corpus: kernels free of Dask, and steps of it."""
