"""What a setting may be, said on its field."""

import dataclasses
from dataclasses import dataclass, field

import pytest
from omegaconf import OmegaConf

from ksim.config import fields
from ksim.config.fields import limits_of, setting
from ksim.config.values import build
from ksim.errors import ConfigError


@dataclass(kw_only=True)
class Inner:
    rate: float = setting(0.5, above=0, at_most=1)


@dataclass(kw_only=True)
class Settings:
    count: int = setting(above=0)
    share: float = setting(0.1, at_least=0, at_most=1)
    size: float = setting(2.0, at_least=0)
    most: float = setting(-1.0, at_most=3)
    kind: str = setting("round", choices=("round", "square"))
    widths: list[int] = setting([3, 4], above=0)
    pair: list[float] | None = setting(None, length=2)
    limit: int | None = setting(None, above=0)
    free: float = float("inf")
    inner: Inner = field(default_factory=Inner)


OUT = [
    ({"count": 0}, "s.count: must be above 0, not 0"),
    ({"share": 1.5}, "s.share: must be from 0 to 1, not 1.5"),
    ({"share": float("nan")}, "s.share: must be from 0 to 1 and finite, not nan"),
    ({"size": -0.1}, "s.size: must be 0 or more, not -0.1"),
    ({"size": float("inf")}, "s.size: must be 0 or more and finite, not inf"),
    ({"most": 4.0}, "s.most: must be at most 3, not 4.0"),
    ({"kind": "rond"}, "s.kind: there is no 'rond' (did you mean 'round'?); there are 'round', 'square'"),
    ({"kind": "x"}, "s.kind: there is no 'x'; there are 'round', 'square'"),
    ({"widths": [3, 0]}, "s.widths[1]: must be above 0, not 0"),
    ({"pair": [1.0]}, "s.pair: must be a list of 2 numbers, not of 1"),
    ({"limit": -1}, "s.limit: must be above 0, not -1"),
    ({"inner": Inner(rate=0.0)}, "s.inner.rate: must be above 0 and at most 1, not 0.0"),
]


@pytest.mark.parametrize(("given", "message"), OUT, ids=[message for _, message in OUT])
def test_a_value_out_of_its_limits_names_its_path(given, message):
    with pytest.raises(ConfigError) as error:
        fields.check(Settings(**{"count": 1} | given), "s")
    assert str(error.value) == message


@pytest.mark.parametrize(("given", "message"), OUT[:-1], ids=[message for _, message in OUT[:-1]])
def test_what_is_built_from_yaml_is_checked_too(given, message):
    if given.get("share") != given.get("share"):
        message = "s.share: must be a number, not nan"  # its type comes first
    with pytest.raises(ConfigError) as error:
        build(Settings, {"count": 1} | given, "s")
    assert str(error.value) == message


def test_values_at_the_limits_are_fine():
    ends = {"share": 0.0, "size": 0.0, "most": 3.0, "kind": "square", "widths": [], "pair": [0.0, 1.0], "limit": 1}
    settings = Settings(count=1, **ends, inner=Inner(rate=1.0))
    fields.check(settings)
    assert build(Settings, dataclasses.asdict(settings), "s") == settings


def test_a_default_list_is_each_ones_own():
    Settings(count=1).widths.append(9)
    assert Settings(count=1).widths == [3, 4]


def test_omegaconf_takes_such_a_dataclass():
    node = OmegaConf.merge(OmegaConf.structured(Settings), {"count": 2})
    assert OmegaConf.to_object(node) == Settings(count=2)


def test_the_choices_can_be_read():
    assert limits_of(Settings, "kind").choices == ("round", "square")
    assert limits_of(Settings, "free").choices is None
