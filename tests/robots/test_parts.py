"""Names as tasks write them: parts of the robot, regexes, and what is said where nothing is found."""

import pytest

from ksim import robots
from ksim.errors import ConfigError
from ksim.robots.parts import Part, match

BODIES = ["world", "torso", "left_foot", "right_foot", "foot", ""]
PARTS = {
    "feet": Part(bodies="(left|right)_foot", sites=("toe", "heel")),
    "foot": Part(bodies="left_.*"),
    "legs": Part(joints=".*knee"),
    "lost": Part(bodies="no_such_.*"),
}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("feet", [2, 3]),
        (("feet", "torso"), [1, 2, 3]),  # a part and a regex, in the order of the model
        (("right_foot", "left_foot", "left_foot"), [2, 3]),
        (".*foot", [2, 3, 4]),
        ("foot", [2]),  # the part wins over the body of that name
        ("(foot)", [4]),  # which a regex can still mean
        (".*", [0, 1, 2, 3, 4]),  # what has no name is never meant
    ],
)
def test_a_word_is_a_part_or_a_regex(wanted, found):
    assert match(wanted, BODIES, "body", PARTS).tolist() == found


def test_a_part_without_names_of_the_kind_leaves_its_name_to_regexes():
    assert match("legs", ["arms", "legs"], "geom", PARTS).tolist() == [1]


@pytest.mark.parametrize(
    ("wanted", "kind", "message"),
    [
        (
            "feets",
            "body",
            "no body matches 'feets' (did you mean 'feet'?); parts with bodies: feet, foot, lost; there are",
        ),
        (
            "legs",
            "body",
            "the robot's part 'legs' has no bodies; parts with bodies: feet, foot, lost; there are: world, ",
        ),
        ("lost", "body", "the robot's part 'lost' names no body of this model; there are: world, torso, "),
        (("feet", "hand"), "body", "no body matches 'hand'"),
        ("(", "body", "body pattern '(' is not a regular expression: "),
        ((), "body", "an empty list names no body"),
        ("x", "sensor", "no sensor matches 'x'; there are: world"),
    ],
)
def test_what_names_nothing_is_told_with_what_would(wanted, kind, message):
    with pytest.raises(ConfigError) as error:
        match(wanted, BODIES, kind, PARTS)
    assert message in str(error.value)


def test_kbots_parts_are_its_joints_and_feet():
    kbot = robots.load("kbot")
    legs, arms = (match(part, kbot.joint_names, "joint", kbot.parts).tolist() for part in ("legs", "arms"))
    assert legs == list(range(10)) and arms == list(range(10, 20))
    model = kbot.spec.compile()
    feet = match("feet", [model.body(i).name for i in range(model.nbody)], "body", kbot.parts)
    geoms = match("feet", [model.geom(i).name for i in range(model.ngeom)], "geom", kbot.parts)
    assert len(feet) == 2 and set(model.geom_bodyid[geoms]) == set(feet)
