"""Stable-Baselines3 trains the cart-pole through Gymnasium's vector API; prints the deterministic policy's mean return.

It runs in a virtual environment of its own; see test_sb3.py.
"""

import sys

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from ksim.envs import make
from ksim.envs.api.gymnasium import GymnasiumVectorEnv

# Stable-Baselines3 wants bounded actions. One action unit is 10 N.
OVERRIDES = ["physics=mujoco", "+task.actions.force.clip=[-1,1]"]


class Sb3Env(VecEnv):
    """A Gymnasium vector env with same-step autoreset, as Stable-Baselines3 wants it."""

    def __init__(self, env: GymnasiumVectorEnv):
        self.env = env
        self.render_mode = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self):
        return self.env.reset()[0]

    def step_async(self, actions):
        self.actions = actions

    def step_wait(self):
        obs, reward_E, terminated_E, truncated_E, info = self.env.step(self.actions)
        infos = [{} for _ in range(self.num_envs)]
        for env in np.flatnonzero(terminated_E | truncated_E):
            assert info["_final_obs"][env]
            episode = info["final_info"]["episode"]
            infos[env] = {
                "terminal_observation": info["final_obs"][env],
                "TimeLimit.truncated": bool(truncated_E[env] and not terminated_E[env]),
                "episode": {"r": float(episode["return"][env]), "l": int(episode["length"][env]), "t": 0.0},
            }
        return obs, reward_E, terminated_E | truncated_E, infos

    def close(self):
        self.env.close()

    def get_attr(self, attr_name, indices=None):
        return [getattr(self.env, attr_name)] * self.num_envs

    def set_attr(self, attr_name, value, indices=None):
        raise NotImplementedError

    def env_method(self, method_name, *method_args, indices=None, **method_kwargs):
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False] * self.num_envs


def first_returns(policy: PPO, env: Sb3Env, seed: int) -> np.ndarray:
    """(E,) return of the first episode of each env, from fresh resets."""
    obs, _ = env.env.reset(seed=seed)
    returns = np.full(env.num_envs, np.nan)
    while np.isnan(returns).any():
        action, _ = policy.predict(obs, deterministic=True)
        obs, _, done_E, infos = env.step(action)
        for i in np.flatnonzero(done_E & np.isnan(returns)):
            returns[i] = infos[i]["episode"]["r"]
    return returns


def main(total_steps: int) -> None:
    env = Sb3Env(make("cartpole_balance", num_envs=16, api="gymnasium", group="actor", overrides=OVERRIDES))
    policy = PPO(
        "MlpPolicy", env, n_steps=128, batch_size=512, n_epochs=10, learning_rate=1e-3, gamma=0.98, seed=0, device="cpu"
    )
    policy.learn(total_steps)
    returns = first_returns(policy, env, seed=1000)
    print(f"mean return of {len(returns)} fresh episodes: {returns.mean():.3f}")
    env.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
