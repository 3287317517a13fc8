"""A run's config with what an evaluation or a viewer changes in its task."""

from collections.abc import Sequence

from ksim.config import compose
from ksim.config.schema import Config
from ksim.training.checks import checked


def changed(cfg: Config, overrides: Sequence[str], engine: str | None = None) -> Config:
    """A run's config with changes to its task, and perhaps on another engine.

    Raises:
        ConfigError: for every mistake in them.
    """
    if engine is not None:
        overrides = [*overrides, f"physics.engine={engine}"]
    return checked(compose.with_overrides(cfg, overrides))
