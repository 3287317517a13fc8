"""An environment of a user's own, two functions and a dataclass, is a task like any other."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from support import bead
from support.jit import quick_jit

from ksim.config.compose import compose, freeze, load_frozen, plain
from ksim.envs.env import make_env
from ksim.errors import ConfigError
from ksim.system import trust
from ksim.training.checks import checked

MODULE = Path(bead.__file__).read_text()


@pytest.fixture
def conf(tmp_path, monkeypatch):
    (tmp_path / "my_bead.py").write_text(MODULE)
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "task" / "bead.yaml").write_text(
        "_target_: my_bead.BeadCfg\nend: 3.0\nalgo: {ppo: {num_envs: 32, lam: 0.7}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_bead", raising=False)
    return tmp_path / "conf"


def test_its_settings_are_checked_and_frozen(conf, tmp_path):
    cfg = checked(compose(["task=bead", "task.end=2.5"], conf))
    assert (cfg.task.end, cfg.algo.gamma, cfg.algo.lam, cfg.algo.num_envs) == (2.5, 0.9, 0.7, 32)
    path = tmp_path / "config.yaml"
    path.write_text(freeze(cfg))
    with trust.everything():
        assert plain(load_frozen(path)) == plain(cfg)
    for override, message in (
        ("task.ende=1", r"task.ende: no such key \(did you mean 'end'"),
        ("task.end=0", "task.end: must be above 0, not 0.0"),
        ("task.end=far", "task.end: must be a number, not 'far'"),
        ("task.sign=3", "task.sign: must be -1 or 1, not 3"),
        ("algo.gama=1", r"algo.gama: no such key \(did you mean 'gamma'"),
    ):
        with pytest.raises(ConfigError, match=message):
            checked(compose(["task=bead", override], conf))


def test_code_that_is_not_trusted_is_not_run(conf, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(freeze(compose(["task=bead"], conf)))
    with pytest.raises(ConfigError, match="task._target_: my_bead.BeadCfg is not"):
        load_frozen(path)


def test_time_limits_ends_and_resets_are_ksims(conf):
    env = make_env(compose(["task=bead"], conf).task, "mujoco")
    assert env.obs_sizes == {"actor": {"state": 1}, "critic": {"state": 2}} and env.action_names == ("speed",)
    carry, obs = quick_jit(env.reset, static_argnums=1)(jax.random.key(0), 2)
    x_E = np.asarray(obs["actor"])[:, 0]
    assert ((x_E >= 0) & (x_E < 1)).all() and x_E[0] != x_E[1]
    step = quick_jit(env.step)
    action_Ea = np.array([[0.0], [0.8]], np.float32)  # the second is past 3 after three or four steps
    seen = []
    for _ in range(4):
        carry, out = step(carry, action_Ea)
        seen.append(out)
    x_TE = np.array([out.terminal_obs["actor"][:, 0] for out in seen])
    np.testing.assert_allclose(x_TE[:, 0], x_E[0], rtol=1e-6)
    ended = int(np.argmax([out.terminated[1] for out in seen]))
    np.testing.assert_allclose(x_TE[: ended + 1, 1], x_E[1] + 0.8 * np.arange(1, ended + 2), rtol=1e-5)
    assert x_TE[ended, 1] > 3.0 and seen[ended].obs["actor"][1, 0] < 1.0  # what it showed, and a fresh episode
    assert [bool(out.truncated[0]) for out in seen] == [False, False, False, True]
    assert seen[ended].episode["return"][1] == pytest.approx(0.8 * (ended + 1))
    assert seen[ended].log["terminated"] == 1 and seen[3].log["length"] >= 4
    np.testing.assert_allclose(seen[3].episode["metric/height"][0], x_E[0], rtol=1e-5)
    assert not seen[0].terminal.prev_action.any()
    np.testing.assert_array_equal(seen[1].terminal.prev_action, action_Ea)


def test_nothing_of_a_diverged_env_is_learned_from(conf):
    """Its reward is a number, but of no state that is one."""
    env = make_env(compose(["task=bead"], conf).task, "mujoco")
    carry, obs = quick_jit(env.reset, static_argnums=1)(jax.random.key(0), 2)
    carry, out = quick_jit(env.step)(carry, np.array([[1e12], [0.5]], np.float32))
    assert out.reward.tolist() == pytest.approx([0.0, 0.5 * env.reward_scale])
    assert out.terminated.tolist() == [True, False] and out.log["nan_guard"] == 1 and out.ends["terminated"].sum() == 0
    np.testing.assert_array_equal(out.terminal_obs["actor"][0], obs["actor"][0])
    assert 0 <= out.obs["actor"][0, 0] < 1 and out.episode["return"].tolist() == pytest.approx([0.0, 0.5])


def test_what_it_has_not_is_said(conf):
    env = make_env(compose(["task=bead"], conf).task, "mujoco")
    with pytest.raises(ConfigError, match="algo.symmetry: only tasks of terms"):
        env.symmetry()
    with pytest.raises(ConfigError, match="needs a robot of ksim's"):
        _ = env.scene.robot
