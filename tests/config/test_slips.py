"""A slip on the command line is answered to the point: the name that was meant, and how to write it."""

import pytest

from ksim.config.compose import composer, to_config
from ksim.errors import ConfigError
from ksim.training.checks import checked

A_TERM = [
    ("rewards", "uprigt", "upright", "weight=2"),
    ("terminations", "fallne", "fallen", "limit_rad=1"),
    ("events", "pusch", "push", "speed=1"),
    ("metrics", "drif", "drift", "reduce=mean"),
    ("actions", "leg", "legs", "scale=1"),
    ("observations.actor.terms", "gravty", "gravity", "scale=2"),
]
A_KEY = [  # of a term, and deeper
    ("rewards.upright", "wieght", "weight", "a parameter"),
    ("events.push", "sped", "speed", "a parameter"),
    ("actions.legs", "scael", "scale", "a parameter"),
    ("observations.actor.terms.gravity", "nois", "noise", "a parameter"),
    ("observations.actor.terms.gravity.noise", "lo", "low", "a key"),
    ("observations.actor", "enable_corruptoin", "enable_corruption", "a key"),
    ("scene", "robt", "robot", "the schema's"),
    ("sim", "timestp", "timestep", "the schema's"),
]
OTHERS = [
    ("~task.rewards.uprigt", "~task.rewards.uprigt: there is nothing to remove (did you mean 'upright'?)"),
    ("~task.events.push.sped", "~task.events.push.sped: there is nothing to remove (did you mean 'speed'?)"),
    ("~algo.gama", "~algo.gama: there is nothing to remove (did you mean 'gamma'?)"),
    ("~task.rewards", "~task.rewards: cannot be removed; task.rewards={} empties it"),
    ("+task.rewards.uprigt=null", "+task.rewards.uprigt=null: there is nothing to remove (did you mean 'upright'?)"),
    (
        "+task.observations.actor.terms.gravty=null",
        "+task.observations.actor.terms.gravty=null: there is nothing to remove (did you mean 'gravity'?)",
    ),
    (
        "task.rewards.uprigt=null",
        "task.rewards.uprigt: no such key (did you mean 'upright'?); to add it, write +task.rewards.uprigt=...",
    ),
    ("+task.rewards.upright.weight=2", "+task.rewards.upright.weight: is there already; write it without the +"),
    (
        "+task.observations.acter.enable_corruption=false",
        "task.observations.acter: there is no such group (did you mean 'actor'?); a new one needs 'terms'",
    ),
    (
        "task.observations.actor.gravity.scale=2",
        "task.observations.actor.gravity: no such key (did you mean 'task.observations.actor.terms.gravity'?)",
    ),
    (
        "+task.observations.actor.gravity.scale=2",
        "task.observations.actor.gravity: no such key (did you mean 'terms.gravity'?)",
    ),
    (
        "task.observations.actor.terms.gravity.scale=2",
        "task.observations.actor.terms.gravity.scale: no such key; to add it, write"
        " +task.observations.actor.terms.gravity.scale=...",
    ),
    ("+task.commands.twist.fixed=[1]", "task.commands.twist: '_target_' is missing"),
    ("+task.scene.sensors.feet.geoms=x", "task.scene.sensors.feet: '_target_' is missing"),
    ("task.rewads.upright.weight=2", "task.rewads: no such key (did you mean 'rewards'?)"),
    ("+task.rewads.upright.weight=2", "task.rewads: no such key (did you mean 'rewards'?)"),
    ("task.upright.weight=2", "task.upright: no such key (did you mean 'task.rewards.upright'?)"),
    ("upright.weight=2", "upright: no such key (did you mean 'task.rewards.upright'?)"),
    ("rewards.upright.weight=2", "rewards: no such key (did you mean 'task.rewards'?)"),
    ("gamma=0.9", "gamma: no such key (did you mean 'algo.gamma'?)"),
    ("+gamma=0.9", "gamma: no such key (did you mean 'algo.gamma'?)"),
    ("task.rewards.upright.weight=null", "task.rewards.upright.weight: must be a number, not null"),
    ("task.events.push.speed={a:1}", "task.events.push.speed: must be a list, not a mapping"),
    (
        "task.rewards.upright._target_=ksim.mdp.rewards.uprigt",
        "task.rewards.upright: ksim.mdp.rewards has no 'uprigt' (did you mean 'upright'?)",
    ),
    ("logger.wandb.mode=offline", "logger.wandb: is off, so nothing in it can be set; turn it on with logger=wandb"),
    ("seed==3", "seed==3: is not an override of the form key=value: extraneous input '='"),
    ("algo.num_envs:512", "algo.num_envs:512: is not an override of the form key=value"),
]


@pytest.fixture(scope="module")
def load():
    with composer() as load:
        yield load


def answer(load, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        checked(to_config(load(overrides)))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("group", "slip", "meant", "value"), A_TERM)
def test_a_term_that_is_not_there(load, group, slip, meant, value):
    path = f"task.{group}.{slip}"
    found = answer(load, f"{path}.{value}")
    assert found == f"{path}: no such key (did you mean '{meant}'?); to add it, write +{path}=..."
    for plus in ("+", "++"):
        found = answer(load, f"{plus}{path}.{value}")
        assert found == f"{path}: there is no such term (did you mean '{meant}'?); a new one needs a '_target_'"


@pytest.mark.parametrize(("group", "slip", "meant", "what"), A_KEY)
def test_a_key_that_is_not_there(load, group, slip, meant, what):
    path = f"task.{group}.{slip}"
    add = "" if what == "the schema's" else f"; to add it, write +{path}=..."
    assert answer(load, f"{path}=1") == f"{path}: no such key (did you mean '{meant}'?){add}"
    found = answer(load, f"+{path}=1")
    assert found.startswith(f"{path}: ") and found.endswith(f" (did you mean '{meant}'?)")
    assert ("has no parameter" in found) == (what == "a parameter")


@pytest.mark.parametrize(("override", "message"), OTHERS, ids=[override for override, _ in OTHERS])
def test_other_slips(load, override, message):
    assert answer(load, override) == message


def test_the_default_event_can_be_removed_where_no_yaml_names_it(load):
    assert checked(to_config(load(["+task.events.reset_scene_to_default=null"]))).task.events["push"]
