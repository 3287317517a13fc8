"""Observation groups: compute, noise, clip, scale, concatenate."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ksim.envs.context import Context
from ksim.envs.managers.call import call, parameter
from ksim.envs.managers.commands import CommandManager
from ksim.envs.scene import Scene
from ksim.envs.terms import NoiseCfg, ObservationGroup, Term
from ksim.errors import ConfigError
from ksim.mdp import mirror
from ksim.mdp.mirror import SignedPermutation


class ObservationManager:
    """Observation groups of one env."""

    def __init__(self, groups: dict[str, ObservationGroup]):
        self.groups = groups

    def __call__(self, ctx: Context, key: PRNGKeyArray) -> dict[str, Array | dict[str, Array]]:
        """Every group: a vector (n,), or a dict of the terms' vectors where `concatenate` is off."""
        obs: dict[str, Array | dict[str, Array]] = {}
        for g, (name, group) in enumerate(self.groups.items()):
            group_key = jax.random.fold_in(key, g)
            values = {}
            for t, (term_name, term) in enumerate(group.terms.items()):
                noisy = group.settings.enable_corruption
                values[term_name] = self._observe(ctx, term, jax.random.fold_in(group_key, t) if noisy else None)
            obs[name] = jnp.concatenate(list(values.values())) if group.settings.concatenate else values
        return obs

    def sizes(self, ctx: Context) -> dict[str, dict[str, int]]:
        """Length of every term, by group and name, found by tracing once.

        Raises:
            ConfigError: a term returns something else than a vector or a scalar.
        """
        return {
            name: {t: self._observe(ctx, term, None).shape[0] for t, term in group.terms.items()}
            for name, group in self.groups.items()
        }

    def mirror(
        self, group: str, scene: Scene, sizes: dict[str, int], action: SignedPermutation, commands: CommandManager
    ) -> SignedPermutation:
        """How a concatenated group changes when the robot is mirrored left to right.

        Raises:
            ConfigError: a term does not declare it, or the robot has no such symmetry.
        """
        parts = []
        for name, term in self.groups[group].terms.items():
            kind = getattr(term.func, "mirrors_as", None)
            if kind == "command":
                kind = getattr(commands.terms[parameter(term, "name")].func, "mirrors_as", None)
            if kind is None:
                raise ConfigError(
                    f"{term.path}: algo.symmetry needs to know how it mirrors; decorate it with "
                    "@ksim.mdp.mirror.mirrors_as(...), or set algo.symmetry=none"
                )
            if kind == "action":
                part: SignedPermutation | None = action
            elif kind == "joints":
                part = mirror.of_joints(scene, scene.find_joints(parameter(term, "joints")))
            else:
                part = mirror.of_vector(kind, sizes[name])
            if part is None:
                raise ConfigError(f"{term.path}: its joints do not mirror into each other; set algo.symmetry=none")
            if len(part.index) != sizes[name]:
                raise ConfigError(f"{term.path}: has {sizes[name]} elements; as {kind!r} it mirrors {len(part.index)}")
            scale = np.broadcast_to(1.0 if term.settings.scale is None else term.settings.scale, len(part.index))
            if (scale != scale[part.index]).any():
                raise ConfigError(f"{term.path}.scale: must be the same left and right where algo.symmetry is used")
            parts.append(part)
        return mirror.concatenated(parts)

    def _observe(self, ctx: Context, term: Term, key: PRNGKeyArray | None) -> Float[Array, " n"]:
        value = jnp.atleast_1d(jnp.asarray(call(term, ctx), ctx.qpos.dtype))
        if value.ndim != 1:
            raise ConfigError(f"{term.path}: must return a vector for one env, not an array of shape {value.shape}")
        settings = term.settings
        if settings.noise is not None and key is not None:
            value = apply_noise(settings.noise, value, key)
        if settings.clip is not None:
            value = jnp.clip(value, *settings.clip)
        if settings.scale is not None:
            scale = np.asarray(settings.scale, value.dtype)
            if scale.ndim and len(scale) != len(value):
                raise ConfigError(f"{term.path}.scale: has {len(scale)} factors for {len(value)} elements")
            value = value * scale
        return value


def apply_noise(noise: NoiseCfg, value: Float[Array, " n"], key: PRNGKeyArray) -> Float[Array, " n"]:
    """The value disturbed: `value + x`, `value * x` or `x`, with x drawn for each element."""
    shape, dtype = value.shape, value.dtype
    match noise.type:
        case "constant":
            assert noise.value is not None  # NoiseCfg checks what each type needs
            drawn = jnp.full(shape, noise.value, dtype)
        case "uniform":
            assert noise.low is not None and noise.high is not None
            drawn = jax.random.uniform(key, shape, dtype, noise.low, noise.high)
        case "gaussian":
            assert noise.std is not None
            drawn = (noise.mean or 0.0) + noise.std * jax.random.normal(key, shape, dtype)
    match noise.operation:
        case "add":
            return value + drawn
        case "scale":
            return value * drawn
        case "replace":
            return drawn
