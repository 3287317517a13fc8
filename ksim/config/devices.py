"""What can be known of a training over several devices without a look at the machine."""

from collections.abc import Mapping

from ksim.config.schema import Config
from ksim.errors import ConfigError

# What to do where an engine cannot.
INSTEAD = (
    "for more speed take physics=mjx, or train several side by side: a sweep, with launcher=packed, submitit_local or"
    " slurm"
)


def check(cfg: Config) -> None:
    """Refuse a `physics.devices` that fits neither the engine nor the algorithm's sizes.

    Raises:
        ConfigError: naming what does not fit.
    """
    asked = cfg.physics.devices
    if asked is None or asked == 1:
        return
    if cfg.physics.engine == "mujoco":
        raise ConfigError(f"physics.devices: must be 1 with physics=mujoco, which runs on CPUs, not {asked}; {INSTEAD}")
    check_sizes(cfg, asked, f"physics.devices={asked}")


def check_processes(cfg: Config, count: int, key: str) -> None:
    """Refuse so many processes for one training.

    Args:
        cfg: of the training.
        count: how many.
        key: what asks for them, for the message.

    Raises:
        ConfigError: the engine, or the algorithm's sizes, do not allow them.
    """
    if cfg.physics.engine == "mujoco":
        raise ConfigError(f"{key}: must be 1 with physics=mujoco, which trains in one process, not {count}; {INSTEAD}")
    check_sizes(cfg, count, f"{key}={count}")


def check_sizes(cfg: Config, devices: int, why: str) -> None:
    """Refuse sizes that so many devices do not share equally.

    Raises:
        ConfigError: naming the first such setting, and numbers that would be right.
    """
    for name, size in split_sizes(cfg).items():
        if left := size % devices:
            near = [size - left, size + devices - left][size < devices :]
            raise ConfigError(
                f"algo.{name}: must be a multiple of {devices}, so that each device gets as many ({why}), not {size};"
                f" {' or '.join(map(str, near))} would be"
            )


def split_sizes(cfg: Config) -> Mapping[str, int]:
    """What is split among devices, by the algorithm's setting."""
    sizes: Mapping[str, int] = getattr(cfg.algo, "split_sizes", {})
    return sizes
