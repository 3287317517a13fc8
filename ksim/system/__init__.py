"""The process around a program: JAX's set-up, CPUs, logs, signals, entry points."""
