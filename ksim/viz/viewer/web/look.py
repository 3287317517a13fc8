"""What is looked at: which envs, and what is drawn around them."""

import mujoco
import numpy as np
import viser

from ksim.envs.markers import Ghost, Marker, Rgba
from ksim.viz.viewer.simulation import Simulation
from ksim.viz.viewer.web.asked import Asked, show_value
from ksim.viz.viewer.web.contacts import contact_forces

_MOST = 16  # side by side
_TARGET: Rgba = (0.95, 0.65, 0.2, 0.3)


class Looking:
    """The elements that say what is shown of a simulation."""

    def __init__(self, server: viser.ViserServer, simulation: Simulation, asked: Asked):
        """Add them where the page's next elements go."""
        gui = server.gui
        self._simulation = simulation
        self._data = mujoco.MjData(simulation.model)
        self._first = 0
        self._env: viser.GuiNumberHandle[int] | None = None
        self._count: viser.GuiSliderHandle[int] | None = None
        envs = simulation.num_envs
        if envs > 1:
            self._env = gui.add_number("env", 0, min=0, max=envs - 1, step=1, hint="that is driven and plotted")
            self._env.on_update(asked.by(lambda event: self.select(int(event.target.value))))
            self._count = gui.add_slider("side by side", 1, min(envs, _MOST), 1, 1)
        self._follow = gui.add_checkbox("camera follows", True)
        self._drawings = gui.add_checkbox("what terms draw", True, hint="commands, pushes, ...")
        self._forces = gui.add_checkbox("contact forces", False)
        self._target = gui.add_checkbox("target pose", False, hint="where the actions send the joints, as a ghost")
        for changed in (self._count, self._follow, self._drawings, self._forces, self._target):
            if changed is not None:
                changed.on_update(asked.by(lambda _: None))  # whatever is asked for is answered with a new picture

    @property
    def follows(self) -> bool:
        """Whether the camera follows the selected env's robot."""
        return bool(self._follow.value)

    def select(self, index: int) -> None:
        """Take another env in hand."""
        if index != self._simulation.selected:
            self._simulation.selected = index

    def shown(self) -> list[int]:
        """The envs that are shown, in their order, the selected one among them."""
        selected = self._simulation.selected
        count = int(self._count.value) if self._count is not None else 1
        last_first = self._simulation.num_envs - count
        if not self._first <= selected < self._first + count or self._first > last_first:
            self._first = min(selected, last_first)
        return list(range(self._first, self._first + count))

    def update(self) -> None:
        """Show which env is selected."""
        if self._env is not None:
            show_value(self._env, self._simulation.selected)

    def markers(self) -> list[Marker]:
        """What is drawn around the selected env."""
        simulation = self._simulation
        found: list[Marker] = list(simulation.markers()) if self._drawings.value else []
        if self._forces.value:
            simulation.fill(self._data)
            found += contact_forces(simulation.model, self._data)
        if self._target.value:
            found.append(Ghost(self._target_qpos(), _TARGET))
        return found

    def _target_qpos(self) -> np.ndarray:
        """The pose with the joints where their controls say, of those that are told a position."""
        simulation = self._simulation
        pose, index, scene = simulation.pose, simulation.selected, simulation.env.scene
        qpos = np.array(pose.qpos[index], float)
        for u in range(scene.num_actuated):
            if scene.model.actuator_biasprm[u, 1] != 0.0:
                qpos[scene.joint_qpos_adr[u]] = pose.ctrl[index][u]
        return qpos
