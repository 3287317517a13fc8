"""The env as a `gymnasium.vector.VectorEnv`: NumPy in and out, everything else is `ManagerBasedRlEnv`'s."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ksim.config.words import hint, listed
from ksim.envs.api.manager_based import ManagerBasedRlEnv
from ksim.errors import ConfigError, KsimError
from ksim.physics.base import float_dtype

RESET_MASK = "reset_mask"


class GymnasiumVectorEnv(VectorEnv[Any, np.ndarray, np.ndarray]):
    """E envs behind Gymnasium's vector API (https://gymnasium.farama.org/api/vector/).

    Autoreset is same-step: a done env's observation is that of its fresh episode, and `info["final_obs"]` holds its
    last one, an object array with None for the other envs, `info["final_info"]["episode"]` the numbers of its
    episode (`return`, `length` in env steps, `reward/<term>` per second, ...), each (E,), zero in the other envs.
    The boolean arrays `_final_obs`, `_final_info`, ... beside them say which envs have one. There are none in a step
    that ends no episode.

    Actions are unbounded, unless the task clips them (`clip`): then that is their space.
    """

    def __init__(self, env: ManagerBasedRlEnv, group: str | None = None):
        """Wrap an env.

        Args:
            env: the env; it is this one's from now on.
            group: the observation group that is seen, such as `actor`; None for a dict of all.

        Raises:
            ConfigError: there is no such group.
        """
        self.env = env
        self.num_envs = env.num_envs
        self.render_mode = env._render_mode
        self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        functional = env._env
        groups: dict[str, spaces.Space] = {}
        for name, sizes in functional.obs_sizes.items():
            if functional.observations.groups[name].settings.concatenate:
                groups[name] = _box(sum(sizes.values()))
            else:
                groups[name] = spaces.Dict({term: _box(size) for term, size in sizes.items()})
        if group is not None and group not in groups:
            raise ConfigError(f"group: there is no {group!r}{hint(group, groups)}; there are {listed(groups)}")
        self._group = group
        self.single_observation_space = spaces.Dict(groups) if group is None else groups[group]
        self.single_action_space = _action_space(env)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Fresh episodes.

        Args:
            seed: as in `ManagerBasedRlEnv.reset`: each env has a random stream of its own that follows from it.
            options: `reset_mask`, (num_envs,) of bool, resets these envs alone; the others go on undisturbed.

        Returns:
            The observations of all envs, and no info.

        Raises:
            KsimError: an option does not exist or fit.
        """
        env_ids = self._env_ids(options or {})
        obs, _ = self.env.reset(seed=seed, env_ids=env_ids)
        super().reset(seed=seed)
        return self._observation(obs), {}

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One env step in all envs.

        Args:
            actions: (num_envs, a).

        Returns:
            Observations, rewards, terminations, truncations and infos, as the class describes them.
        """
        obs, *others, extras = self.env.step(actions)
        reward_E, terminated_E, truncated_E = (np.array(x) for x in others)
        done_E = terminated_E | truncated_E
        infos = self._final(done_E, extras) if done_E.any() else {}
        return self._observation(obs), reward_E, terminated_E, truncated_E, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The picture of the first env, alone in a tuple; None without a render mode."""
        picture = self.env.render()
        return None if picture is None else (picture,)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the env."""
        self.env.close()

    def _observation(self, obs: Mapping[str, Any]) -> Any:
        """What is seen of the observations, in arrays of the caller's own."""
        return jax.tree.map(np.array, dict(obs) if self._group is None else obs[self._group])

    def _final(self, done_E: np.ndarray, extras: Mapping[str, Any]) -> dict[str, Any]:
        """What the step that ends their episode says of the envs that are done."""
        last = self._observation(extras["terminal_obs"])
        final_obs = np.full(self.num_envs, None, dtype=object)
        for env in np.flatnonzero(done_E):
            final_obs[env] = jax.tree.map(lambda x, env=env: x[env], last)
        episode: dict[str, np.ndarray] = {}
        for name, value_E in extras["episode"].items():
            value_E = np.asarray(value_E)
            episode |= {name: np.where(done_E, value_E, np.zeros_like(value_E)), f"_{name}": done_E.copy()}
        final_info = {"episode": episode, "_episode": done_E.copy()}
        return {
            "final_obs": final_obs,
            "_final_obs": done_E.copy(),
            "final_info": final_info,
            "_final_info": done_E.copy(),
        }

    def _env_ids(self, options: Mapping[str, Any]) -> np.ndarray | None:
        for name in options:
            if name != RESET_MASK:
                raise KsimError(f"reset: there is no option {name!r}; there is {RESET_MASK!r}")
        mask_E = options.get(RESET_MASK)
        if mask_E is None:
            return None
        if not (isinstance(mask_E, np.ndarray) and mask_E.dtype == bool and mask_E.shape == (self.num_envs,)):
            raise KsimError(f"reset: {RESET_MASK!r} must be a NumPy array of {self.num_envs} bools")
        return np.flatnonzero(mask_E)


def _box(size: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (size,), float_dtype().type)


def _action_space(env: ManagerBasedRlEnv) -> spaces.Box:
    """The actions of one env, bounded where the task clips them."""
    manager = env._env.actions
    low, high = np.full(manager.size, -np.inf), np.full(manager.size, np.inf)
    start = 0
    for name, action in manager.actions.items():
        stop = start + len(action.joints_a)
        clip = manager.terms[name].settings.clip
        if clip is not None:
            low[start:stop], high[start:stop] = clip
        start = stop
    dtype = float_dtype().type
    return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)
