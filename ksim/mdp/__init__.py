"""The terms that tasks are made of: small functions, a file for each kind. No term knows a robot."""

import ksim.envs  # noqa: F401  (first: its managers import terms, and terms its context, whichever is asked for)
