"""Pictures of what happened: offscreen video and plots. Host side, NumPy only; nothing but `viewer` imports JAX."""
