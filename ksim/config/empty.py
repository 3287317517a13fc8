"""`{}` in a task, as it is written: what was there is gone. Hydra merges it into a filled mapping in silence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from ksim.config import hydra_internals
from ksim.system import trees


def empty(config: dict[str, Any], overrides: Sequence[Override], composition: DictConfig | None = None) -> None:
    """Empty the mappings of the task that a YAML file or an override empties, but for what is merged after that.

    Args:
        config: the merged config; it is changed.
        overrides: of the command line, but for choices of groups.
        composition: Hydra's, of which the YAML files are looked through; None: the overrides alone count.
    """
    layers = [OmegaConf.to_container(content) for _, content in _files(composition)] if composition is not None else []
    layers += [_layer(override) for override in overrides]
    for number, layer in enumerate(layers):
        for path in _empty_mappings(trees.get(layer, "task"), "task"):
            if not isinstance(trees.get(config, path), Mapping):
                continue  # null was merged over it
            later: dict[str, Any] = {}
            for above in layers[number + 1 :]:
                found = trees.get(above, path)
                later = trees.merge(later, found) if isinstance(found, Mapping) else later
            trees.put(config, path, later)
    for override in overrides:
        if override.is_delete():
            trees.delete(config, override.key_or_group)


def _files(composition: DictConfig) -> list[tuple[str, Any]]:
    """The YAML files, if a task among them may have a `{}`: most do not, and they take a while."""
    for source in composition.hydra.runtime.config_sources:
        folder = Path(source.path) / "task"
        texts = (path.read_text() for path in folder.rglob("*.yaml")) if source.schema == "file" else ()
        if any(re.search(r":\s*\{\s*\}", text) for text in texts):
            return hydra_internals.layers(composition)
    return []


def _layer(override: Override) -> dict[str, Any]:
    """What an override says, where it belongs in the config."""
    layer: dict[str, Any] = {}
    if not override.is_delete() and not override.is_sweep_override():
        trees.put(layer, override.key_or_group, override.value())
    return layer


def _empty_mappings(node: Any, path: str) -> Iterator[str]:
    if isinstance(node, Mapping):
        if not node:
            yield path
        for key, value in node.items():
            yield from _empty_mappings(value, f"{path}.{key}")
