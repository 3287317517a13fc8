"""Pictures of what happened: offscreen video and plots. Host side, NumPy only; nothing here imports JAX."""
