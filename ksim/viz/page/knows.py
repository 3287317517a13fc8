"""What pages can measure and command; a policy that needs more is refused when its page is made."""

from collections.abc import Mapping, Sequence
from typing import Any

from ksim.errors import KsimError

# Whose JavaScript is in js/observations.js and js/commands.js, by the same names.
OBSERVATIONS = frozenset(
    f"ksim.mdp.observations.{name}"
    for name in (
        "actuator_force",
        "base_ang_vel",
        "base_height",
        "base_lin_vel",
        "command",
        "ground_scan",
        "joint_pos",
        "joint_pos_cos_sin",
        "joint_vel",
        "last_action",
        "phase",
        "projected_gravity",
        "sensor",
    )
)
COMMANDS = frozenset(f"ksim.mdp.commands.{name}" for name in ("gait_clock", "uniform", "uniform_velocity"))
_OBSERVATION_KEYS = {
    *("name", "description", "function", "parameters", "size", "joints"),
    *("clip", "scale", "delay", "history", "noise", "bias"),
}
_ACTION_KEYS = {
    *("name", "law", "control", "joints", "scale", "offset", "lower", "upper", "relative"),
    *("clip", "delay", "low_pass_hz"),
    *("lift", "clock", "stance", "offsets"),  # of a gait that goes on by itself
}
LAWS = frozenset(
    f"target = clip({middle} + scale * action{ahead}, lower, upper); all other joints: target = home"
    for middle in ("offset", "position")
    for ahead in ("", " + lift @ swing_share")
)


def check(observations: Sequence[Mapping[str, Any]], description: Mapping[str, Any]) -> None:
    """Refuse a policy that a page could not serve.

    Args:
        observations: the actor's terms, as the policy's description has them.
        description: the policy's.

    Raises:
        KsimError: a term is measured, commanded or changed in a way that no page knows.
    """
    commands = {command["name"]: command for command in description["commands"]}
    seen = {term["parameters"]["name"] for term in observations if term["function"].endswith(".observations.command")}
    seen |= {action["clock"] for action in description["actions"] if "clock" in action}
    unknown = [f"observation {_shown(term)}" for term in observations if term["function"] not in OBSERVATIONS]
    unknown += [f"command {_shown(commands[name])}" for name in seen if commands[name]["function"] not in COMMANDS]
    for terms, keys in ((observations, _OBSERVATION_KEYS), (description["actions"], _ACTION_KEYS)):
        unknown += [f"{key} of {term['name']!r}" for term in terms for key in sorted(set(term) - keys)]
    unknown += [f"law of {action['name']!r}" for action in description["actions"] if action["law"] not in LAWS]
    if unknown:
        raise KsimError(f"page: a page does not know the {', the '.join(unknown)}")


def _shown(term: Mapping[str, Any]) -> str:
    return f"{term['name']!r} ({term['function']})"
