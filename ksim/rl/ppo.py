"""Proximal policy optimization (Schulman et al. 2017, https://arxiv.org/abs/1707.06347), top to bottom.

An iteration collects a rollout, estimates advantages once, makes epochs of minibatch updates, and then updates the
observation statistics, which stay frozen from the rollout to the end of its update.
"""

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ksim.config.fields import setting
from ksim.envs.carry import EnvCarry, Obs
from ksim.envs.env import Env
from ksim.envs.symmetry import Symmetry
from ksim.errors import ConfigError
from ksim.rl.actor_critic import ActorCritic, GaussianPolicy, Model, make_model
from ksim.rl.algorithm import Algorithm, Metrics, env_metrics
from ksim.rl.distribution import Normal
from ksim.rl.gae import gae
from ksim.rl.networks import ACTIVATIONS
from ksim.rl.rollout import Trajectory, rollout
from ksim.system import mesh

GROUPS = ("actor", "critic")  # the observations that the networks read


class PPOState(eqx.Module):
    """Everything that a training carries from iteration to iteration.

    Attributes:
        model: actor and critic with their observation statistics.
        opt_state: the optimizer's.
        learning_rate: () the current one.
        env_carry, obs: the envs and what they show, groups as `Env.step` returns them.
        policy_key, minibatch_key: random streams; the envs have their own.
        num_iterations: () iterations so far.
    """

    model: Model
    opt_state: optax.OptState
    learning_rate: Float[Array, ""]
    env_carry: EnvCarry
    obs: Obs
    policy_key: PRNGKeyArray
    minibatch_key: PRNGKeyArray
    num_iterations: Int[Array, ""]


class Dataset(eqx.Module):
    """The env states of one update, flat: (D, ...), or (B, ...) in a minibatch.

    Attributes:
        obs: raw, by group.
        action: as it was taken.
        distribution: the policy's that took it; log_prob of the action by it.
        advantage: A(s, a).
        target: of the value function.
    """

    obs: Obs
    action: Float[Array, "D a"]
    distribution: Normal
    log_prob: Float[Array, " D"]
    advantage: Float[Array, " D"]
    target: Float[Array, " D"]


@dataclass(frozen=True, kw_only=True)
class PPO(Algorithm):
    """The algorithm and its settings. E, B, D, T are the glossary's dimension names."""

    num_env_states_per_minibatch: int = setting(4096, above=0)  # env states of one gradient step (B)
    num_minibatches: int = setting(8, above=0)  # minibatches in a dataset; dataset D = B * num_minibatches
    num_learning_epochs: int = setting(5, above=0)  # full passes over each dataset
    gamma: float = setting(0.98, above=0, at_most=1, traceable=True)  # discount of one env step
    lam: float = setting(0.95, at_least=0, at_most=1, traceable=True)  # GAE's lambda
    # Largest change of the probability ratio that is still rewarded.
    clip: float = setting(0.2, above=0, traceable=True)
    value_coef: float = setting(1.0, at_least=0, traceable=True)  # weight of the value loss
    entropy_coef: float = setting(0.0, at_least=0, traceable=True)  # weight of the entropy bonus
    # Adam's step size; the first one where the schedule is adaptive.
    learning_rate: float = setting(5e-4, above=0, traceable=True)
    # Adaptive: the learning rate follows the measured KL divergence.
    schedule: str = setting("adaptive", choices=("adaptive", "fixed"))
    desired_kl: float = setting(0.02, above=0, traceable=True)  # KL divergence of an update that it aims at, in nats
    # The desired KL falls as 1 / (1 + steps / this), env steps: large updates first, fine ones later; None: constant.
    # It depends on the steps done, not on total_steps, so a resumed training may go on for longer.
    desired_kl_decay_steps: float | None = setting(None, above=0, traceable=True)
    min_learning_rate: float = setting(1e-5, above=0, traceable=True)  # lower bound of the adaptive learning rate
    max_learning_rate: float = setting(1e-2, above=0, traceable=True)  # upper bound of the adaptive learning rate
    max_grad_norm: float = setting(1.0, above=0, traceable=True)  # gradients are scaled down to this global norm
    init_std: float = setting(0.35, above=0)  # first standard deviation of every action element, in action units
    # Standard deviations stay below init_std * exp(-steps / this), env steps, until that is final_std, so that the
    # policy learns to act without the noise that an evaluation leaves out; None: they are learned alone.
    std_decay_steps: float | None = setting(None, above=0, traceable=True)
    final_std: float = setting(0.02, above=0, traceable=True)  # see std_decay_steps; in action units
    actor_hidden: tuple[int, ...] = setting((256, 128, 128), above=0)  # widths of the actor's hidden layers
    critic_hidden: tuple[int, ...] = setting((256, 128, 128), above=0)  # widths of the critic's hidden layers
    activation: str = setting("elu", choices=tuple(ACTIVATIONS))
    # What is made of the robot's left-right mirror map. Equivariant: networks that commute with it; augment: each
    # minibatch also holds the mirror images of its env states.
    symmetry: str = setting("none", choices=("none", "augment", "equivariant"))

    @property
    def dataset_size(self) -> int:
        """Env states that one update trains on (D)."""
        return self.num_env_states_per_minibatch * self.num_minibatches

    @property
    def split_sizes(self) -> dict[str, int]:
        """See `Algorithm.split_sizes`: envs, and the env states of each minibatch."""
        names = ("num_envs", "num_env_states_per_minibatch")
        return {name: getattr(self, name) for name in names}

    @property
    def steps_per_iteration(self) -> int:
        """See `Algorithm.steps_per_iteration`: D."""
        return self.dataset_size

    @property
    def rollout_length(self) -> int:
        """Env steps in a rollout (T = D / E), whole."""
        return self.dataset_size // self.num_envs

    @cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam on clipped gradients, without the learning rate."""
        return optax.chain(optax.clip_by_global_norm(self.max_grad_norm), optax.scale_by_adam(eps=1e-5))

    def check(self, env: Env) -> None:
        """See `Algorithm.check`: groups of observations that are vectors; a mirror map where symmetry is used."""
        for group in GROUPS:
            if group not in env.obs_sizes:
                raise ConfigError(f"task.observations: the group {group!r} is missing")
            if not env.is_vector(group):
                raise ConfigError(f"task.observations.{group}.concatenate: must be true, networks read one vector")
        self.mirror_map(env)

    def mirror_map(self, env: Env) -> Symmetry | None:
        """How the robot mirrors; None where no symmetry is used.

        Raises:
            ConfigError: the robot or a term has no mirror map.
        """
        return None if self.symmetry == "none" else env.symmetry(GROUPS)

    def init(self, env: Env, key: PRNGKeyArray) -> PPOState:
        """See `Algorithm.init`; every purpose gets a random stream of its own."""
        net_key, reset_key, policy_key, minibatch_key = jax.random.split(key, 4)
        model = make_model(
            {group: sum(env.obs_sizes[group].values()) for group in GROUPS},
            env.action_size,
            hidden={"actor": self.actor_hidden, "critic": self.critic_hidden},
            activation=self.activation,
            init_std=self.init_std,
            symmetry=self.mirror_map(env) if self.symmetry == "equivariant" else None,
            key=net_key,
        )
        env_carry, obs = env.reset(reset_key, self.num_envs, random_age=True)
        return PPOState(
            model=model,
            opt_state=self.optimizer.init(eqx.filter(model.net, eqx.is_array)),
            learning_rate=jnp.asarray(self.learning_rate, jnp.float32),
            env_carry=env_carry,
            obs=obs,
            policy_key=policy_key,
            minibatch_key=minibatch_key,
            num_iterations=jnp.zeros((), jnp.int32),
        )

    def iterate(self, env: Env, state: PPOState) -> tuple[PPOState, Metrics]:
        """One iteration: a rollout of T steps in E envs, advantages once, epochs of minibatch updates."""
        symmetry = self.mirror_map(env)
        state, trajectory_TE, log = collect(env, self, state)
        dataset_D, value_TE = prepare(self, state.model, trajectory_TE)
        state, metrics = update(self, state, dataset_D, symmetry)
        normalizer = {
            group: normalizer.update(mesh.split(dataset_D.obs[group]), symmetry.obs[group] if symmetry else None)
            for group, normalizer in state.model.normalizer.items()
        }
        num_iterations = state.num_iterations + 1
        net = dataclasses.replace(state.model.net, log_std=limited(self, state.model.net.log_std, num_iterations))
        model = dataclasses.replace(state.model, net=net, normalizer=normalizer)
        state = dataclasses.replace(state, model=model, num_iterations=num_iterations)
        target_TE = dataset_D.target.reshape(value_TE.shape)
        explained = 1.0 - jnp.var(target_TE - value_TE) / jnp.maximum(jnp.var(target_TE), 1e-8)
        metrics |= {"explained_variance": explained, "reward": jnp.mean(trajectory_TE.reward)}
        return state, env_metrics(log) | {f"ppo/{name}": x for name, x in metrics.items()}

    def policy(self, state: PPOState) -> GaussianPolicy:
        """See `Algorithm.policy`."""
        return state.model.policy

    def __post_init__(self) -> None:
        if self.schedule == "adaptive" and not self.min_learning_rate <= self.learning_rate <= self.max_learning_rate:
            raise ValueError(
                f"learning_rate = {self.learning_rate} is not between min_learning_rate = {self.min_learning_rate}"
                f" and max_learning_rate = {self.max_learning_rate}"
            )
        for group in GROUPS:
            if self.symmetry == "equivariant" and any(width % 2 for width in getattr(self, f"{group}_hidden")):
                raise ValueError(f"{group}_hidden: widths must be even where symmetry is equivariant")
        if self.dataset_size % self.num_envs:
            # The next dataset that both the envs and the minibatches divide.
            unit = math.lcm(self.num_envs, self.num_minibatches)
            dataset = math.ceil(self.dataset_size / unit) * unit
            raise ValueError(
                f"num_env_states_per_minibatch x num_minibatches = {self.dataset_size} is not a multiple of num_envs"
                f" = {self.num_envs}; {dataset} would be"
                f" (algo.num_env_states_per_minibatch={dataset // self.num_minibatches})"
            )


def collect(env: Env, ppo: PPO, state: PPOState) -> tuple[PPOState, Trajectory, Metrics]:
    """A rollout of the stochastic policy: the state with the envs advanced, the rollout, sums of the env's log."""
    policy_key, noise_key = jax.random.split(state.policy_key)
    env_carry, obs, _, trajectory_TE, log = rollout(
        env, state.model.policy, state.env_carry, state.obs, (), noise_key, ppo.rollout_length
    )
    state = dataclasses.replace(state, env_carry=env_carry, obs=obs, policy_key=policy_key)
    return state, mesh.split(trajectory_TE, axis=1), log


def prepare(ppo: PPO, model: Model, trajectory_TE: Trajectory) -> tuple[Dataset, Float[Array, "T E"]]:
    """The dataset of a rollout, time and env axes made one (D = T E), and the values of its states.

    Values are computed after the rollout, all at once: one large product is faster than many small ones.
    """
    value_TE = model.value(trajectory_TE.obs["critic"])
    advantage_TE, target_TE = gae(
        trajectory_TE.reward,
        value_TE,
        model.value(trajectory_TE.next_obs["critic"]),
        trajectory_TE.terminated,
        trajectory_TE.done,
        gamma=ppo.gamma,
        lam=ppo.lam,
    )
    distribution = trajectory_TE.distribution
    assert isinstance(distribution, Normal)
    dataset_TE = Dataset(
        obs={group: trajectory_TE.obs[group] for group in GROUPS},
        action=trajectory_TE.action,
        distribution=distribution,
        log_prob=distribution.log_prob(trajectory_TE.action),
        advantage=advantage_TE,
        target=target_TE,
    )
    # Minibatches are drawn from all of it, wherever it was made.
    dataset_D = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), mesh.whole(dataset_TE))
    return mesh.whole(dataset_D), value_TE


def update(ppo: PPO, state: PPOState, dataset_D: Dataset, symmetry: Symmetry | None = None) -> tuple[PPOState, Metrics]:
    """Epochs of minibatch updates; each epoch sees every env state once, in a fresh random order.

    Args:
        ppo: the settings.
        state: before the update.
        dataset_D: of the rollout.
        symmetry: how the robot mirrors, where the data are to be augmented.

    Returns:
        The state with new networks, optimizer and learning rate, and the means of the minibatches' metrics.
    """
    minibatch_key, shuffle_key = jax.random.split(state.minibatch_key)
    target_kl = desired_kl(ppo, state.num_iterations)

    def minibatch(carry: tuple, step: tuple[Int[Array, " B"], Bool[Array, ""]]) -> tuple[tuple, Metrics]:
        net, opt_state, learning_rate = carry
        index_B, is_first = step
        index_B = mesh.split(index_B)
        batch_B = mesh.split(jax.tree.map(lambda x: x[index_B], dataset_D))
        images_B = mirrored(batch_B, symmetry) if symmetry is not None and ppo.symmetry == "augment" else None
        grads, metrics = eqx.filter_grad(loss, has_aux=True)(net, state.model, batch_B, images_B, ppo)
        if ppo.schedule == "adaptive":
            # The first minibatch of an update measures a KL of zero: it says nothing.
            adapted = adapt_learning_rate(learning_rate, metrics["kl"], target_kl, ppo)
            learning_rate = jnp.where(is_first, learning_rate, adapted)
        direction, opt_state = ppo.optimizer.update(grads, opt_state)
        net = eqx.apply_updates(net, jax.tree.map(lambda d: -learning_rate * d, direction))
        metrics |= {"grad_norm": optax.tree.norm(grads), "learning_rate": learning_rate}
        return (net, opt_state, learning_rate), metrics

    def epoch(carry: tuple, step: tuple[PRNGKeyArray, Bool[Array, ""]]) -> tuple[tuple, Metrics]:
        key, is_first = step
        order_D = jax.random.permutation(key, ppo.dataset_size)
        firsts = is_first & (jnp.arange(ppo.num_minibatches) == 0)
        return jax.lax.scan(minibatch, carry, (order_D.reshape(ppo.num_minibatches, -1), firsts))

    carry = (state.model.net, state.opt_state, state.learning_rate)
    epochs = (jax.random.split(shuffle_key, ppo.num_learning_epochs), jnp.arange(ppo.num_learning_epochs) == 0)
    (net, opt_state, learning_rate), metrics = jax.lax.scan(epoch, carry, epochs)
    state = dataclasses.replace(
        state,
        model=dataclasses.replace(state.model, net=net),
        opt_state=opt_state,
        learning_rate=learning_rate,
        minibatch_key=minibatch_key,
    )
    first_ratio_error = metrics.pop("ratio_error")[0, 0]
    return state, {name: jnp.mean(x) for name, x in metrics.items()} | {"first_ratio_error": first_ratio_error}


def mirrored(batch_B: Dataset, symmetry: Symmetry) -> Dataset:
    """The mirror images of env states.

    An image counts as drawn with the probability of its original, as if the policy that acted had been symmetric
    (Mittal et al. 2024, https://arxiv.org/abs/2403.04359).
    """
    return dataclasses.replace(
        batch_B,
        obs={group: symmetry.obs[group](obs) for group, obs in batch_B.obs.items()},
        action=symmetry.action(batch_B.action),
        distribution=batch_B.distribution.mirrored(symmetry.action),
    )


def loss(
    net: ActorCritic, model: Model, batch_B: Dataset, images_B: Dataset | None, ppo: PPO
) -> tuple[Float[Array, ""], Metrics]:
    """The clipped surrogate objective, the squared value error and the entropy bonus, to be minimized.

    L = -E[min(rho A, clip(rho, 1 - eps, 1 + eps) A)] + c_v E[(V - R)^2] - c_e H (Schulman et al. 2017, eq. 7 and 9),
    with advantages standardized over the minibatch.

    Args:
        net: what is differentiated.
        model: the rollout's, whose observation statistics are frozen.
        batch_B: the minibatch.
        images_B: its mirror images, which count as much; None for none.
        ppo: the settings.
    """
    model = dataclasses.replace(model, net=net)
    standardized_B = (batch_B.advantage - jnp.mean(batch_B.advantage)) / (jnp.std(batch_B.advantage) + 1e-8)

    def terms(batch_B: Dataset) -> tuple[Float[Array, ""], Float[Array, ""], Metrics]:
        distribution, _ = model.policy(batch_B.obs["actor"])
        ratio_B = jnp.exp(distribution.log_prob(batch_B.action) - batch_B.log_prob)
        clipped_B = jnp.clip(ratio_B, 1.0 - ppo.clip, 1.0 + ppo.clip)
        policy_loss = -jnp.mean(jnp.minimum(ratio_B * standardized_B, clipped_B * standardized_B))
        value_loss = jnp.mean(jnp.square(model.value(batch_B.obs["critic"]) - batch_B.target))
        return (
            policy_loss,
            value_loss,
            {
                "entropy": jnp.mean(distribution.entropy()),
                "kl": jnp.mean(jax.lax.stop_gradient(batch_B.distribution.kl(distribution))),
                "clip_fraction": jnp.mean(jnp.abs(ratio_B - 1.0) > ppo.clip),
                "ratio_error": jnp.max(jnp.abs(ratio_B - 1.0)),
                "action_std": jnp.mean(jnp.exp(distribution.log_std)),
            },
        )

    policy_loss, value_loss, metrics = terms(batch_B)
    if images_B is not None:
        of_images = terms(images_B)
        policy_loss, value_loss = 0.5 * (policy_loss + of_images[0]), 0.5 * (value_loss + of_images[1])
    total = policy_loss + ppo.value_coef * value_loss - ppo.entropy_coef * metrics["entropy"]
    return total, metrics | {"policy_loss": policy_loss, "value_loss": value_loss}


def desired_kl(ppo: PPO, num_iterations: Int[Array, ""]) -> Float[Array, ""]:
    """The KL divergence that updates aim at after some iterations, in nats: constant, or falling with the steps."""
    if ppo.desired_kl_decay_steps is None:
        return jnp.asarray(ppo.desired_kl, jnp.float32)
    return ppo.desired_kl / (1.0 + num_iterations * (ppo.dataset_size / ppo.desired_kl_decay_steps))


def limited(ppo: PPO, log_std: Float[Array, " a"], num_iterations: Int[Array, ""]) -> Float[Array, " a"]:
    """Logarithms of standard deviations, none above what `std_decay_steps` allows after some iterations."""
    if ppo.std_decay_steps is None:
        return log_std
    falling = ppo.init_std * jnp.exp(-num_iterations * (ppo.dataset_size / ppo.std_decay_steps))
    return jnp.minimum(log_std, jnp.log(jnp.maximum(falling, ppo.final_std)))


def adapt_learning_rate(
    learning_rate: Float[Array, ""], kl: Float[Array, ""], target_kl: Float[Array, ""], ppo: PPO
) -> Float[Array, ""]:
    """Slower where the policy moved more than twice the desired KL divergence, faster where less than half.

    Schulman et al. 2017, section 4, applied to the learning rate as in Rudin et al. 2021,
    https://arxiv.org/abs/2109.11978, appendix.
    """
    slower = jnp.maximum(learning_rate / 1.5, ppo.min_learning_rate)
    faster = jnp.minimum(learning_rate * 1.5, ppo.max_learning_rate)
    rate = jnp.where(kl > 2.0 * target_kl, slower, learning_rate)
    return jnp.where(kl < 0.5 * target_kl, faster, rate)
