"""Everything of Hydra's that is private and that ksim uses: the one place to look at when Hydra changes."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import Container, DictConfig, OmegaConf

from ksim.config.overrides import texts
from ksim.system.trust import TARGET

__all__ = [
    "BasicSweeper",
    "Hydra",
    "apply_override",
    "create_config_search_path",
    "get_args_parser",
    "get_overrides_dirname",
    "layers",
    "names_target",
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


def names_target(loader: Any, config_name: str, overrides: Sequence[str], group: str) -> bool:
    """Whether a YAML file of the choice of a group has a `_target_`; false where the choice cannot be found out.

    Args:
        loader: of the application that composes.
        config_name: of the primary config.
        overrides: of the command line, which make the choice.
        group: such as "task".
    """
    try:
        found = loader.compute_defaults_list(config_name, list(overrides), RunMode.MULTIRUN).defaults
        files = [default for default in found if (default.config_path or "").startswith(f"{group}/")]
        contents = [loader._load_single_config(default=default, repo=loader.repository).config for default in files]
    except Exception:  # the composition itself says what is wrong
        return False
    return any(OmegaConf.select(content, f"{group}.{TARGET}") is not None for content in contents)
