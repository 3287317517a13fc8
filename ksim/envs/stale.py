"""What an event must not read, because it is out of date when the event fires; refused when terms are traced.

Derived fields are computed by the physics, what terms remember begins with an episode: both come after the startup and
reset events. Step and interval events see the fields of the step before, as long as no event of the same step has
written what these follow from.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ksim.envs.context import Context
from ksim.envs.tree import replace
from ksim.errors import ConfigError

_INSTEAD = "read the state itself (qpos, qvel, act, and what is made of them: ctx.joint_pos, ctx.base_quat, ...)"


class Refusing(Mapping[str, Any]):
    """A mapping of which nothing may be read: who tries is told why."""

    def __init__(self, found: Mapping[str, Any], why: Callable[[str], str]):
        self._found = found
        self._why = why

    def __getitem__(self, name: str) -> Any:
        self._found[name]  # KeyError for what does not exist
        raise ConfigError(self._why(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def as_fired(ctx: Context, mode: str, written: Mapping[str, str]) -> Context:
    """What an event of a mode sees when it fires.

    Args:
        ctx: what terms see when all is up to date.
        mode: startup, reset, step or interval.
        written: what derived fields follow from and events of the same step have written before, each with the path of
            the first of them.
    """
    if mode in ("startup", "reset"):
        when = "still zero" if mode == "startup" else "still the last episode's"

        def why_not_yet(name: str) -> str:
            return f"reads {name!r}, which is {when} when a {mode} event fires; {_INSTEAD}"

        ctx = _with_fields(ctx, Refusing(_fields(ctx), why_not_yet))
        ctx.memory = Refusing(ctx.memory, why_not_yet)
        return ctx
    if not written:
        return ctx
    wrote, path = next(iter(written.items()))

    def why_no_more(name: str) -> str:
        return (
            f"reads {name!r}, which is out of date after {path} has written {wrote!r} in the same step; "
            f"put it before that event (step events fire before interval events), or {_INSTEAD}"
        )

    return _with_fields(ctx, Refusing(_fields(ctx), why_no_more))


def _fields(ctx: Context) -> Mapping[str, Any]:
    return ctx.env.physics.fields


def _with_fields(ctx: Context, fields: Mapping[str, Any]) -> Context:
    ctx = ctx.remembering({})  # a copy
    ctx.env = replace(ctx.env, physics=replace(ctx.env.physics, fields=fields))
    return ctx
