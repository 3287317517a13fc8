"""Whether the friction of geoms shows in their contacts.

Of two geoms in contact, MuJoCo takes the friction of the one with the higher `priority`; of two with the same, the
larger friction. A contact pair that is written in the MJCF has a friction of its own.
"""

import mujoco
import numpy as np

from ksim.errors import ConfigError


def check_friction_counts(model: mujoco.MjModel, geoms: np.ndarray, lowest: np.ndarray | None) -> None:
    """Refuse geoms whose friction does not count in the contacts with others.

    Args:
        model: the compiled model.
        geoms: ids of the geoms that get another friction.
        lowest: the lowest friction that each may get; None where it is not known.

    Raises:
        ConfigError: naming the geoms, and what to write.
    """
    masters: set[int] = set()
    has_say = False
    for i, geom in enumerate(geoms):
        others = _touchable(model, geom)
        ahead = model.geom_priority[others] - model.geom_priority[geom]
        masters.update(others[ahead > 0])
        has_say |= bool(np.any(ahead <= 0))
        if lowest is not None:
            _check_larger_frictions(model, geom, float(lowest[i]), np.setdiff1d(others[ahead == 0], geoms))
    if has_say:
        return
    if masters:
        raise ConfigError(
            "geoms: their friction never counts, since what they touch has a higher contact priority: name"
            f" {', '.join(sorted(_name(model, i) for i in masters))} instead"
        )
    raise ConfigError("geoms: none of them touches anything: they do not collide")


def _check_larger_frictions(model: mujoco.MjModel, geom: int, lowest: float, rivals: np.ndarray) -> None:
    """Refuse a friction that may be lower than that of a geom of the same priority, between the ground and a body; two
    bodies may keep the larger of theirs.
    """
    rivals = rivals[_is_fixed(model, rivals) != _is_fixed(model, geom)]
    if not len(rivals) or model.geom_friction[rivals, 0].max() <= lowest + 1e-6:
        return
    rival = rivals[model.geom_friction[rivals, 0].argmax()]
    own, other = _name(model, geom), _name(model, rival)
    raise ConfigError(
        f"range: a friction of {lowest:g} of {own} would not count against {other}, which has"
        f" {model.geom_friction[rival, 0]:g}: of two geoms of the same contact priority, MuJoCo takes the larger"
        f" friction; name {other} in geoms, too, or give {own} a higher 'priority' in the MJCF"
    )


def _touchable(model: mujoco.MjModel, geom: int) -> np.ndarray:
    """Ids of the geoms of other bodies that one may collide with, by their contact bits."""
    meets = (model.geom_contype[geom] & model.geom_conaffinity) | (model.geom_conaffinity[geom] & model.geom_contype)
    return np.flatnonzero((meets != 0) & (model.geom_bodyid != model.geom_bodyid[geom]))


def _is_fixed(model: mujoco.MjModel, geoms: np.ndarray | int) -> np.ndarray:
    """Which geoms belong to the world, such as the floor."""
    return model.body_weldid[model.geom_bodyid[geoms]] == 0


def _name(model: mujoco.MjModel, geom: int) -> str:
    return model.geom(geom).name or f"geom {geom} of {model.body(model.geom_bodyid[geom]).name}"
