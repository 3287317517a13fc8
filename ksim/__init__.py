"""Train policies for simulated robots: MuJoCo physics, PPO in JAX, Hydra configuration, one directory a run."""

__version__ = "0.1.0"
