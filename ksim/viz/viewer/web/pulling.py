"""The force of a mouse that drags a body: the damped spring that MuJoCo's own viewer pulls with."""

import mujoco
import numpy as np

from ksim.viz.viewer.simulation import Simulation


class Pulling:
    """A spring from a point of a body to where the mouse is.

    Attributes:
        stiffness: of the spring, N/m per kg of what it moves.
    """

    def __init__(self, simulation: Simulation, stiffness: float = 40.0):
        """Nothing is pulled yet."""
        self.stiffness = stiffness
        self._simulation = simulation
        self._data = mujoco.MjData(simulation.model)
        self._perturb = mujoco.MjvPerturb()
        self._env = 0

    @property
    def is_on(self) -> bool:
        """Whether a body is pulled."""
        return self._perturb.active != 0

    def grab(self, body: int, point: np.ndarray) -> None:
        """Take a body of the selected env.

        Args:
            body: its id.
            point: (3,) where, in the world, m.
        """
        model, data, perturb = self._simulation.model, self._data, self._perturb
        self._env = self._simulation.selected
        self._simulation.fill(data)
        rotation = data.xmat[body].reshape(3, 3)
        perturb.select = body
        perturb.localpos = rotation.T @ (point - data.xpos[body])
        perturb.refselpos = point
        perturb.active = mujoco.mjtPertBit.mjPERT_TRANSLATE
        perturb.localmass = _mass_at(model, data, body, point)

    def to(self, target: np.ndarray) -> None:
        """The mouse is at (3,) `target`, in the world, m."""
        self._perturb.refselpos = target

    def let_go(self) -> None:
        """No force any more."""
        if self.is_on:
            self._perturb.active = 0
            self._simulation.release(self._env)

    def update(self) -> None:
        """The force as it is now, as the body moves; it ends where another env is taken in hand."""
        simulation, data = self._simulation, self._data
        if simulation.selected != self._env:
            self.let_go()
        if self.is_on:
            simulation.fill(data)
            data.xfrc_applied[:] = 0.0
            simulation.model.vis.map.stiffness = self.stiffness
            mujoco.mjv_applyPerturbForce(simulation.model, data, self._perturb)
            simulation.apply(data.xfrc_applied)


def _mass_at(model: mujoco.MjModel, data: mujoco.MjData, body: int, point: np.ndarray) -> float:
    """What a force at a point of a body has to move, kg: the inverse of the mean acceleration per force."""
    jacobian_3v = np.zeros((3, model.nv))
    mujoco.mj_jac(model, data, jacobian_3v, None, point, body)
    solved_3v = np.zeros_like(jacobian_3v)
    mujoco.mj_solveM(model, data, solved_3v, jacobian_3v)
    inverse = float(np.sum(jacobian_3v * solved_3v)) / 3
    return 1.0 / max(inverse, mujoco.mjMINVAL)
