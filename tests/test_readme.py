"""What the README says of names and places is so: its commands compose, what it names is there."""

import re
import shlex
from pathlib import Path

import pytest

import ksim
from ksim.config.compose import compose
from ksim.errors import ConfigError
from ksim.training.checks import checked

REPO = Path(__file__).resolve().parents[1]
README = (REPO / "README.md").read_text()
BASH = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
TRAININGS = sorted(
    {
        command
        for _, command in re.findall(r"^(.*&& )?python -m ksim\.run (.*)$", BASH, re.MULTILINE)
        if not re.search(r"-m |resume=|init_from=", command)
    }
)


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder with every file that the README shows."""
    folder = tmp_path_factory.mktemp("outside")
    for name, text in re.findall(r"```(?:python|yaml)\n# (\w+[\w/]*\.\w+)\n(.*?)```", README, re.DOTALL):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize("command", TRAININGS)
def test_a_training_composes(command, outside, monkeypatch):
    monkeypatch.chdir(outside)
    monkeypatch.syspath_prepend(outside)
    words = shlex.split(command, comments=True)
    folder = words[words.index("--config-dir") + 1] if "--config-dir" in words else None
    checked(compose([word for word in words if "=" in word], folder))


def test_the_tasks_and_the_terms_are_built(outside, monkeypatch):
    """Terms are traced when an env is built."""
    monkeypatch.chdir(outside)
    monkeypatch.syspath_prepend(outside)
    (lines,) = re.findall(r"### What a task can say\n.*?```yaml\n(.*?)```", README, re.DOTALL)
    (outside / "my_conf/task/all.yaml").write_text(f"defaults: [kbot_standing, _self_]\n{lines}")
    own = [word for command in TRAININGS for word in shlex.split(command) if re.match(r"\+task.*_target_: my_", word)]
    for task, terms in (("kbot_on_ice", []), ("humanoid_standing", []), ("all", []), ("kbot_standing", own)):
        env = ksim.make(task, overrides=["physics=mujoco", *terms], config_dir="my_conf")
        assert len(env.rewards.terms) > 5
    assert {"low_spin", "spun", "yaw_rate"} <= {
        name for kind in (env.rewards, env.terminations, env.metrics) for name in kind.terms
    }


def test_there_are_trainings_to_try():
    assert len(TRAININGS) > 12 and sum("--config-dir" in command for command in TRAININGS) == 5


def test_a_launcher_of_ones_own_composes(outside, monkeypatch):
    monkeypatch.chdir(outside)
    (text,) = re.findall(r"```yaml\n(# @package _global_\n.*?)```", README, re.DOTALL)
    path = outside / "my_conf/launcher/cluster.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert compose(["launcher=cluster"], "my_conf")
    path.write_text(text.replace("partition", "partitoin"))
    with pytest.raises(ConfigError, match="partitoin"):
        compose(["launcher=cluster"], "my_conf")


def test_every_room_is_in_the_table():
    (table,) = re.findall(r"## Where things are\n(.*?)\n## ", README, re.DOTALL)
    firsts = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {name.rstrip("/") for first in firsts for name in re.findall(r"`([\w./]+)`", first)}
    rooms = {path.parent.name for path in (REPO / "ksim").glob("*/__init__.py")} - {"report"}
    assert {f"ksim/{room}" for room in rooms} <= named
    for name in named:
        assert (REPO / name).exists() or (REPO / "ksim" / name).exists(), name


def test_every_test_that_is_named_is_there():
    (table,) = re.findall(r"## What was tried against ksim\n(.*?)\n## ", README, re.DOTALL)
    named = re.findall(r"`([\w/]+\.py)`", table)
    assert len(set(named)) > 12
    for name in named:
        assert (REPO / "tests" / name).exists(), name


def test_every_link_has_its_heading():
    headings = {
        re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-")
        for text in re.findall(r"^##+ (.*)$", README, re.MULTILINE)
    }
    for link in re.findall(r"\]\(#([\w-]+)\)", README):
        assert link in headings, link


def test_every_choice_of_a_group_is_in_the_table():
    (table,) = re.findall(r"### Config groups\n(.*?)\n### ", README, re.DOTALL)
    rows = {row.split("`")[1]: row for row in table.splitlines() if row.startswith("| `")}
    for file in REPO.glob("conf/*/*.yaml"):
        assert f"`{file.stem}`" in rows[file.parent.name], file
