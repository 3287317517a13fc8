"""Everything of Hydra's that is private and that ksim uses: the one place to look at when Hydra changes."""

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import Container, DictConfig

from ksim.config.overrides import texts

__all__ = [
    "BasicSweeper",
    "Hydra",
    "apply_override",
    "create_config_search_path",
    "get_args_parser",
    "get_overrides_dirname",
    "layers",
]


def apply_override(override: Override, cfg: DictConfig) -> None:
    """Change a config as Hydra does for one override of the command line."""
    ConfigLoaderImpl._apply_overrides_to_config([override], cfg)


def layers(cfg: DictConfig) -> list[tuple[str, Container]]:
    """The YAML files of a composition, in the order in which Hydra merged them.

    Args:
        cfg: the composition, its node `hydra` included.

    Returns:
        The path of each file in its folder, "task/kbot_standing", with its content where it belongs in the config.
    """
    search_path = ConfigSearchPathImpl()
    for source in cfg.hydra.runtime.config_sources:
        search_path.append(source.provider, f"{source.schema}://{source.path}")
    loader = ConfigLoaderImpl(search_path)
    overrides = texts(cfg.hydra.overrides.hydra) + texts(cfg.hydra.overrides.task)
    found = loader.compute_defaults_list(cfg.hydra.job.config_name, overrides, RunMode.MULTIRUN).defaults
    return [
        (default.config_path, loader._load_single_config(default=default, repo=loader.repository).config)
        for default in found
        if default.config_path is not None and not default.config_path.startswith(("hydra/", "schema"))
    ]
