"""Which trainings fit into one program: those that differ in numbers alone. Nothing is built, no backend starts."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ksim.config import compose, fields
from ksim.config.schema import Config, ManagerBasedRlEnvCfg
from ksim.envs.numbers import Number, as_number, term_numbers
from ksim.envs.task import TaskTerms
from ksim.system import trees

# What may differ besides numbers: it changes a run's first state, or what is made of its results.
_FREE = ("seed", "runs_dir", "init_from", "init_checkpoint", "logger.")


class Pack(NamedTuple):
    """Trainings that fit into one program.

    Attributes:
        members: their numbers in the list that was asked about.
        why_apart: why these are not in a pack before: YAML paths; none for the first one, and where others were full.
    """

    members: list[int]
    why_apart: list[str]


def packs(configs: Sequence[Config], at_most: int | None = None) -> list[Pack]:
    """Trainings in packs, each as early as it fits.

    Args:
        configs: the trainings, checked.
        at_most: members of a pack; None: no limit.
    """
    made: list[Pack] = []
    numbers = [numbers_of(config) for config in configs]
    plain = [compose.plain(config) for config in configs]
    for i in range(len(configs)):
        why: list[str] = []
        is_any_full = False
        for pack in made:
            first = pack.members[0]
            different = _differences(plain[first], plain[i])
            obstacles = [path for path in different if not _both(path, numbers[first], numbers[i])]
            if configs[i].eval.stop_at_gate:  # it ends at a step of its own
                obstacles = ["eval.stop_at_gate"]
            if not isinstance(
                configs[i].task, ManagerBasedRlEnvCfg
            ):  # its physics is called by code that is not ksim's
                obstacles = ["task"]
            if obstacles:
                why = why or obstacles
            elif at_most is not None and len(pack.members) >= at_most:
                is_any_full = True
            else:
                pack.members.append(i)
                break
        else:
            made.append(Pack([i], [] if is_any_full else why))
    return made


def numbers_of(config: Config) -> dict[str, Number]:
    """What may differ between trainings in one program: traceable settings of the algorithm, and terms' numbers."""
    settings = {name: getattr(config.algo, name) for name in fields.traceable(type(config.algo))}
    of_algo = {f"algo.{name}": number for name, x in settings.items() if (number := as_number(x)) is not None}
    if not isinstance(config.task, ManagerBasedRlEnvCfg):
        return of_algo
    return of_algo | term_numbers(TaskTerms.of(config.task))


def varied(configs: Sequence[Config]) -> dict[str, list[Number]]:
    """The numbers in which trainings of one pack differ: YAML path -> the value of each."""
    numbers = [numbers_of(config) for config in configs]
    plain = [compose.plain(config) for config in configs]
    paths = sorted({path for other in plain[1:] for path in _differences(plain[0], other)})
    return {path: [own[path] for own in numbers] for path in paths if path in numbers[0]}


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    different = trees.differences(a, b)
    engines = different.get("physics.engine")
    if engines and "auto" in engines:  # one of them has begun before, and its engine is resolved
        del different["physics.engine"]
    return [path for path in different if not path.startswith(_FREE)]


def _both(path: str, a: Mapping[str, Number], b: Mapping[str, Number]) -> bool:
    """Whether it is a number that both have, of the same length."""
    lengths = [len(x) if isinstance(x := own.get(path), tuple) else x and 0 for own in (a, b)]
    return lengths[0] is not None and lengths[0] == lengths[1]
