"""`init_from`: a training starts from the policy of another run."""

import equinox as eqx
import jax
import numpy as np
import pytest
from support.runs import SMALL, fresh

from ksim.config.compose import compose, load_frozen
from ksim.errors import ConfigError
from ksim.store import checkpoint, run_dir, status
from ksim.store.run_dir import RunDir
from ksim.training.checks import checked_new
from ksim.training.experiment import build
from ksim.training.loop import train
from ksim.training.state import first_state


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> RunDir:
    return fresh(tmp_path_factory.mktemp("source"), "runs", 2, "checkpoint.every_s=1e-6")


def test_weights_and_statistics_are_taken_over_and_nothing_else(source):
    runs_dir = source.path.parents[1]
    overrides = [f"runs_dir={runs_dir}", "init_from=latest", "seed=8", "algo.learning_rate=1e-3"]
    cfg = checked_new(compose([*SMALL, *overrides]))
    assert cfg.init_from == str(source.path)  # `latest` is the new run as soon as there is one
    state = first_state(build(cfg))
    saved = checkpoint.load_arrays(checkpoint.newest_valid(source.checkpoints, pytest.fail), "train_state")

    def leaves(tree: object) -> list[np.ndarray]:
        return [np.asarray(x) for x in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]

    found = [np.asarray(x) for key, x in saved.items() if key.startswith("model.")]
    assert len(found) == len(leaves(state.model)) > 10
    assert all(any(np.array_equal(x, y) for y in found) for x in leaves(state.model))
    assert all(not x.any() for x in leaves(state.opt_state))  # Adam's moments and its count start at 0
    assert float(state.learning_rate) == np.float32(1e-3)


def test_it_trains_on_and_the_frozen_config_names_its_source(tmp_path, source):
    run = fresh(tmp_path, "runs", 1, f"init_from={source.path}", "init_checkpoint='#1'")
    assert load_frozen(run.config_path).init_from == str(source.path)
    found = status.read(run.status_path)
    assert found is not None and found.state == "completed"


@pytest.mark.parametrize("change", ["algo.actor_hidden=[8]", "task=kbot_standing"])
def test_another_shape_is_refused_before_anything_is_compiled(tmp_path, source, change):
    cfg = compose([*SMALL, f"runs_dir={tmp_path / 'runs'}", f"init_from={source.path}", change])
    run = run_dir.claim(cfg.runs_dir, cfg.name)
    with pytest.raises(ConfigError, match="init_from: what was learned there does not fit this task and algo: "):
        train(cfg, run)
    found = status.read(run.status_path)
    assert found is not None and found.state == "failed" and "init_from" in str(found.error)


def test_a_checkpoint_that_is_not_there_is_refused_at_once(source):
    with pytest.raises(ConfigError, match="init_from: there is no checkpoint '77'"):
        checked_new(compose([*SMALL, f"init_from={source.path}", "init_checkpoint='77'"]))
