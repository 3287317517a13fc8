"""Runs side by side: a table, learning curves over seeds, and what became of each run. Nothing here imports JAX."""
