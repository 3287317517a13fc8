"""Terms: what a task's dictionaries may hold, and the message for everything that they may not."""

import textwrap

import pytest

from ksim.envs import terms
from ksim.envs.managers import TerminationManager
from ksim.envs.settings import (
    ActionSettings,
    EventSettings,
    NoiseCfg,
    ObservationSettings,
    RewardSettings,
    TerminationSettings,
)
from ksim.errors import ConfigError


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A user's own module, with annotations that exist for the type checker only."""
    source = """
        from __future__ import annotations
        from typing import TYPE_CHECKING, Literal
        import equinox as eqx
        if TYPE_CHECKING:
            from nowhere import Context

        def upright(ctx: Context, *, std: float = 0.3, joints: str | list[str] = ".*") -> float: ...
        def needs(ctx: Context, *, target: float) -> float: ...
        def positional(ctx: Context, std: float = 0.3) -> float: ...
        def anything(ctx: Context, **kwargs) -> float: ...
        def typed(
            ctx: Context, *, flag: bool = True, n: int = 1, pair: tuple[float, float] = (0, 1), maybe: int | None = 3,
            factors: dict[str, float] = {}, mode: Literal["a", "b"] = "a", numbers: list[float] = [],
            other: Context = 1, number: float | int = 1, lin_vel_range: tuple[float, float] = (0, 1),
        ) -> float: ...
        class Air(eqx.Module):
            window_s: float
            foot: str = "left"
            def __call__(self, ctx, carry): ...
        value = 3
    """
    (tmp_path / "own_terms.py").write_text(textwrap.dedent(source))
    (tmp_path / "broken_terms.py").write_text("import numpy\nraise RuntimeError('no\\nluck')\n")
    (tmp_path / "missing_terms.py").write_text("import a_package_that_does_not_exist\n")
    monkeypatch.syspath_prepend(tmp_path)
    import own_terms

    yield own_terms
    monkeypatch.delitem(__import__("sys").modules, "own_terms")


def reward(**term):
    return terms.resolve("task.rewards", {"t": {"weight": 1.0, **term}}, RewardSettings)["t"]


def test_a_term_is_resolved_and_split_into_settings_and_parameters(module):
    term = reward(_target_="own_terms.upright", weight=2, std=1)
    assert term.func is module.upright
    assert term.name == "t" and term.path == "task.rewards.t"
    assert term.params == {"std": 1.0} and isinstance(term.params["std"], float)
    assert term.settings == RewardSettings(weight=2.0)
    assert not term.is_class


def test_the_order_is_kept_and_null_removes(module):
    term = {"_target_": "own_terms.upright", "weight": 1.0}
    resolved = terms.resolve("task.rewards", {"b": term, "gone": None, "a": term}, RewardSettings)
    assert list(resolved) == ["b", "a"]


def test_a_class_takes_its_fields_as_parameters(module):
    term = reward(_target_="own_terms.Air", window_s=1)
    assert term.is_class and term.func(**term.params).window_s == 1.0
    with pytest.raises(ConfigError, match=r"task\.rewards\.t: own_terms\.Air needs the parameter 'window_s'"):
        reward(_target_="own_terms.Air")


def test_a_function_itself_is_a_target(module):
    assert reward(_target_=module.upright).func is module.upright


def test_a_function_that_takes_everything_gets_everything(module):
    assert reward(_target_="own_terms.anything", colour="red").params == {"colour": "red"}


def test_settings_win_where_a_name_is_both():
    def term(ctx, *, weight: str = "heavy"): ...

    resolved = reward(_target_=term, weight=3.0)
    assert resolved.settings.weight == 3.0 and resolved.params == {}


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (3, "task.rewards.t: must be a mapping with '_target_', not 3"),
        ({"weight": 1.0}, "task.rewards.t: '_target_' is missing"),
        ({"_target_": 3}, "task.rewards.t: '_target_' must be a dotted path such as ksim.mdp.rewards.alive, not 3"),
        ({"_target_": "upright"}, "task.rewards.t: '_target_' must name a module and a function in it, not 'upright'"),
        (
            {"_target_": "ksim.mdp.rewards.uprigth"},
            "task.rewards.t: ksim.mdp.rewards has no 'uprigth' (did you mean 'upright'?)",
        ),
        ({"_target_": "ksim.mdp.reward.upright"}, "task.rewards.t: ksim.mdp has no 'reward' (did you mean 'rewards'?)"),
        ({"_target_": "own_term.upright"}, "task.rewards.t: there is no module 'own_term' (did you mean 'own_terms'?)"),
        ({"_target_": "own_terms.value"}, "task.rewards.t: own_terms.value is neither a function nor a class"),
        (
            {"_target_": "broken_terms.f"},
            "task.rewards.t: importing broken_terms failed: RuntimeError: no luck",
        ),
        (
            {"_target_": "missing_terms.f"},
            "task.rewards.t: importing missing_terms failed: ModuleNotFoundError:"
            " No module named 'a_package_that_does_not_exist'",
        ),
        ({"_target_": "own_terms.upright"}, "task.rewards.t: 'weight' is missing"),
        (
            {"_target_": "own_terms.upright", "weigth": 1.0},
            "task.rewards.t.weigth: own_terms.upright has no parameter 'weigth' (did you mean 'weight'?)",
        ),
        (
            {"_target_": "own_terms.upright", "weight": 1.0, "colour": 1.0},
            "task.rewards.t.colour: own_terms.upright has no parameter 'colour' (there are 'std', 'joints', 'weight')",
        ),
        (
            {"_target_": "own_terms.positional", "weight": 1.0, "std": 1.0},
            "task.rewards.t.std: own_terms.positional has no parameter 'std'; in its definition, 'std' must come after"
            " a '*' to be a parameter",
        ),
        (
            {"_target_": "own_terms.needs", "weight": 1.0},
            "task.rewards.t: own_terms.needs needs the parameter 'target'",
        ),
        ({"_target_": "own_terms.upright", "weight": "x"}, "task.rewards.t.weight: must be a number, not 'x'"),
        ({"_target_": "own_terms.upright", "weight": True}, "task.rewards.t.weight: must be a number, not True"),
        ({"_target_": "own_terms.upright", "weight": float("nan")}, "task.rewards.t.weight: must be a number, not nan"),
        ({"_target_": "own_terms.upright", "weight": float("inf")}, "task.rewards.t: 'weight' must be finite, not inf"),
        (
            {"_target_": "own_terms.upright", "weight": 1.0, "std": -1},
            "task.rewards.t.std: a standard deviation must be positive, not -1.0",
        ),
    ],
)
def test_each_mistake_has_its_message(module, term, message):
    with pytest.raises(ConfigError) as error:
        terms.resolve("task.rewards", {"t": term}, RewardSettings)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"flag": False}, {"flag": False}),
        ({"pair": [1, 2]}, {"pair": (1.0, 2.0)}),
        ({"maybe": None}, {"maybe": None}),
        ({"factors": {"a": 1}}, {"factors": {"a": 1.0}}),
        ({"mode": "b"}, {"mode": "b"}),
        ({"numbers": (1, 2)}, {"numbers": [1.0, 2.0]}),
        ({"other": "whatever"}, {"other": "whatever"}),
        ({"number": 2}, {"number": 2}),
    ],
)
def test_values_become_the_annotated_type(module, given, expected):
    params = reward(_target_="own_terms.typed", **given).params
    assert params == expected
    assert [type(v) for v in params.values()] == [type(v) for v in expected.values()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"flag": 1}, "flag: must be true or false, not 1"),
        ({"n": 1.5}, "n: must be a whole number, not 1.5"),
        ({"n": True}, "n: must be a whole number, not True"),
        ({"pair": [1]}, "pair: must be a list of 2 numbers, not [1]"),
        ({"pair": "ab"}, "pair: must be a list of 2 numbers, not 'ab'"),
        ({"maybe": "x"}, "maybe: must be a whole number or null, not 'x'"),
        ({"factors": {"a": "x"}}, "factors.a: must be a number, not 'x'"),
        ({"mode": "c"}, "mode: must be one of 'a', 'b', not 'c'"),
        ({"numbers": [1, "x"]}, "numbers: must be a list of numbers, not [1, 'x']"),
        ({"lin_vel_range": [2, 1]}, "lin_vel_range: a range must be [lowest, highest], not [2.0, 1.0]"),
    ],
)
def test_a_wrong_type_says_what_is_right(module, given, message):
    with pytest.raises(ConfigError) as error:
        reward(_target_="own_terms.typed", **given)
    assert str(error.value) == f"task.rewards.t.{message}"


def test_terms_that_are_no_mapping_are_refused():
    with pytest.raises(ConfigError, match=r"^task\.actions: must be a mapping of names to terms, not \[1\]$"):
        terms.resolve("task.actions", [1], ActionSettings)


def test_termination_settings_have_defaults():
    resolved = terms.resolve(
        "task.terminations", {"t": {"_target_": "ksim.mdp.terminations.time_out"}}, TerminationSettings
    )
    assert resolved["t"].settings == TerminationSettings(time_out=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, ": 'mode' is missing"),
        ({"mode": "resett"}, ".mode: must be one of 'startup', 'reset', 'interval', 'step', not 'resett'"),
        ({"mode": "interval"}, ": mode 'interval' needs 'interval_range_s', for example [3.0, 6.0]"),
        (
            {"mode": "interval", "interval_range_s": [6.0, 3.0]},
            ": 'interval_range_s' must be [lowest, highest], not [6.0, 3.0]",
        ),
        ({"mode": "interval", "interval_range_s": [0, 3]}, ": 'interval_range_s' must be positive, not [0.0, 3.0]"),
        (
            {"mode": "reset", "interval_range_s": [1, 3]},
            ": 'interval_range_s' and 'is_global' mean nothing in mode 'reset'",
        ),
    ],
)
def test_event_settings_are_checked(settings, message):
    term = {"_target_": "ksim.mdp.events.reset_scene_to_default", **settings}
    with pytest.raises(ConfigError) as error:
        terms.resolve("task.events", {"t": term}, EventSettings)
    assert str(error.value) == f"task.events.t{message}"


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        ({"type": "uniform", "low": -1, "high": 1}, NoiseCfg(type="uniform", low=-1.0, high=1.0)),
        ({"type": "gaussian", "std": 0.1}, NoiseCfg(type="gaussian", std=0.1)),
        (
            {"type": "constant", "value": 0.1, "operation": "replace"},
            NoiseCfg(type="constant", value=0.1, operation="replace"),
        ),
    ],
)
def test_noise_is_a_checked_dataclass(noise, expected):
    term = {"_target_": "ksim.mdp.observations.joint_pos", "noise": noise, "scale": 2, "clip": [-1, 1]}
    resolved = terms.resolve("task.observations.actor.terms", {"t": term}, ObservationSettings)
    assert resolved["t"].settings == ObservationSettings(noise=expected, scale=2.0, clip=(-1.0, 1.0))


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ({"type": "uniform", "low": -1}, "noise: uniform noise needs 'high'"),
        ({"type": "uniform", "low": 1, "high": -1}, "noise: low = 1.0 is above high = -1.0"),
        ({"type": "gaussian", "std": -1}, "noise: std = -1.0 is negative"),
        ({"type": "gaussian", "std": 1, "low": 1}, "noise: gaussian noise has no 'low'; it has 'mean', 'std'"),
        ({"type": "unifrom"}, "noise.type: must be one of 'constant', 'uniform', 'gaussian', not 'unifrom'"),
        ({"tpye": "uniform"}, "noise.tpye: no such key (did you mean 'type'?)"),
        ({}, "noise: 'type' is missing"),
        (3, "noise: must be a mapping or null, not 3"),
    ],
)
def test_wrong_noise_is_refused(noise, message):
    term = {"_target_": "ksim.mdp.observations.joint_pos", "noise": noise}
    with pytest.raises(ConfigError) as error:
        terms.resolve("task.observations.actor.terms", {"t": term}, ObservationSettings)
    assert str(error.value) == f"task.observations.actor.terms.t.{message}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"history": 0}, ": 'history' must be at least 1, the present frame alone, not 0"),
        ({"delay": {"range_s": [-0.1, 0.1]}}, ".delay: 'range_s' must not be negative, not [-0.1, 0.1]"),
        ({"delay": {"range_s": [0.2, 0.1]}}, ".delay: 'range_s' must be [lowest, highest], not [0.2, 0.1]"),
        (
            {"delay": {"range_s": [0.0, 0.1], "hold_probability": 2}},
            ".delay: 'hold_probability' must be from 0 to 1, not 2.0",
        ),
    ],
)
def test_wrong_pipelines_are_refused(settings, message):
    term = {"_target_": "ksim.mdp.observations.joint_pos", **settings}
    with pytest.raises(ConfigError) as error:
        terms.resolve("task.observations.actor.terms", {"t": term}, ObservationSettings)
    assert str(error.value) == f"task.observations.actor.terms.t{message}"


def test_observation_groups_hold_terms_and_switches():
    term = {"_target_": "ksim.mdp.observations.joint_pos"}
    groups = terms.resolve_groups(
        "task.observations", {"actor": {"terms": {"q": term}, "enable_corruption": True}, "gone": None}
    )
    assert list(groups) == ["actor"]
    assert groups["actor"].settings.enable_corruption and groups["actor"].settings.concatenate
    assert groups["actor"].terms["q"].path == "task.observations.actor.terms.q"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (3, "task.observations: must be a mapping of names to observation groups, not 3"),
        ({"actor": 3}, "task.observations.actor: must be a mapping with 'terms', not 3"),
        ({"actor": {}}, "task.observations.actor: 'terms' is missing"),
        (
            {"actor": {"terms": {}, "concatenat": True}},
            "task.observations.actor.concatenat: no such key (did you mean 'concatenate'?)",
        ),
        (
            {"actor": {"terms": {}, "concatenate": 1}},
            "task.observations.actor.concatenate: must be true or false, not 1",
        ),
        (
            {"actor": {"terms": {"q": {"_target_": "ksim.mdp.observations.joint_po"}}}},
            "task.observations.actor.terms.q: ksim.mdp.observations has no 'joint_po' (did you mean 'joint_pos'?)",
        ),
    ],
)
def test_wrong_observation_groups_are_refused(groups, message):
    with pytest.raises(ConfigError) as error:
        terms.resolve_groups("task.observations", groups)
    assert str(error.value) == message


@pytest.mark.parametrize(("said", "truncates"), [({}, True), ({"time_out": True}, True), ({"time_out": False}, False)])
def test_what_a_task_says_of_a_time_out_counts(said, truncates):
    """The built-in one truncates unless the task says that it terminates; another one the other way round."""
    term = {"_target_": "ksim.mdp.terminations.time_out"} | said
    manager = TerminationManager(terms.resolve("task.terminations", {"mine": term}, TerminationSettings))
    assert (manager.time_outs == {"mine"}) == truncates and manager.needs_time_limit == {"mine"}
    other = {"_target_": "ksim.mdp.terminations.nan"} | said
    manager = TerminationManager(terms.resolve("task.terminations", {"mine": other}, TerminationSettings))
    assert (manager.time_outs == {"mine"}) == bool(said.get("time_out"))
