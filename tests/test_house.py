"""The house rules that no linter knows: sizes, and where an import may stand."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("ksim", "tests") for path in (ROOT / folder).rglob("*.py"))
MAX_FUNCTION, MAX_MODULE = 60, 350  # lines

LONG_MODULES = {
    "ksim/rl/ppo.py": "one algorithm, to be read from top to bottom",
}
LATE_IMPORTS = {
    "ksim/viz/render_worker.py": "what a driver throws at an import is the worker's answer to its parent",
}
TYPE_CHECKING = {
    "ksim/__init__.py": "names that are imported when they are first used",
    "ksim/envs/__init__.py": "names that are imported when they are first used",
    "ksim/envs/api/make.py": "an optional extra",
    "ksim/viz/viewer/__init__.py": "names that are imported when they are first used",
    "ksim/physics/mjx.py": "mujoco.mjx prints when it is imported; what keeps it quiet hides it from a type checker",
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def sources() -> dict[str, tuple[list[str], ast.Module]]:
    texts = {name_of(path): path.read_text() for path in FILES}
    return {name: (text.splitlines(), ast.parse(text)) for name, text in texts.items()}


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_functions_are_short(sources):
    found = {
        f"{name}:{f.lineno} {f.name}": size
        for name, (_, tree) in sources.items()
        for f in functions(tree)
        if (size := f.end_lineno - f.lineno + 1) > MAX_FUNCTION
    }
    assert not found


def test_modules_are_short_or_have_a_reason(sources):
    long = {name for name, (lines, _) in sources.items() if name.startswith("ksim/") and len(lines) > MAX_MODULE}
    assert long == set(LONG_MODULES)


def test_imports_stand_at_the_top_or_say_why_not(sources):
    """A comment on the line gives the reason: an optional extra, or a slow start."""
    late = {
        (name, node.lineno): "#" in lines[node.lineno - 1]
        for name, (lines, tree) in sources.items()
        if name.startswith("ksim/")
        for function in functions(tree)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    silent = {place for place, says_why in late.items() if not says_why}
    assert {name for name, _ in silent} == set(LATE_IMPORTS), sorted(silent)


def test_no_type_checking_hides_a_circle(sources):
    names = {
        name
        for name, (_, tree) in sources.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    }
    assert names == set(TYPE_CHECKING)
