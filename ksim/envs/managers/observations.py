"""Observation groups: compute, bias and noise, clip, scale, NaN policy, delay, history, concatenate."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ksim.envs import mirror
from ksim.envs.carry import Flags, Memory
from ksim.envs.context import Context
from ksim.envs.managers.call import call_vector, parameter
from ksim.envs.managers.commands import CommandManager
from ksim.envs.managers.delay import DelayLine, delay, push
from ksim.envs.managers.noise import apply_noise, disturb, draw_noise
from ksim.envs.mirror import SignedPermutation
from ksim.envs.scene import Scene
from ksim.envs.settings import ObservationGroupCfg
from ksim.envs.terms import ObservationGroup, Term
from ksim.envs.traits import traits_of
from ksim.envs.tree import where
from ksim.errors import ConfigError

_GROUP_STREAM = 1 << 30  # apart from the numbers of the terms, which share the key


class Line(eqx.Module):
    """What one term's pipeline remembers; None for what it does not have.

    Attributes:
        bias: (n,) what was drawn for this episode.
        delay: the delay line.
        history: (H, n) newest frames, newest first.
    """

    bias: Float[Array, " n"] | None = None
    delay: DelayLine | None = None
    history: Float[Array, "H n"] | None = None


class Observed(NamedTuple):
    """What one env shows.

    Attributes:
        obs: by group, a vector (n,), or a dict of the terms' vectors where `concatenate` is off.
        not_finite: whether each term was not finite, by its path; of groups with `nan_policy: warn`.
        memory: what terms and their pipelines remember from now on.
    """

    obs: dict[str, Array | dict[str, Array]]
    not_finite: Flags
    memory: Memory


class ObservationManager:
    """Observation groups of one env."""

    def __init__(self, groups: dict[str, ObservationGroup], step_dt: float):
        self.groups = groups
        self.step_dt = step_dt

    def compute(self, ctx: Context, key: PRNGKeyArray, fresh: Bool[Array, ""] | bool = False) -> Observed:
        """Every group.

        Args:
            ctx: the env.
            key: random key.
            fresh: this is an episode's first observation, which fills delay lines and histories.

        Raises:
            ConfigError: a term returns something else than a vector or a scalar.
        """
        obs: dict[str, Array | dict[str, Array]] = {}
        not_finite: Flags = {}
        memory: Memory = {}
        for g, (name, group) in enumerate(self.groups.items()):
            values = {}
            group_key = jax.random.fold_in(key, g)
            for t, (term_name, term) in enumerate(group.terms.items()):
                keys = (jax.random.fold_in(group_key, t), jax.random.fold_in(group_key, _GROUP_STREAM))
                values[term_name], is_broken, changed = self._observe(ctx, group.settings, term, *keys, fresh)
                memory |= changed
                if group.settings.nan_policy == "warn":
                    not_finite[term.path] = is_broken
            obs[name] = jnp.concatenate(list(values.values())) if group.settings.concatenate else values
        return Observed(obs, not_finite, memory)

    def sizes(self, ctx: Context) -> tuple[dict[str, dict[str, int]], Memory]:
        """Length of every term, by group and name, and the memory of a first observation; found by tracing once.

        Raises:
            ConfigError: a term returns something else than a vector or a scalar.
        """
        key = jax.random.key(0)
        sizes: dict[str, dict[str, int]] = {}
        memory: Memory = {}
        for name, group in self.groups.items():
            sizes[name] = {}
            for term_name, term in group.terms.items():
                value, _, changed = self._observe(ctx, group.settings, term, key, key, True)
                sizes[name][term_name] = len(value)
                memory |= changed
        return sizes, memory

    def history(self, group: str, term: Term) -> int:
        """Frames of a term that are seen."""
        return self.groups[group].settings.history or term.settings.history

    def mirror(
        self, group: str, scene: Scene, sizes: dict[str, int], action: SignedPermutation, commands: CommandManager
    ) -> SignedPermutation:
        """How a concatenated group changes when the robot is mirrored left to right.

        Raises:
            ConfigError: a term does not declare it, or the robot has no such symmetry.
        """
        parts = []
        for name, term in self.groups[group].terms.items():
            kind = traits_of(term.func).mirrors_as
            if kind == "command":
                kind = traits_of(commands.terms[parameter(term, "name")].func).mirrors_as
            if kind is None:
                raise ConfigError(
                    f"{term.path}: algo.symmetry needs to know how it mirrors; decorate it with "
                    "@ksim.envs.term(mirrors_as=...), or set algo.symmetry=none"
                )
            frames = self.history(group, term)
            size = sizes[name] // frames
            part: SignedPermutation | None
            match kind:
                case "action":
                    part = action
                case "joints":
                    part = mirror.of_joints(scene, scene.find_joints(parameter(term, "joints")))
                case "bodies":
                    part = mirror.of_bodies(scene, scene.find("body", parameter(term, "bodies")))
                case "contacts":
                    part = mirror.of_contacts(scene, parameter(term, "sensor"))
                case str():
                    part = mirror.of_vector(kind, size)
                case _:
                    part = kind(scene, **{name: parameter(term, name) for name in term.parameter_names})
            if part is None:
                of = kind if kind in ("joints", "bodies") else "elements"
                raise ConfigError(f"{term.path}: its {of} do not mirror into each other; set algo.symmetry=none")
            if len(part.index) != size:
                raise ConfigError(f"{term.path}: has {size} elements; as {kind!r} it mirrors {len(part.index)}")
            scale = np.broadcast_to(1.0 if term.settings.scale is None else term.settings.scale, len(part.index))
            if (scale != scale[part.index]).any():
                raise ConfigError(f"{term.path}.scale: must be the same left and right where algo.symmetry is used")
            parts.extend([part] * frames)
        return mirror.concatenated(parts)

    def _observe(
        self,
        ctx: Context,
        group: ObservationGroupCfg,
        term: Term,
        key: PRNGKeyArray,
        group_key: PRNGKeyArray,
        fresh: Bool[Array, ""] | bool,
    ) -> tuple[Float[Array, " n"], Bool[Array, ""], Memory]:
        """A term through its pipeline, whether it was not finite, and what both remember."""
        value, memory = call_vector(term, ctx)
        settings = term.settings
        before = ctx.memory.get(_line_path(term), Line())
        bias = line = frames = None
        if settings.bias is not None and group.enable_corruption:
            bias = where(jnp.asarray(fresh), draw_noise(settings.bias, value, jax.random.fold_in(key, 1)), before.bias)
            value = disturb(settings.bias, value, bias)
        if settings.noise is not None and group.enable_corruption:
            value = apply_noise(settings.noise, value, key)
        if settings.clip is not None:
            value = jnp.clip(value, *settings.clip)
        scale = np.asarray(1.0 if settings.scale is None else settings.scale, value.dtype)
        if scale.ndim and len(scale) != len(value):
            raise ConfigError(f"{term.path}.scale: has {len(scale)} factors for {len(value)} elements")
        # As if it were asked after the scale, whose product alone the compiler may fuse with what a learner does.
        finite = jnp.isfinite(jnp.abs(value) * abs(scale))
        is_broken = ~finite.all()
        if group.nan_policy == "error":
            value = eqx.error_if(value, is_broken, f"{term.path}: the observation is not finite")
        elif group.nan_policy != "disabled":
            value = jnp.where(finite, value, 0.0)
        if settings.scale is not None:
            value = value * scale
        if group.delay is not None:
            value, line = delay(group.delay, before.delay, value, group_key, fresh, self.step_dt)
        elif settings.delay is not None:
            value, line = delay(settings.delay, before.delay, value, jax.random.fold_in(key, 2), fresh, self.step_dt)
        count = group.history or settings.history
        if count > 1:
            frames = push(before.history, value, count, fresh)
            value = frames[::-1].ravel()
        if any(part is not None for part in (bias, line, frames)):
            memory[_line_path(term)] = Line(bias, line, frames)
        return value, is_broken, memory


def _line_path(term: Term) -> str:
    return f"{term.path}/pipeline"
