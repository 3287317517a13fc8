"""Uneven ground: one height field of square patches, from easy to hard along x and of one kind each along y."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float

from ksim.config.schema import PatchesCfg, SceneCfg
from ksim.envs.calling import at, construct
from ksim.envs.settings import PatchSettings
from ksim.envs.terms import Term, resolve
from ksim.errors import ConfigError

_BASE = 0.5  # m; how thick the height field is below its lowest point
_LARGEST_FIELD = 4_000_000  # heights; beyond that a programme's constants take longer to compile than they are worth


@dataclass(frozen=True, eq=False)
class Patch:
    """What a kind of ground makes one patch of: `kind(patch, *, ...)` returns the heights of its nodes, (n, n), m.

    The nodes form a square grid around the patch's middle, where robots start; rows go along y, columns along x.
    Heights that fall to 0 at the edge meet the neighbours without a cliff.

    Attributes:
        x, y: (n, n) each node's place relative to the middle, m.
        spacing: between nodes, m.
        size: side of the patch, m.
        difficulty: 0 for the easiest level, 1 for the hardest.
        start_radius: half the side of the square around the middle that should be level, m.
        rng: random numbers of this patch alone.
    """

    x: Float[np.ndarray, "n n"]
    y: Float[np.ndarray, "n n"]
    spacing: float
    size: float
    difficulty: float
    start_radius: float
    rng: np.random.Generator

    @property
    def distance(self) -> Float[np.ndarray, "n n"]:
        """From the middle, along the farther axis, m: its lines are squares."""
        return np.maximum(np.abs(self.x), np.abs(self.y))

    @property
    def away_from_start(self) -> Float[np.ndarray, "n n"]:
        """0 where robots start, 1 beyond, with a ramp of half the start's radius between."""
        return np.clip((self.distance - self.start_radius) / (0.5 * self.start_radius), 0.0, 1.0)

    def between(self, bounds: tuple[float, float]) -> float:
        """A value between that of the easiest level and that of the hardest, by this patch's difficulty."""
        return bounds[0] + self.difficulty * (bounds[1] - bounds[0])


@dataclass(frozen=True, eq=False)
class Ground:
    """Heights of the ground on a grid around the world's origin, and where on it episodes may start.

    Attributes:
        heights: (rows along y, columns along x) heights of the nodes, m.
        spacing: between nodes, m.
        starts: (levels, patches of a level, 3) middle of each patch, m, in the world.
    """

    heights: Float[np.ndarray, "rows columns"]
    spacing: float
    starts: Float[np.ndarray, "levels patches 3"]

    @cached_property
    def half_size(self) -> tuple[float, float]:
        """How far the ground reaches along x and y, m."""
        rows, columns = self.heights.shape
        return 0.5 * self.spacing * (columns - 1), 0.5 * self.spacing * (rows - 1)

    def height(self, points: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
        """Height of the ground under points of the world, m: exactly MuJoCo's surface of two triangles per square.

        Points beyond the edge have the edge's height.
        """
        place = [(points[..., i] + self.half_size[i]) / self.spacing for i in (0, 1)]
        last = [self.heights.shape[1] - 2, self.heights.shape[0] - 2]
        column, row = (jnp.clip(p, 0, end).astype(jnp.int32) for p, end in zip(place, last, strict=True))
        a, b = (jnp.clip(p - i, 0.0, 1.0) for p, i in zip(place, (column, row), strict=True))
        heights = jnp.asarray(self.heights, points.dtype)
        h00, h11 = heights[row, column], heights[row + 1, column + 1]
        corner = jnp.where(a > b, heights[row, column + 1], heights[row + 1, column])
        first, second = jnp.maximum(a, b), jnp.minimum(a, b)  # along the triangle's own edge, then across
        return h00 + first * (corner - h00) + second * (h11 - corner)

    def add_to(self, spec: mujoco.MjSpec, name: str) -> dict[str, Any]:
        """Add the height field `name` to a model; what a geom needs to be it."""
        low, high = float(self.heights.min()), float(self.heights.max())
        spec.add_hfield(
            name=name,
            nrow=self.heights.shape[0],
            ncol=self.heights.shape[1],
            size=[*self.half_size, max(high - low, 1e-6), _BASE],
            userdata=self.heights.ravel().tolist(),
        )
        return {"type": mujoco.mjtGeom.mjGEOM_HFIELD, "hfieldname": name, "pos": [0.0, 0.0, low]}


def make_ground(cfg: SceneCfg) -> Ground | None:
    """The ground that a scene's patches make; None where its terrain is none of patches.

    Raises:
        ConfigError: naming the YAML path, for anything that is not right.
    """
    patches = cfg.patches
    where = "task.scene.patches"
    kinds = resolve(f"{where}.kinds", patches.kinds, PatchSettings)
    if cfg.terrain != "patches":
        if kinds:
            raise ConfigError(f"{where}: means nothing with task.scene.terrain={cfg.terrain}; write terrain=patches")
        return None
    if not kinds:
        raise ConfigError(f"{where}.kinds: is empty; task.scene.terrain=patches needs at least one kind of ground")
    cells, border = round(patches.size / patches.spacing), round(patches.border / patches.spacing)
    columns = [term for term in kinds.values() for _ in range(term.settings.columns)]
    nodes = [count * cells + 2 * border + 1 for count in (len(columns), patches.levels)]
    if cells < 2 or nodes[0] * nodes[1] > _LARGEST_FIELD:
        raise ConfigError(
            f"{where}.spacing: {patches.spacing} m makes {nodes[0]} x {nodes[1]} heights; a patch has at least 3 x 3, "
            f"and all of them together at most {_LARGEST_FIELD:,}"
        )
    heights = np.zeros(nodes)
    starts = np.zeros((patches.levels, len(columns), 3))
    for level in range(patches.levels):
        for index, term in enumerate(columns):
            rows, cols = (slice(border + i * cells, border + (i + 1) * cells + 1) for i in (index, level))
            heights[rows, cols] = patch = _patch_heights(patches, cells, term, level, index)
            middle = [(level + 0.5) - 0.5 * patches.levels, (index + 0.5) - 0.5 * len(columns)]
            starts[level, index] = [*(cells * patches.spacing * np.array(middle)), _highest_at_start(patches, patch)]
    return Ground(heights, patches.spacing, starts)


def _patch_heights(cfg: PatchesCfg, cells: int, term: Term, level: int, index: int) -> Float[np.ndarray, "n n"]:
    along = (np.arange(cells + 1) - 0.5 * cells) * cfg.spacing
    x, y = np.meshgrid(along, along)
    difficulty = level / (cfg.levels - 1) if cfg.levels > 1 else 1.0
    rng = np.random.default_rng([cfg.seed, level, index])
    with at(term):
        kind = construct(term)
        found = kind(Patch(x, y, cfg.spacing, cells * cfg.spacing, difficulty, cfg.start_radius, rng))
        if np.shape(found) != x.shape or not np.isfinite(found).all():
            raise ConfigError(f"must return finite heights of shape {x.shape}, not {np.shape(found)}")
    return np.asarray(found, np.float64)


def _highest_at_start(cfg: PatchesCfg, heights: Float[np.ndarray, "n n"]) -> float:
    """So that nothing of a robot that starts here is below the ground."""
    middle, reach = len(heights) // 2, int(np.ceil(0.5 * cfg.start_radius / cfg.spacing))
    return float(heights[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1].max())


def height_under(ground: Ground | None, points: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """Height of the ground under points, m; 0 of a flat floor."""
    return jnp.zeros_like(points[..., 0]) if ground is None else ground.height(points[..., :2])
