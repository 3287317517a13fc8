"""Which term of a task made a step fail."""

import re
from collections.abc import Iterator

import jax

from ksim.config.words import first_line
from ksim.envs.carry import EnvCarry
from ksim.envs.context import Context
from ksim.envs.env import Env
from ksim.envs.managers.call import call
from ksim.envs.terms import Term
from ksim.envs.tree import env_at, split_keys
from ksim.errors import KsimError

_REASON = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt)\b.*", re.MULTILINE)


def explain(env: Env, carry: EnvCarry, error: Exception) -> str:
    """What went wrong in a compiled step, in a line, with the YAML path of the term where it can be found.

    A compiled program does not know its terms. Here they are called one by one, on the state before the step and on
    that behind its physics.

    Args:
        env: the env.
        carry: before the step.
        error: what the step raised.
    """
    if isinstance(error, KsimError):
        return str(error)
    for state in _states(env, carry):
        for index in range(len(state.envs.episode_step)):
            one = env_at(state, index)
            found = _failing(env, env.context(one, state.shared), one.key)
            if found is not None:
                return found
    return _reason(error)


def _states(env: Env, carry: EnvCarry) -> Iterator[EnvCarry]:
    yield carry
    try:
        _, key_E = split_keys(carry)
        action_Ea = carry.envs.action
        _, ctrl_ESu = env.compute_controls(carry, action_Ea, key_E)
        yield env.simulate(carry, carry, action_Ea, ctrl_ESu)[0]
    except Exception:  # that is the physics' failure, or an action's
        return


def _failing(env: Env, ctx: Context, key: jax.Array) -> str | None:
    """The first term that raises, and what."""
    for term in env.events.terms.values():
        try:
            env.events.fire(term, ctx, key)
        except Exception as error:
            return _told(term, error)
    groups = [group.terms for group in env.observations.groups.values()]
    managers = (env.rewards, env.terminations, env.metrics)
    for terms in (*groups, *(m.terms for m in managers)):
        for term in terms.values():
            try:
                jax.block_until_ready(call(term, ctx)[0])
            except Exception as error:  # a term may raise anything
                return _told(term, error)
    return None


def _told(term: Term, error: Exception) -> str:
    return str(error) if isinstance(error, KsimError) else f"{term.path}: {_reason(error)}"


def _reason(error: Exception) -> str:
    """The line that matters: of a callback, JAX hands on the whole traceback."""
    lines = _REASON.findall(str(error))
    return lines[-1] if lines else f"{type(error).__name__}: {first_line(error)}"
