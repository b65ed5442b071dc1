"""Whole jobs: files and tables, clusters, progress, the command line."""
