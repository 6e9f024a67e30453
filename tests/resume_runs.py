"""Runs that are killed: a process that has imported everything once forks one process for each run."""
