"""A training whose numbers are not finite any more ends, says what broke, and keeps what was good."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.runs import CHUNK, fresh

from ksim.store import checkpoint, metrics, status
from ksim.store.run_dir import RunDir
from ksim.training.watch import TrainingBroke, check_finite

# An observation that is no number from the 17th env step of the training on: in the third chunk of 8 steps.
TERM = """
import jax.numpy as jnp

def grows(ctx):
    return jnp.where(ctx.curriculum("steps") < 16.5, ctx.joint_pos[:1], jnp.nan)
"""
BREAKS = (
    "+task.curriculum.steps={_target_: ksim.mdp.curriculum.linear, start: 0.0, end: 100.0, num_steps: 100}",
    "+task.observations.critic.terms.grows={_target_: grows.grows}",
    "checkpoint.every_s=1e-6",
    "checkpoint.keep=9",
)


def broken(tmp_path, *overrides: str) -> RunDir:
    """A run that was to train for six chunks; raises what `train` raises."""
    (tmp_path / "grows.py").write_text(TERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        return fresh(tmp_path, "runs", 6, *BREAKS, *overrides)


def test_it_ends_as_failed_and_keeps_the_last_good_checkpoints(tmp_path):
    with pytest.raises(TrainingBroke, match=r"before step 384: not finite: .*state\.model") as error:
        broken(tmp_path, "+task.observations.critic.nan_policy=disabled")
    (path,) = (tmp_path / "runs" / "cartpole_balance").glob("2*")
    run = RunDir(path)
    found = status.read(run.status_path)
    assert found is not None and (found.state, found.error) == ("failed", str(error.value))
    assert checkpoint.steps(run.checkpoints) == [CHUNK, 2 * CHUNK]
    for step in checkpoint.steps(run.checkpoints):
        state = checkpoint.load_arrays(run.checkpoints / str(step), "train_state")
        numbers = [x for name, x in state.items() if name.startswith(("model", "opt_state"))]
        assert len(numbers) > 10 and all(np.isfinite(np.asarray(x)).all() for x in numbers)
    lines = metrics.read(run.metrics_path)
    assert [line["step"] for line in lines] == [CHUNK, 2 * CHUNK, 3 * CHUNK]
    assert lines[-1]["nonfinite"] > 0 and "nonfinite" not in lines[1]


def test_by_default_an_observation_that_is_not_finite_breaks_nothing(tmp_path):
    run = broken(tmp_path)
    found = status.read(run.status_path)
    assert found is not None and found.state == "completed" and found.step == 6 * CHUNK
    counts = [line.get("not_finite/task.observations.critic.terms.grows", 0) for line in metrics.read(run.metrics_path)]
    assert counts[:2] == [0, 0] and min(counts[2:]) > 0


@pytest.mark.parametrize("name", ["ppo/policy_loss", "ppo/grad_norm"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_losses_and_gradients_are_looked_at_too(name, value):
    good = {"env/return": jnp.nan, "ppo/policy_loss": 0.5, "ppo/grad_norm": 1.0}
    finite = jax.device_get({"model": jnp.array(True)})
    check_finite(good, finite, 100)  # the env's own numbers may be of no episode
    with pytest.raises(TrainingBroke, match=f"before step 200: not finite: {name}"):
        check_finite(good | {name: value}, finite, 200)
