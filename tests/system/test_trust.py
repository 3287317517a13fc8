"""Configs of other people's runs: no code of theirs is run, or imported, unless the user says so."""

import contextlib
import copy
import dataclasses
import os
import shutil
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import yaml

from ksim import eval as ksim_eval
from ksim import export as ksim_export
from ksim.config.compose import compose, conf_dir, freeze, load_frozen
from ksim.errors import ConfigError
from ksim.report import runs
from ksim.store import checkpoint
from ksim.store.run_dir import RunDir
from ksim.system import foreign, trees, trust
from ksim.training.resume import resume

EVIL = """
import os, subprocess
from pathlib import Path
Path("imported").touch()
def term(ctx): return 1.0
"""


@pytest.fixture(autouse=True)
def nobody_is_trusted(monkeypatch, tmp_path):
    """And there is a module of a stranger's in the working directory."""
    monkeypatch.setattr(trust, "_allowed", None)
    monkeypatch.delenv(trust.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.syspath_prepend(tmp_path)
    Path("evil.py").write_text(EVIL)
    yield
    sys.modules.pop("evil", None)


@pytest.fixture
def run(composed) -> RunDir:
    return RunDir(Path("runs/cartpole_balance/2026-01-01_00-00-00").absolute())


def write(run: RunDir, cfg, **rewards) -> None:
    """The frozen config of a run with these reward terms."""
    cfg = copy.deepcopy(cfg)
    cfg = dataclasses.replace(cfg, task=dataclasses.replace(cfg.task, rewards=cfg.task.rewards | rewards))
    run.path.mkdir(parents=True, exist_ok=True)
    run.config_path.write_text(freeze(cfg))


def target(dotted: str) -> dict:
    return {"_target_": dotted, "weight": 1.0}


def test_every_target_that_ksim_ships_is_trusted():
    """In all tasks, with all loggers; else the runs of others could not be read."""
    found = {}
    for path in conf_dir().rglob("*.yaml"):
        if path.parent.name not in ("launcher", "sweeper"):  # these are in no frozen config
            plain = yaml.safe_load(path.read_bytes())
            found |= {(path.stem, k): v for k, v in trees.leaves(plain) if k.rpartition(".")[2] == trust.TARGET}
    assert len(found) > 40
    assert not [name for name in found.values() if not any(trust._is_defined_in(name, room) for room in trust._ROOMS)]


@pytest.mark.parametrize(
    "dotted",
    [
        "subprocess.Popen",
        "os.system",
        "builtins.eval",
        "evil.term",
        "ksim.store.files.os.system",  # by way of a module that ksim imports
        "ksim.mdp.rewards.jnp.save",
        "ksim.rl.ppo.dataclasses.make_dataclass",
        "ksim.store.run_dir.RunDir",  # ksim's own, but nothing that a config names: it writes files
        "ksim.store.checkpoint.discard_after",
        "ksim.sweep.job.Job",
        "ksim.mdp.rewards.__loader__.load_module",
        "ksim.mdp.rewards.alive.__globals__.get",
        "ksim.mdpx.rewards.alive",
        "ksim",
        "",
    ],
)
def test_what_is_not_ksims_is_refused_before_it_is_imported(run, cartpole_cfg, dotted):
    write(run, cartpole_cfg, bad=target(dotted))
    with pytest.raises(ConfigError, match=r"task\.rewards\.bad\._target_: .*write trust=") as refused:
        load_frozen(run.config_path)
    assert "\n" not in str(refused.value) and "evil" not in sys.modules and not Path("imported").exists()


def test_wherever_it_is_hidden(run, cartpole_cfg):
    write(run, cartpole_cfg)
    plain = yaml.safe_load(run.config_path.read_bytes())
    places = [
        lambda p: p["task"]["observations"]["actor"]["terms"].update(x=target("evil.term")),
        lambda p: p["task"]["rewards"]["upright"].update(deep=[{"er": [target("evil.term")]}]),
        lambda p: p["algo"].update(target("evil.term")),
        lambda p: p["logger"].update(mine=target("evil.term")),
    ]
    for place in places:
        changed = copy.deepcopy(plain)
        place(changed)
        run.config_path.write_text(yaml.safe_dump(changed))
        with pytest.raises(ConfigError, match=r"evil.*trust="):
            load_frozen(run.config_path)
    assert not Path("imported").exists()


@pytest.mark.parametrize(
    ("override", "refused"),
    [
        ("++task.rewards.x={_target_: evil.term, weight: 1}", True),
        ("++task.rewards.x._target_=evil.term", True),
        ("++task.rewards.x={'_target_': 'evil.term'}", True),
        ("++task.rewards.x={_target_: ksim.mdp.rewards.jnp.save}", True),
        ("task.rewards.upright.weight=${oc.env:HOME}", True),
        (
            "++task.events.push={_target_: ksim.mdp.events.push, mode: interval, interval_range_s: [3, 6], speed: 1}",
            False,
        ),
    ],
)
def test_in_an_override_of_a_gate_too(run, cartpole_cfg, override, refused):
    write(run, cartpole_cfg)
    plain = yaml.safe_load(run.config_path.read_bytes())
    plain["task"]["gate"]["conditions"]["bad"] = {"overrides": [override], "bounds": {"falls": {"at_most": 0}}}
    run.config_path.write_text(yaml.safe_dump(plain))
    with pytest.raises(ConfigError, match="write trust=true") if refused else contextlib.nullcontext():
        load_frozen(run.config_path)
    assert not Path("imported").exists()


def test_every_command_that_reads_a_run_refuses_it(run, cartpole_cfg, monkeypatch):
    write(run, cartpole_cfg, bad=target("evil.term"))
    monkeypatch.setattr(ksim_export, "onnx", MagicMock())  # a policy of numbers alone
    monkeypatch.setattr(ksim_export, "saved", MagicMock())
    monkeypatch.setattr(ksim_export, "metadata", MagicMock())
    for command in (ksim_eval.main, ksim_export.main):
        with pytest.raises(ConfigError, match="trust=evil"):
            command([f"run={run.path}"])
    with pytest.raises(ConfigError, match="trust=evil"):
        resume([f"resume={run.path}"])
    assert runs.read(run.path).config is not None  # a report calls nothing
    checkpoint.save(run.checkpoints, 1, {"policy": {"x": np.zeros(1)}}, {})
    assert compose(["task=cartpole_balance", f"init_from={run.path}"]).init_from == str(run.path)  # its numbers alone
    assert not Path("imported").exists()


def test_what_the_user_allows(run, cartpole_cfg, monkeypatch):
    write(run, cartpole_cfg, good=target("evil.term"))
    for argv in (["trust=other"], ["trust=false"], ["trust=evi"], ["trust="]):
        assert trust.take_option([*argv, "run=x"]) == ["run=x"]
        with pytest.raises(ConfigError, match="evil"):
            load_frozen(run.config_path)
    assert not Path("imported").exists()
    for argv in (["trust=other,evil"], ["trust=[evil]"], ["trust=true"]):
        trust.take_option(argv)
        assert load_frozen(run.config_path).task.rewards["good"]["_target_"] == "evil.term"
    trust._allowed = None
    monkeypatch.setenv("KSIM_TRUST", "evil")
    load_frozen(run.config_path)
    trust.take_option(["trust=other"])  # what is said here and now counts
    with pytest.raises(ConfigError, match="write trust=other,evil"):
        load_frozen(run.config_path)


def test_an_allowed_package_is_no_way_to_others(run, cartpole_cfg):
    trust.take_option(["trust=evil"])
    for dotted in ("evil.os.system", "evil.subprocess.Popen", "evil.Path"):
        write(run, cartpole_cfg, bad=target(dotted))
        with pytest.raises(ConfigError, match=f"{dotted} is not defined in evil; trust=true allows it"):
            load_frozen(run.config_path)
    write(run, cartpole_cfg, bad=target("os.system"))
    with pytest.raises(ConfigError, match="write trust=evil,os"):
        load_frozen(run.config_path)


def test_ones_own_runs_need_no_word(run, cartpole_cfg, tmp_path):
    write(run, cartpole_cfg, mine=target("evil.term"))
    trust.sign(run.config_path)
    load_frozen(run.config_path)
    key = tmp_path / "config" / "ksim" / "key"
    assert key.stat().st_mode & 0o777 == 0o600 and os.listdir(key.parent) == ["key"]

    copied = tmp_path / "elsewhere"
    shutil.copytree(run.path, copied)
    load_frozen(copied / "config.yaml")  # by the same user
    text = run.config_path.read_text()
    run.config_path.write_text(text.replace("evil.term", "evil.worse"))  # not what was signed
    with pytest.raises(ConfigError, match="trust=evil"):
        load_frozen(run.config_path)
    run.config_path.write_text(text)
    key.write_bytes(bytes(32))  # another user
    with pytest.raises(ConfigError, match="trust=evil"):
        load_frozen(run.config_path)
    key.unlink()
    with pytest.raises(ConfigError, match="trust=evil"):
        load_frozen(run.config_path)


def test_a_run_of_ksims_own_terms_needs_no_key(run, cartpole_cfg, tmp_path):
    write(run, cartpole_cfg)
    trust.sign(run.config_path)
    load_frozen(run.config_path)
    assert not (tmp_path / "config").exists() and [p.name for p in run.path.iterdir()] == ["config.yaml"]


def test_a_home_that_cannot_be_written_ends_nothing(run, cartpole_cfg, tmp_path):
    write(run, cartpole_cfg, mine=target("evil.term"))
    (tmp_path / "config").write_text("")
    trust.sign(run.config_path)
    with pytest.raises(ConfigError, match="trust=evil"):
        load_frozen(run.config_path)


def test_a_config_from_ones_own_yaml_and_command_line_asks_nobody():
    cfg = compose(["task=cartpole_balance", "+task.rewards.mine={_target_: evil.term, weight: 1.0}"])
    assert cfg.task.rewards["mine"]["_target_"] == "evil.term"


def test_what_a_frozen_config_would_read_from_the_environment(run, cartpole_cfg, monkeypatch):
    monkeypatch.setenv("SECRET", "s3cret")
    write(run, cartpole_cfg)
    run.config_path.write_text(run.config_path.read_text().replace("name: cartpole_balance", "name: ${oc.env:SECRET}"))
    with pytest.raises(ConfigError, match=r"name: '\$\{oc.env:SECRET\}' is resolved in a frozen config"):
        load_frozen(run.config_path)


BOMB = "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),  # libyaml's binding crashes on this one
        ("{a: " * 1000, "nested too deeply"),
        ("".join(" " * i + "a:\n" for i in range(200)), "nested too deeply"),
        (BOMB, "aliases"),
        ("!!python/object/apply:os.system [touch imported]", "could not determine a constructor"),
        ("a: [", "not valid YAML"),
    ],
)
def test_yaml_that_would_crash_or_fill_the_memory(run, text, message):
    run.path.mkdir(parents=True)
    run.config_path.write_text(text)
    with pytest.raises(ConfigError, match=message) as refused:
        load_frozen(run.config_path)
    assert "\n" not in str(refused.value)
    assert "config.yaml is damaged" in "".join(runs.read(run.path).remarks)
    assert not Path("imported").exists()


def test_yaml_that_is_fine_is_as_it_was(run, cartpole_cfg):
    write(run, cartpole_cfg)
    assert foreign.parse_yaml(run.config_path.read_bytes()) == yaml.safe_load(run.config_path.read_bytes())
    assert load_frozen(run.config_path) == cartpole_cfg
