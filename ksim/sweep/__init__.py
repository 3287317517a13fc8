"""Sweeps: many trainings from one command, on this machine or on a Slurm cluster.

`plan` freezes each job's config in its run directory, `job` is what a launcher sends away, `launchers` are Hydra's.
"""
