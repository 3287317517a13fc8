"""Proximal policy optimization (Schulman et al. 2017, https://arxiv.org/abs/1707.06347), top to bottom.

An iteration collects a rollout, estimates advantages once, makes epochs of minibatch updates, and then updates the
observation statistics, which stay frozen from the rollout to the end of its update.
"""

import dataclasses
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ksim.config.schema import PPOCfg
from ksim.envs.carry import EnvCarry, Obs
from ksim.envs.env import Env
from ksim.envs.symmetry import Symmetry
from ksim.errors import ConfigError
from ksim.rl.gae import gae
from ksim.rl.networks import ActorCritic, make_actor_critic
from ksim.rl.normalizer import Normalizer

Metrics = dict[str, Float[Array, ""]]


class TrainState(eqx.Module):
    """Everything that a training carries from iteration to iteration.

    Attributes:
        net: actor and critic.
        opt_state: the optimizer's.
        learning_rate: () the current one.
        normalizer: observation statistics of the groups `actor` and `critic`.
        env_state, obs: the envs and what they show, groups as `Env.step` returns them.
        policy_key, minibatch_key: random streams; the envs have their own.
        num_iterations: () iterations so far.
    """

    net: ActorCritic
    opt_state: optax.OptState
    learning_rate: Float[Array, ""]
    normalizer: dict[str, Normalizer]
    env_state: EnvCarry
    obs: Obs
    policy_key: PRNGKeyArray
    minibatch_key: PRNGKeyArray
    num_iterations: Int[Array, ""]


class Rollout(eqx.Module):
    """T steps of E envs: each EnvState of the glossary, with what PPO remembers of the policy that made it.

    Attributes:
        actor_obs, critic_obs: normalized, (T, E, n).
        action: (T, E, a).
        reward: (T, E), of the transition that the action made.
        terminated, done: (T, E), likewise.
        mean: (T, E, a) of the policy; log_std: (a,) of the policy; log_prob: (T, E) of the action.
        value, next_value: (T, E) of the observation and of the true next one.
    """

    actor_obs: Float[Array, "T E n"]
    critic_obs: Float[Array, "T E m"]
    action: Float[Array, "T E a"]
    reward: Float[Array, "T E"]
    terminated: Bool[Array, "T E"]
    done: Bool[Array, "T E"]
    mean: Float[Array, "T E a"]
    log_prob: Float[Array, "T E"]
    value: Float[Array, "T E"]
    next_value: Float[Array, "T E"]


class Dataset(eqx.Module):
    """The env states of one update, flat: (D, ...), or (B, ...) in a minibatch."""

    actor_obs: Float[Array, "D n"]
    critic_obs: Float[Array, "D m"]
    action: Float[Array, "D a"]
    mean: Float[Array, "D a"]
    log_prob: Float[Array, " D"]
    advantage: Float[Array, " D"]
    target: Float[Array, " D"]


@dataclass(frozen=True)
class PPO:
    """The algorithm's settings and what they imply for one env.

    Attributes:
        cfg: the settings.
        optimizer: Adam on clipped gradients, without the learning rate.
        symmetry: how the robot mirrors, where networks are equivariant; None else.
    """

    cfg: PPOCfg
    optimizer: optax.GradientTransformation
    symmetry: Symmetry | None

    @classmethod
    def of(cls, cfg: PPOCfg, env: Env) -> "PPO":
        """Settings for an env.

        Raises:
            ConfigError: symmetric networks for a robot or a term without a mirror map; observations that are no vector.
        """
        for group in ("actor", "critic"):
            if group in env.observations.groups and not env.observations.groups[group].settings.concatenate:
                raise ConfigError(f"task.observations.{group}.concatenate: must be true, networks read one vector")
            if cfg.symmetry == "equivariant" and any(width % 2 for width in getattr(cfg, f"{group}_hidden")):
                raise ConfigError(f"algo.{group}_hidden: widths must be even where algo.symmetry is equivariant")
        optimizer = optax.chain(optax.clip_by_global_norm(cfg.max_grad_norm), optax.scale_by_adam(eps=1e-5))
        symmetry = env.symmetry(("actor", "critic")) if cfg.symmetry == "equivariant" else None
        return cls(cfg, optimizer, symmetry)

    def init_policy(self, env: Env, key: PRNGKeyArray) -> tuple[ActorCritic, dict[str, Normalizer]]:
        """Fresh networks for an env, and observation statistics that change nothing yet."""
        sizes = {group: sum(env.obs_sizes[group].values()) for group in ("actor", "critic")}
        net = make_actor_critic(
            self.cfg, sizes["actor"], sizes["critic"], env.action_size, symmetry=self.symmetry, key=key
        )
        return net, {group: Normalizer.initial(size) for group, size in sizes.items()}


def init_train_state(env: Env, ppo: PPO, key: PRNGKeyArray) -> TrainState:
    """Fresh networks and fresh envs.

    Args:
        env: the env.
        ppo: the settings.
        key: random key; every purpose gets a stream of its own.
    """
    net_key, reset_key, policy_key, minibatch_key = jax.random.split(key, 4)
    net, normalizer = ppo.init_policy(env, net_key)
    env_state, obs = env.reset(reset_key, ppo.cfg.num_envs, random_age=True)
    return TrainState(
        net=net,
        opt_state=ppo.optimizer.init(eqx.filter(net, eqx.is_array)),
        learning_rate=jnp.asarray(ppo.cfg.learning_rate, jnp.float32),
        normalizer=normalizer,
        env_state=env_state,
        obs=obs,
        policy_key=policy_key,
        minibatch_key=minibatch_key,
        num_iterations=jnp.zeros((), jnp.int32),
    )


def train_chunk(env: Env, ppo: PPO, state: TrainState, num_iterations: int) -> tuple[TrainState, Metrics]:
    """Several iterations as one program; only scalars leave it.

    Returns:
        The next state; the env's log summed over the chunk, and the means of the update's metrics.
    """

    def iterate(state: TrainState, _: None) -> tuple[TrainState, tuple[Metrics, Metrics]]:
        state, log, metrics = train_iteration(env, ppo, state)
        return state, (log, metrics)

    state, (log, metrics) = jax.lax.scan(iterate, state, None, length=num_iterations)
    log = {f"env/{name}": jnp.sum(x) for name, x in log.items()}
    return state, log | {f"ppo/{name}": jnp.mean(x) for name, x in metrics.items()}


def train_iteration(env: Env, ppo: PPO, state: TrainState) -> tuple[TrainState, Metrics, Metrics]:
    """One iteration: a rollout of T steps in E envs, advantages once, epochs of minibatch updates.

    Returns:
        The next state, sums of the env's log over the rollout, and metrics of the update.
    """
    cfg = ppo.cfg
    state, rollout_TE, log, seen = collect(env, ppo, state)
    advantage_TE, target_TE = gae(
        rollout_TE.reward,
        rollout_TE.value,
        rollout_TE.next_value,
        rollout_TE.terminated,
        rollout_TE.done,
        gamma=cfg.gamma,
        lam=cfg.lam,
    )
    dataset_D = flatten(rollout_TE, advantage_TE, target_TE)
    state, metrics = update(ppo, state, dataset_D)
    normalizer = {
        group: normalizer.update(seen[group], ppo.symmetry.obs[group] if ppo.symmetry else None)
        for group, normalizer in state.normalizer.items()
    }
    state = dataclasses.replace(state, normalizer=normalizer, num_iterations=state.num_iterations + 1)
    explained = 1.0 - jnp.var(target_TE - rollout_TE.value) / jnp.maximum(jnp.var(target_TE), 1e-8)
    return state, log, metrics | {"explained_variance": explained, "reward": jnp.mean(rollout_TE.reward)}


def collect(env: Env, ppo: PPO, state: TrainState) -> tuple[TrainState, Rollout, Metrics, dict[str, Array]]:
    """A rollout of the stochastic policy.

    Returns:
        The state with the envs advanced, the rollout, sums of the env's log, and the raw observations by group.
    """
    net, normalizer = state.net, state.normalizer
    policy_key, noise_key = jax.random.split(state.policy_key)

    def step(carry: tuple[EnvCarry, Obs], key: PRNGKeyArray) -> tuple[tuple[EnvCarry, Obs], tuple]:
        env_state, obs = carry
        actor_obs = normalizer["actor"](obs["actor"])
        critic_obs = normalizer["critic"](obs["critic"])
        distribution, _ = net.policy(actor_obs)
        action_Ea = distribution.sample(key)
        env_state, out = env.step(env_state, action_Ea)
        rollout_E = {
            "actor_obs": actor_obs,
            "critic_obs": critic_obs,
            "action": action_Ea,
            "reward": out.reward,
            # The end of a finite horizon is part of the task: there is no value after it.
            "terminated": out.done if env.cfg.is_finite_horizon else out.terminated,
            "done": out.done,
            "mean": distribution.mean,
            "log_prob": distribution.log_prob(action_Ea),
        }
        # The true next observation, not the one after a reset.
        next_obs = normalizer["critic"](out.terminal_obs["critic"])
        seen = {"actor": obs["actor"], "critic": obs["critic"]}
        return (env_state, out.obs), (rollout_E, next_obs, out.log, seen)

    keys_T = jax.random.split(noise_key, ppo.cfg.rollout_length)
    carry, (rollout_TE, next_obs_TE, log_T, seen) = jax.lax.scan(step, (state.env_state, state.obs), keys_T)
    env_state, obs = carry
    state = dataclasses.replace(state, env_state=env_state, obs=obs, policy_key=policy_key)
    # Values after the rollout, all at once: one large product is faster than many small ones.
    rollout = Rollout(**rollout_TE, value=net.value(rollout_TE["critic_obs"]), next_value=net.value(next_obs_TE))
    return state, rollout, {name: jnp.sum(x) for name, x in log_T.items()}, seen


def flatten(rollout_TE: Rollout, advantage_TE: Float[Array, "T E"], target_TE: Float[Array, "T E"]) -> Dataset:
    """The rollout as a dataset: time and env axes become one, D = T E."""
    dataset_TE = Dataset(
        actor_obs=rollout_TE.actor_obs,
        critic_obs=rollout_TE.critic_obs,
        action=rollout_TE.action,
        mean=rollout_TE.mean,
        log_prob=rollout_TE.log_prob,
        advantage=advantage_TE,
        target=target_TE,
    )
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), dataset_TE)


def update(ppo: PPO, state: TrainState, dataset_D: Dataset) -> tuple[TrainState, Metrics]:
    """Epochs of minibatch updates; each epoch sees every env state once, in a fresh random order.

    Returns:
        The state with new networks, optimizer and learning rate, and the means of the minibatches' metrics.
    """
    cfg = ppo.cfg
    minibatch_key, shuffle_key = jax.random.split(state.minibatch_key)
    # The rollout's policy: its standard deviation does not depend on the state, so one vector says it all.
    target_kl = desired_kl(cfg, state.num_iterations)
    old_log_std = state.net.policy(dataset_D.actor_obs[:1])[0].log_std[0]

    def minibatch(carry: tuple, index_B: Int[Array, " B"]) -> tuple[tuple, Metrics]:
        net, opt_state, learning_rate = carry
        batch_B = jax.tree.map(lambda x: x[index_B], dataset_D)
        grads, metrics = eqx.filter_grad(loss, has_aux=True)(net, batch_B, old_log_std, cfg)
        if cfg.schedule == "adaptive":
            learning_rate = adapt_learning_rate(learning_rate, metrics["kl"], target_kl, cfg)
        direction, opt_state = ppo.optimizer.update(grads, opt_state)
        net = eqx.apply_updates(net, jax.tree.map(lambda d: -learning_rate * d, direction))
        metrics |= {"grad_norm": optax.tree.norm(grads), "learning_rate": learning_rate}
        return (net, opt_state, learning_rate), metrics

    def epoch(carry: tuple, key: PRNGKeyArray) -> tuple[tuple, Metrics]:
        order_D = jax.random.permutation(key, cfg.dataset_size)
        return jax.lax.scan(minibatch, carry, order_D.reshape(cfg.num_minibatches, -1))

    carry = (state.net, state.opt_state, state.learning_rate)
    carry, metrics = jax.lax.scan(epoch, carry, jax.random.split(shuffle_key, cfg.num_learning_epochs))
    net, opt_state, learning_rate = carry
    state = dataclasses.replace(
        state, net=net, opt_state=opt_state, learning_rate=learning_rate, minibatch_key=minibatch_key
    )
    first_ratio_error = metrics.pop("ratio_error")[0, 0]
    return state, {name: jnp.mean(x) for name, x in metrics.items()} | {"first_ratio_error": first_ratio_error}


def loss(
    net: ActorCritic, batch_B: Dataset, old_log_std: Float[Array, " a"], cfg: PPOCfg
) -> tuple[Float[Array, ""], Metrics]:
    """The clipped surrogate objective, the squared value error and the entropy bonus, to be minimized.

    L = -E[min(rho A, clip(rho, 1 - eps, 1 + eps) A)] + c_v E[(V - R)^2] - c_e H (Schulman et al. 2017, eq. 7 and 9),
    with advantages standardized over the minibatch.
    """
    distribution, _ = net.policy(batch_B.actor_obs)
    old = dataclasses.replace(
        distribution, mean=batch_B.mean, log_std=jnp.broadcast_to(old_log_std, batch_B.mean.shape)
    )
    log_ratio_B = distribution.log_prob(batch_B.action) - batch_B.log_prob
    ratio_B = jnp.exp(log_ratio_B)
    advantage_B = (batch_B.advantage - jnp.mean(batch_B.advantage)) / (jnp.std(batch_B.advantage) + 1e-8)
    clipped_B = jnp.clip(ratio_B, 1.0 - cfg.clip, 1.0 + cfg.clip)
    policy_loss = -jnp.mean(jnp.minimum(ratio_B * advantage_B, clipped_B * advantage_B))
    value_loss = jnp.mean(jnp.square(net.value(batch_B.critic_obs) - batch_B.target))
    entropy = jnp.mean(distribution.entropy())
    total = policy_loss + cfg.value_coef * value_loss - cfg.entropy_coef * entropy
    return total, {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "kl": jnp.mean(jax.lax.stop_gradient(old.kl(distribution))),
        "clip_fraction": jnp.mean(jnp.abs(ratio_B - 1.0) > cfg.clip),
        "ratio_error": jnp.max(jnp.abs(ratio_B - 1.0)),
        "action_std": jnp.mean(jnp.exp(distribution.log_std)),
    }


def desired_kl(cfg: PPOCfg, num_iterations: Int[Array, ""]) -> Float[Array, ""]:
    """The KL divergence that updates aim at after some iterations, in nats: constant, or falling with the steps."""
    if cfg.desired_kl_decay_steps is None:
        return jnp.asarray(cfg.desired_kl, jnp.float32)
    return cfg.desired_kl / (1.0 + num_iterations * (cfg.dataset_size / cfg.desired_kl_decay_steps))


def adapt_learning_rate(
    learning_rate: Float[Array, ""], kl: Float[Array, ""], target_kl: Float[Array, ""], cfg: PPOCfg
) -> Float[Array, ""]:
    """Slower where the policy moved more than twice the desired KL divergence, faster where less than half.

    Schulman et al. 2017, section 4, applied to the learning rate as in Rudin et al. 2021,
    https://arxiv.org/abs/2109.11978, appendix. The first minibatch of an update measures a KL of zero: it is skipped.
    """
    slower = jnp.maximum(learning_rate / 1.5, cfg.min_learning_rate)
    faster = jnp.minimum(learning_rate * 1.5, cfg.max_learning_rate)
    rate = jnp.where(kl > 2.0 * target_kl, slower, learning_rate)
    return jnp.where((kl < 0.5 * target_kl) & (kl > 1e-9), faster, rate)
