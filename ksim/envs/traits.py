"""What the rest of ksim may know of a term besides its value, declared where the term is defined.

@term(mirrors_as="axial")
def base_ang_vel(ctx): ...

@term(time_out=True)
def lost(ctx): ...
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ksim.envs.context import Context
from ksim.envs.markers import Marker
from ksim.envs.terms import Term

# polar: a vector such as a velocity; axial: one such as an angular velocity; planar: a motion over the floor, (x, y,
# yaw rate); phase: a gait's clock (cosine, sine), whose left and right halves swap; joints and action: by the robot's
# mirror map; bodies and contacts: one number per body, or element of a contact sensor, by where they are in the home
# pose; command: as the command says; even: stays as it is.
MirrorKind = Literal["polar", "axial", "planar", "phase", "joints", "action", "bodies", "contacts", "command", "even"]
MirrorMap = Callable[..., Any]  # of the scene and the term's parameters: a `ksim.envs.mirror.SignedPermutation`
Drawing = Callable[[Context, Term], Iterable[Marker]]  # of one env, and a term as the task has it; in the world
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Traits:
    """What a term declares of itself; see `term`."""

    mirrors_as: MirrorKind | MirrorMap | None = None
    draws: Drawing | None = None
    time_out: bool = False
    actuated: bool = False


def term(
    *,
    mirrors_as: MirrorKind | MirrorMap | None = None,
    draws: Drawing | None = None,
    time_out: bool = False,
    actuated: bool = False,
) -> Callable[[F], F]:
    """Declare what a term is like. A term that has nothing to declare needs no decorator.

    Args:
        mirrors_as: of an observation or a command: how its value changes when the robot is mirrored left to right
            (through its x-z plane), so that a learner can use the robot's symmetry. One of the kinds, or a function
            ``(scene, *, <the term's parameters>)`` that returns the `ksim.envs.mirror.SignedPermutation`.
        draws: how it looks in pictures.
        time_out: of a termination: it truncates the episode and does not terminate it.
        actuated: its parameter `joints` names actuated joints only.
    """

    def decorate(function: F) -> F:
        function.traits = Traits(mirrors_as, draws, time_out, actuated)  # type: ignore[attr-defined]
        return function

    return decorate


def traits_of(function: Callable[..., Any]) -> Traits:
    """What a term's function or class declares."""
    found = getattr(function, "traits", None)
    return found if isinstance(found, Traits) else Traits()
