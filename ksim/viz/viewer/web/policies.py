"""The checkpoints of a run on the page: which is played, and which plays against it."""

import time
from collections.abc import Callable

import numpy as np
import viser

from ksim.envs.markers import Ghost, Rgba
from ksim.policies.load import Trained
from ksim.viz.viewer.checkpoints import Checkpoints
from ksim.viz.viewer.simulation import Simulation
from ksim.viz.viewer.web.asked import Asked

_NOBODY = "none"
_RIVAL: Rgba = (0.3, 0.75, 0.45, 0.45)


class PolicyPicker:
    """Which checkpoint is played, and another one as a ghost: its robot starts wherever this one is put."""

    def __init__(
        self,
        server: viser.ViserServer,
        simulation: Simulation,
        checkpoints: Checkpoints,
        asked: Asked,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Add the elements where the page's next ones go.

        Args:
            server: the page's.
            simulation: what plays.
            checkpoints: of its run.
            asked: where changes go.
            clock: seconds of wall time.
        """
        self._simulation, self._checkpoints, self._clock = simulation, checkpoints, clock
        self._rival: Simulation | None = None
        self._rivals_policy: Trained | None = None
        self._looked_at = clock()
        named = ("latest", "best", *self._steps())
        self._played = server.gui.add_dropdown(
            "checkpoint", named, initial_value=self._now(named), hint="newer ones are taken while it is at latest"
        )
        self._against = server.gui.add_dropdown("against", (_NOBODY, *named), hint="another checkpoint, as a ghost")
        self._played.on_update(asked.by(lambda event: simulation.use(event.target.value)))
        self._against.on_update(asked.by(lambda event: self._play_against(event.target.value)))

    def update(self) -> None:
        """Offer checkpoints that are new."""
        if self._clock() - self._looked_at < self._simulation.cfg.checkpoint_every_s:
            return
        self._looked_at = self._clock()
        named = ("latest", "best", *self._steps())
        for dropdown, options in ((self._played, named), (self._against, (_NOBODY, *named))):
            if dropdown.options != options:
                chosen = dropdown.value  # a checkpoint that the training has removed is played on
                dropdown.options = options if chosen in options else (*options, chosen)

    def ghost(self) -> list[Ghost]:
        """The other robot."""
        rival = self._rival
        return [] if rival is None else [Ghost(np.asarray(rival.pose.qpos)[rival.selected], _RIVAL)]

    def follow(self) -> None:
        """The other one takes the env steps that this one has taken, under the same pulls."""
        rival, simulation = self._rival, self._simulation
        if rival is None:
            return
        rival.apply(np.asarray(simulation.pose.pull)[simulation.selected])
        for _ in range(round((simulation.time_s - rival.time_s) / simulation.env.step_dt)):
            rival.step()
            if rival.error is not None:
                simulation.message = f"the other checkpoint has stopped: {rival.error}"
                self._rival = None
                return

    def start_together(self) -> None:
        """The other one continues from where this one is now."""
        if self._rivals_policy is not None:
            self._rival = self._simulation.twin(self._rivals_policy)

    def both(self, action: Callable[[Simulation], object]) -> None:
        """Do the same to this one and to the other one."""
        action(self._simulation)
        if self._rival is not None:
            action(self._rival)

    def _now(self, named: tuple[str, ...]) -> str:
        step = str(self._simulation.step_of_policy)
        return "latest" if self._simulation.follows_training or step not in named else step

    def _steps(self) -> list[str]:
        return [str(step) for step in reversed(self._checkpoints.steps())]

    def _play_against(self, which: str) -> None:
        self._rival, self._rivals_policy = None, None
        if which != _NOBODY:
            self._rivals_policy = self._checkpoints.load(which)
            self.start_together()
