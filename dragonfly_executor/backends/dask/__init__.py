"""Runners as long-running tasks of a Dask cluster."""
