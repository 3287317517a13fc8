"""`python -m ksim.view`: what its command line asks for, and what it refuses in a line."""

import sys

import pytest
from support import child
from support.runs import SMALL
from support.untrained import untrained, write_checkpoint

from ksim import view
from ksim.config.compose import compose
from ksim.errors import ConfigError, KsimError
from ksim.viz.viewer import window
from ksim.viz.viewer.config import InteractiveVisualizerConfig


@pytest.fixture
def shown(monkeypatch):
    """The simulations that would be shown, each after ten steps."""
    found = []

    def serve(simulation):
        for _ in range(10):
            simulation.step()
        assert simulation.error is None
        found.append(simulation)

    monkeypatch.setattr(view, "_browser", lambda: serve)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    return found


def test_a_task_is_shown_with_zero_actions_its_overrides_and_settings(shown):
    view.main([
        "task=cartpole_balance", "physics=mujoco", "physics.threads=1", "num_envs=2", "seed=4",
        "task.rewards.upright.weight=3", "view.paused=true", "view.position_step_m=0.05",
    ])  # fmt: skip
    (sim,) = shown
    assert sim.num_envs == 2 and sim.paused and sim.cfg.position_step_m == 0.05
    assert not sim.judged.action.any() and sim.step_of_policy is None
    assert sim.env.rewards.terms["upright"].settings.weight == 3
    assert len(set(sim.pose.qpos[:, 1])) == 2


def test_a_run_is_shown_with_its_policy_and_newer_checkpoints(shown, tmp_path):
    cfg = compose([*SMALL, f"runs_dir={tmp_path / 'runs'}"])
    run, experiment = untrained(cfg, tmp_path / "runs")
    view.main([f"run={run.path}", "task.episode_length_s=30", f"runs_dir={tmp_path / 'runs'}"])
    (sim,) = shown
    assert sim.step_of_policy == 0 and sim.judged.action.any()
    assert sim.env.cfg.episode_length_s == 30

    now = sim._looked_at
    sim._clock = lambda: now
    write_checkpoint(run, experiment, 256)
    sim.advance()
    assert sim.step_of_policy == 0  # it looks every two seconds
    now += 2.5
    sim.advance()
    assert sim.step_of_policy == 256 and sim.message == "policy of step 256"
    sim.use("0")
    write_checkpoint(run, experiment, 512)
    now += 2.5
    sim.advance()
    assert sim.step_of_policy == 0  # chosen by its number, it stays
    sim.use("latest")
    assert sim.step_of_policy == 512


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["viewer=windw"], "viewer: there is no 'windw'.*window"),
        (["num_envs=0"], "num_envs: must be above 0"),
        (["view.speeed=2"], "view.speeed: no such key.*speed"),
        (["view.position_step_m=-1"], "view.position_step_m: must be above 0"),
        (["task.rewards.uprigth.weight=1"], "uprigth"),
        (["run=nowhere"], "nowhere does not exist"),
        (["run=nowhere", "algo.gamma=1"], "algo.gamma: no such option"),
        (["viewer=window"], "viewer=window: there is no display.*viewer=web"),
    ],
)
def test_mistakes_are_told_in_a_line_before_anything_is_built(argv, message, shown, monkeypatch):
    monkeypatch.setattr(view, "build", lambda cfg: pytest.fail("it was built"))
    first = [] if argv[0].startswith("run=") else ["task=cartpole_balance", "physics=mujoco"]
    with pytest.raises(KsimError, match=message) as found:
        view.main([*first, *argv])
    assert "\n" not in str(found.value)
    assert not shown


def test_macos_without_mjpython_says_what_to_type(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(KsimError, match=r"mjpython -m ksim\.view .*passive-viewer"):
        window.check_display()


def test_a_display_that_does_not_answer_is_an_error_and_no_endless_wait(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":9876")
    with pytest.raises(KsimError, match=r"no window can be opened: .*X11.*viewer=web"):
        window.check_display()


def test_a_missing_extra_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ksim.viz.viewer.browser", None)
    error = ModuleNotFoundError("no", name="viser")
    monkeypatch.setattr(view.importlib, "import_module", lambda name: (_ for _ in ()).throw(error))
    with pytest.raises(ConfigError, match=r"viewer=web needs the package viser: pip install 'ksim\[web\]'"):
        view._browser()


def test_the_old_visualizers_settings_are_the_defaults():
    cfg = InteractiveVisualizerConfig()
    assert (cfg.position_step_m, cfg.velocity_step, cfg.rotation_step_rad) == (0.01, 0.1, 0.01)
    assert cfg.plot_window == 5_000 and cfg.plot_every_s == 0.5


def test_help_is_a_page_and_imports_no_window():
    result = child.python(
        "from ksim.view import main; import sys; main(['--help']); print('mujoco.viewer' in sys.modules)"
    )
    assert "usage: python -m ksim.view" in result.stdout and result.stdout.endswith("False\n")
