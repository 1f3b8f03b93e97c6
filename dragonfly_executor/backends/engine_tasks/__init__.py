"""Base classes of backends whose runners are long-running tasks of a cluster engine: tasks of Dask, actors of Ray."""
