"""Kinds of uneven ground for `task.scene.patches.kinds`: the heights of one square patch.

Pairs of numbers are a value of the easiest level and one of the hardest; a patch of a level between has one between.
All meet their neighbours at height 0, but for the roughness itself.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy.interpolate import RegularGridInterpolator

from ksim.envs.ground import Patch
from ksim.errors import ConfigError

Levels = tuple[float, float]  # of the easiest level, and of the hardest
Heights = Float[np.ndarray, "n n"]


def flat(patch: Patch) -> Heights:
    """Level ground."""
    return np.zeros_like(patch.x)


def rough(patch: Patch, *, height: Levels = (0.01, 0.04), grain: float = 0.2) -> Heights:
    """Bumps: random heights, uniform from -height to +height, one in each `grain` along x and y, with slopes between.

    Args:
        patch: where.
        height: of the highest bump and the deepest dip, m.
        grain: distance between bumps, m.
    """
    if grain < patch.spacing:
        raise ConfigError(f"grain = {grain} is finer than task.scene.patches.spacing = {patch.spacing}")
    count = max(2, round(patch.size / grain) + 1)
    places = np.linspace(-0.5 * patch.size, 0.5 * patch.size, count)
    bumps = patch.rng.uniform(-1.0, 1.0, (count, count))
    smooth = RegularGridInterpolator((places, places), bumps, bounds_error=False, fill_value=None)
    return patch.between(height) * smooth((patch.y, patch.x)) * patch.away_from_start


def slope(patch: Patch, *, degrees: Levels = (3.0, 15.0), up: bool = True) -> Heights:
    """A pyramid with a level top, from which one walks down; `up: false` a pit, out of which one climbs.

    Args:
        patch: where.
        degrees: how steep it is.
        up: a pyramid, or a pit.
    """
    ramp = _from_edge(patch) * math.tan(math.radians(patch.between(degrees)))
    return ramp if up else -ramp


def stairs(patch: Patch, *, rise: Levels = (0.02, 0.12), tread: float = 0.3, up: bool = True) -> Heights:
    """Steps around a level top, from which one walks down; `up: false` a pit, out of which one climbs.

    Risers lean by one spacing of the height field.

    Args:
        patch: where.
        rise: height of a step, m.
        tread: depth of a step, m.
        up: a top, or a pit.
    """
    if tread < 2 * patch.spacing:
        raise ConfigError(f"tread = {tread} needs a task.scene.patches.spacing of at most {0.5 * tread}")
    steps = np.floor(_from_edge(patch) / tread + 1e-9) * patch.between(rise)
    return steps if up else -steps


def boxes(patch: Patch, *, height: Levels = (0.02, 0.1), side: float = 0.5) -> Heights:
    """Square blocks of random height, uniform from -height to +height.

    Args:
        patch: where.
        height: of the highest block and the deepest hole, m.
        side: of a block, m.
    """
    row, column = (np.floor((along + 0.5 * patch.size) / side).astype(int) for along in (patch.y, patch.x))
    blocks = patch.rng.uniform(-1.0, 1.0, (row.max() + 1, column.max() + 1))
    return patch.between(height) * blocks[row, column] * (patch.away_from_start >= 1.0)


def stepping_stones(patch: Patch, *, gap: Levels = (0.05, 0.25), stone: float = 0.4, depth: float = 0.5) -> Heights:
    """Square stones over a trench, around the level middle.

    Args:
        patch: where.
        gap: between stones, m.
        stone: side of a stone, m.
        depth: of the trench, m.
    """
    width = patch.between(gap)
    if width < patch.spacing:
        raise ConfigError(f"a gap of {width} is narrower than task.scene.patches.spacing = {patch.spacing}")
    on_x, on_y = ((along + 0.5 * stone) % (stone + width) < stone for along in (patch.x, patch.y))
    trench = ~(on_x & on_y) & (patch.away_from_start >= 1.0) & (_from_edge(patch) > patch.spacing)
    return np.where(trench, -depth, 0.0)


def _from_edge(patch: Patch) -> Heights:
    """Distance from the patch's edge inwards, m, up to where the level middle begins."""
    half = 0.5 * patch.size
    return np.clip(half - patch.distance, 0.0, max(half - patch.start_radius, 0.0))
