"""Whole jobs: Parquet output and input, progress, the command line."""
