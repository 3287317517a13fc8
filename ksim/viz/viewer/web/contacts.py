"""Contact forces as arrows."""

from collections.abc import Iterator

import mujoco
import numpy as np

from ksim.envs.markers import Arrow, Rgba

_RGBA: Rgba = (0.75, 0.2, 0.75, 1.0)
_METRES_PER_WEIGHT = 0.6  # length of an arrow that carries the whole model


def contact_forces(model: mujoco.MjModel, data: mujoco.MjData) -> Iterator[Arrow]:
    """The force of each contact on what moves, from the point of contact, longer the larger it is.

    Args:
        model: the model.
        data: after `mj_forward`.
    """
    weight = float(model.body_mass.sum() * np.linalg.norm(model.opt.gravity)) or 1.0
    for i in range(data.ncon):
        wrench = np.empty(6)
        mujoco.mj_contactForce(model, data, i, wrench)
        contact = data.contact[i]
        force = contact.frame.reshape(3, 3).T @ wrench[:3]  # on the second geom
        if model.body_weldid[model.geom_bodyid[contact.geom[1]]] == 0:
            force = -force
        along = force * _METRES_PER_WEIGHT / weight
        if np.linalg.norm(along) > 0.01:
            start = np.array(contact.pos)
            yield Arrow(start, start + along, radius=0.01, rgba=_RGBA)
