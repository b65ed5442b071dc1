"""All that knows Dask's expressions: the nodes of operators, their rules, plans in words."""
