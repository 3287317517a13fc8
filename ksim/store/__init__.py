"""What a run leaves on disk: run directory, status, checkpoints, metrics, provenance, and the link to wandb."""
