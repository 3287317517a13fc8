"""The algorithm in a config: any dataclass by its `_target_`, and what a task changes in it."""

import dataclasses
import logging
import re
import textwrap
from pathlib import Path

import pytest
import yaml

from ksim.config import algorithm, compose
from ksim.config.compose import freeze, load_frozen, with_overrides
from ksim.errors import ConfigError

MODULE = """
from dataclasses import dataclass, field
from ksim.config.fields import setting

@dataclass(kw_only=True)
class Spread:
    std: float = setting(0.1, above=0)

@dataclass(frozen=True, kw_only=True)
class RandomSearch:
    num_envs: int = setting(above=0)
    total_steps: int = 1000
    widths: tuple[int, ...] = (3, 4)
    spread: Spread = field(default_factory=Spread)
    kind: str = setting("ball", choices=("ball", "box"))

    def __post_init__(self):
        if self.total_steps % self.num_envs:
            raise ValueError(f"total_steps = {self.total_steps} is not a multiple of num_envs = {self.num_envs}")

    @property
    def steps_per_iteration(self) -> int:
        return 2 * self.num_envs

@dataclass
class NoAlgorithm:
    num_envs: int = 1

def function(): ...
"""


@pytest.fixture
def my(tmp_path, monkeypatch):
    """A folder of the user's own YAML files with an algorithm; call it with more of them: path -> text."""
    (tmp_path / "own_search.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("KSIM_TRUST", "own_search")
    monkeypatch.delitem(__import__("sys").modules, "own_search", raising=False)
    algorithm._tell.cache_clear()

    def write(**files: str) -> Path:
        for name, text in ({"algo/search": "_target_: own_search.RandomSearch\nnum_envs: 10\n"} | files).items():
            path = tmp_path / "my" / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return tmp_path / "my"

    return write


def test_an_algorithm_of_the_users_own(my, tmp_path):
    """One module and one YAML file: typed, with its defaults, frozen and read again."""
    cfg = compose.compose(["algo=search", "algo.spread.std=1", "algo.widths=[5]"], my())
    from own_search import RandomSearch, Spread

    expected = RandomSearch(num_envs=10, total_steps=1000, widths=(5,), spread=Spread(std=1.0))
    assert cfg.algo == expected and type(cfg.algo.spread.std) is float
    assert cfg.task.scene.num_envs == 10
    (tmp_path / "config.yaml").write_text(freeze(cfg))
    assert yaml.safe_load(freeze(cfg))["algo"]["_target_"] == "own_search.RandomSearch"
    assert load_frozen(tmp_path / "config.yaml") == cfg
    assert with_overrides(cfg, ["algo.kind=box"]).algo == dataclasses.replace(expected, kind="box")


def test_defaults_of_the_class_can_be_referred_to(my):
    cfg = compose.compose(["algo=search", "eval.interval_steps=${algo.total_steps}"], my())
    assert cfg.eval.interval_steps == 1000


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("", ["algo.num_env=1"], "algo.num_env: no such key (did you mean 'num_envs'?)"),
        ("", ["+algo.num_env=1"], "algo.num_env: no such key (did you mean 'num_envs'?)"),
        ("", ["algo.num_envs=a"], "algo.num_envs: must be a whole number, not 'a'"),
        ("", ["algo.num_envs=???"], r"algo.num_envs: has no value; .* algo.num_envs=<a whole number>"),
        ("", ["algo.num_envs=0"], "algo.num_envs: must be above 0, not 0"),
        ("", ["algo.kind=boll"], "algo.kind: there is no 'boll' (did you mean 'ball'?); there are 'ball', 'box'"),
        ("", ["algo.spread.std=0"], "algo.spread.std: must be above 0, not 0.0"),
        ("", ["algo.spread.sdt=1"], "algo.spread.sdt: no such key (did you mean 'std'?)"),
        ("", ["algo.total_steps=15"], "algo: total_steps = 15 is not a multiple of num_envs = 10"),
        ("_target_: own_search.RandomSearch", [], "algo: 'num_envs' is missing"),
        (
            "_target_: own_search.RandomSearch\nnum_envs: 10\nkidn: box",
            [],
            "algo.kidn: no such key (did you mean 'kind'?) (in algo/search.yaml)",
        ),
        (
            "_target_: own_search.RandomSearch\nnum_envs: ten",
            [],
            "algo.num_envs: must be a whole number, not 'ten' (in algo/search.yaml)",
        ),
        ("num_envs: 10", [], "algo: '_target_' is missing: the dotted path of the algorithm's class"),
        (
            "_target_: own_search.RandomSerch",
            [],
            "algo: own_search has no 'RandomSerch' (did you mean 'RandomSearch'?)",
        ),
        ("_target_: own_serch.RandomSearch", [], "algo: there is no module 'own_serch'"),
        ("_target_: own_search.function", [], "algo: own_search.function is not a dataclass"),
        ("_target_: own_search.NoAlgorithm", [], "algo: own_search.NoAlgorithm has no 'total_steps', as every"),
    ],
)
def test_a_mistake_in_it_is_one_message(my, text, overrides, message):
    folder = my(**({"algo/search": text} if text else {}))
    with pytest.raises(ConfigError) as error:
        compose.compose(["algo=search", *overrides], folder)
    found = str(error.value)
    is_there = re.search(message, found) if ".*" in message else found.startswith(message)
    assert is_there and "\n" not in found, found


# What a task changes. -------------------------------------------------------------------------------------------------

TASKS = {
    "task/base": """
        defaults: [cartpole_balance, _self_]
        algo:
          ppo: {gamma: 0.9, total_steps: 77}
          search: {num_envs: 20, spread: {std: 2}}
    """,
    "task/derived": "defaults: [base, _self_]\nalgo: {ppo: {total_steps: 88, symmetry: none}}\n",
    "task/plain": "defaults: [base, _self_]\nalgo: {ppo: null}\n",
}


def test_the_readmes_kbot_on_ice_trains_as_kbot_standing_does(my):
    """A task derived from another one has its algorithm: the same networks, sizes and symmetry."""
    ice = "defaults: [kbot_standing, _self_]\nepisode_length_s: 10.0\n"
    mine, base = compose.compose(["task=ice"], my(**{"task/ice": ice})), compose.compose(["task=kbot_standing"])
    assert mine.algo == base.algo
    assert mine.algo.num_envs == mine.task.scene.num_envs == 512 and mine.algo.symmetry == "equivariant"


def test_a_task_lies_over_the_group_and_under_the_command_line(my):
    folder = my(**TASKS)
    base = compose.compose(["task=base"], folder).algo
    assert (base.gamma, base.total_steps, base.num_minibatches) == (0.9, 77, 4)  # the last one of cartpole_balance
    given = ["algo.total_steps=99", "task.algo.ppo.gamma=0.5", "task.algo.ppo.lam=0.4"]
    over = compose.compose(["task=base", *given], folder).algo
    assert over == dataclasses.replace(base, total_steps=99, gamma=0.5, lam=0.4)


def test_a_derived_task_inherits_and_changes_single_keys(my):
    folder = my(**TASKS)
    base, derived = (compose.compose([f"task={task}"], folder).algo for task in ("base", "derived"))
    assert derived == dataclasses.replace(base, total_steps=88)


def test_a_derived_task_can_take_all_of_it_back(my):
    plain = compose.compose(["task=plain"], my(**TASKS)).algo
    assert plain == type(plain)()


def test_each_algorithm_has_its_own_section(my):
    algo = compose.compose(["task=base", "algo=search"], my(**TASKS)).algo
    assert (algo.num_envs, algo.spread.std, algo.total_steps) == (20, 2.0, 1000)


def test_a_deleted_setting_has_the_default_of_the_class(my):
    folder = my(**TASKS, **{"algo/search": "_target_: own_search.RandomSearch\nnum_envs: 10\ntotal_steps: 500\n"})
    assert compose.compose(["algo=search", "~algo.total_steps"], folder).algo.total_steps == 1000


def test_an_algorithm_without_a_section_is_told_in_one_line(my, caplog):
    folder = my()
    with caplog.at_level(logging.INFO):
        compose.compose(["algo=search"], folder)
        compose.compose(["algo=search"], folder)
    assert caplog.messages == ["the task says nothing about algo=search; it does about 'ppo' (task.algo)"]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        compose.compose([], folder)
    assert caplog.messages == []


def test_what_is_referred_to_is_what_trains(my):
    cfg = compose.compose(["task=base", "eval.interval_steps=${algo.total_steps}"], my(**TASKS))
    assert cfg.eval.interval_steps == cfg.algo.total_steps == 77


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("{ppo: {gama: 1}}", [], "task.algo.ppo.gama: no such key (did you mean 'gamma'?) (in task/mine.yaml)"),
        ("{ppo: {gamma: 2}}", [], "task.algo.ppo.gamma: must be above 0 and at most 1, not 2.0 (in task/mine.yaml)"),
        ("{ppo: {gamma: x}}", [], "task.algo.ppo.gamma: must be a number, not 'x' (in task/mine.yaml)"),
        ("{ppo: {gamma: x}}", ["algo.gamma=y"], "algo.gamma: must be a number, not 'y'"),
        ("{}", ["task.algo.ppo.gama=1"], "task.algo.ppo.gama: no such key (did you mean 'gamma'?)"),
        (
            "{num_envs: 3}",
            [],
            "task.algo.num_envs: must be a mapping of settings of algo=num_envs, as a task has a section for each"
            " algorithm, such as algo: {ppo: {num_envs: 512}}; not 3 (in task/mine.yaml)",
        ),
    ],
)
def test_a_mistake_in_a_tasks_section_names_it(my, text, overrides, message):
    folder = my(**{"task/mine": f"defaults: [cartpole_balance, _self_]\nalgo: {text}\n"})
    with pytest.raises(ConfigError) as error:
        compose.compose(["task=mine", *overrides], folder)
    assert str(error.value) == message
