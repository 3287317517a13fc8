"""The robot's left-right symmetry, as actions and observations show it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ksim.envs import mirror
from ksim.envs.managers import ActionManager, CommandManager, ObservationManager
from ksim.envs.mirror import SignedPermutation
from ksim.envs.scene import Scene
from ksim.errors import ConfigError


@dataclass(frozen=True)
class Symmetry:
    """How actions and concatenated observation groups change when the robot is mirrored left to right."""

    action: SignedPermutation
    obs: dict[str, SignedPermutation]


def find_symmetry(
    scene: Scene,
    actions: ActionManager,
    observations: ObservationManager,
    obs_sizes: Mapping[str, dict[str, int]],
    commands: CommandManager,
    groups: Sequence[str],
) -> Symmetry:
    """The symmetry of a task, of some of its observation groups.

    Raises:
        ConfigError: the robot has no mirror map, or a term does not say how it mirrors.
    """
    action = mirror.of_joints(scene, actions.joints_a)
    if action is None:
        raise ConfigError(
            f"algo.symmetry: robot {scene.robot.name!r} or its action terms have no left-right symmetry; "
            "set algo.symmetry=none"
        )
    return Symmetry(action, {g: observations.mirror(g, scene, obs_sizes[g], action, commands) for g in groups})
