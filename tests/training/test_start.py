"""`ksim.train`: a training from Python."""

import numpy as np
import pytest
from support.runs import CHUNK, SMALL

import ksim
from ksim.errors import ConfigError
from ksim.store import status


def test_it_trains_in_a_run_directory_of_its_own_and_the_policy_can_be_loaded(tmp_path):
    (tmp_path / "my" / "task").mkdir(parents=True)
    (tmp_path / "my" / "task" / "short.yaml").write_text("defaults: [cartpole_balance]\nepisode_length_s: 0.4\n")
    small = [override for override in SMALL if not override.startswith("task")]
    settings = ["task=short", f"runs_dir={tmp_path / 'runs'}", f"algo.total_steps={CHUNK}"]
    run = ksim.train([*small, *settings], config_dir=tmp_path / "my")
    assert run.parent == tmp_path / "runs" / "short" and (run / "train.log").read_text()
    found = status.read(run / "status.json")
    assert found is not None and (found.state, found.step) == ("completed", CHUNK)
    assert ksim.load_policy(run)(np.zeros(4)).shape == (1,)


def test_a_mistake_leaves_nothing_behind(tmp_path):
    with pytest.raises(ConfigError, match=r"algo\.gama: no such key \(did you mean 'gamma'\?\)"):
        ksim.train(["algo.gama=1", f"runs_dir={tmp_path / 'runs'}"])
    assert not any(tmp_path.iterdir())
