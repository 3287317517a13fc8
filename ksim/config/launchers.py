"""What launchers have besides Hydra's own settings; `conf/launcher/` gives the values."""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf


@dataclass
class PackedConf:
    """Jobs side by side in one program, in this process."""

    _target_: str = "hydra_plugins.ksim.PackedLauncher"
    jobs_per_pack: int | None = None  # jobs in one program, at most; None: all that fit into one


@dataclass
class SlurmConf(SlurmQueueConf):
    """Jobs as a Slurm array."""

    _target_: str = "hydra_plugins.ksim.SlurmLauncher"
    jobs_per_pack: int = 1  # jobs that train side by side in one program, and are one job to Slurm


def store() -> None:
    """Let Hydra know these."""
    for name, node in (("ksim_packed", PackedConf), ("ksim_slurm", SlurmConf)):
        ConfigStore.instance().store(group="hydra/launcher", name=name, node=node, provider="ksim")
