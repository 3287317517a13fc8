"""Episodes of the deterministic policy: numbers, video, plots, robustness, and which checkpoint is best."""
