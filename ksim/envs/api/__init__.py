"""Other faces of the functional env: stateful, Gymnasium, and an env by its task's name."""
