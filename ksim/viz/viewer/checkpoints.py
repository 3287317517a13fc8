"""The policies of a run for a viewer: any checkpoint, and newer ones while it trains."""

import logging

from ksim.envs.env import Env
from ksim.policies.load import Trained, load_trained
from ksim.store import checkpoint
from ksim.store.checkpoint import CheckpointError
from ksim.store.run_dir import RunDir

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of a run, to be played in an env."""

    def __init__(self, run: RunDir, env: Env):
        """Look at a run; nothing is read yet.

        Args:
            run: the run directory.
            env: what the policies must fit.
        """
        self.run = run
        self._env = env

    def steps(self) -> list[int]:
        """The env steps of those there are, in rising order."""
        return checkpoint.steps(self.run.checkpoints)

    def load(self, which: str = "latest") -> Trained:
        """The policy of one: its step, `#<n>`, `best` or `latest`.

        Raises:
            CheckpointError: there is none, or it does not fit the env.
        """
        return load_trained(self.run, which, self._env)

    def newer(self, step: int) -> Trained | None:
        """The newest one, if it is newer than that of a step and whole."""
        if not any(found > step for found in self.steps()):
            return None
        try:
            trained = self.load()
        except CheckpointError as error:
            log.warning("%s", error)
            return None
        return trained if trained.step > step else None
