"""The licences of what a page carries, word for word.

MuJoCo's and ONNX Runtime's npm packages name theirs but do not hold it: the Python packages of the same projects do.
"""

import importlib.metadata
import sys
from pathlib import Path

from ksim.robots import Robot

_MARKS = ("LICENSE", "NOTICE", "ThirdParty")


def of_distribution(name: str) -> str:
    """The licence texts that an installed Python package brings along, its third parties' among them."""
    try:
        paths = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:  # ksim, from a checkout that is not installed
        paths = []
    found = [Path(str(path.locate())) for path in paths if path.name.startswith(_MARKS)]
    found = found or [Path(__file__).parents[3] / "LICENSE"]
    return _joined(found)


def of_robot(robot: Robot) -> str:
    """What lies beside a robot's MJCF; where another package brings that along, the package's."""
    folder = Path(robot.spec.modelfiledir).resolve()
    texts = [_joined([path for path in sorted(folder.iterdir()) if path.name.startswith(_MARKS)])]
    for place in map(Path, sys.path):
        if place.is_absolute() and folder.is_relative_to(place) and folder != place:
            package = folder.relative_to(place).parts[0]
            names = importlib.metadata.packages_distributions().get(package, [])
            texts += [of_distribution(name) for name in dict.fromkeys(names) if name != "ksim"]
    return "\n\n".join(filter(None, texts))


def _joined(paths: list[Path]) -> str:
    return "\n\n".join(path.read_text(encoding="utf-8", errors="replace").strip() for path in paths if path.is_file())
