"""Runners as jobs of a Slurm cluster."""
