"""Packages of the npm registry, without Node: pinned, checked against their hash, kept in ksim's cache folder."""

import base64
import hashlib
import io
import os
import re
import shutil
import ssl
import tarfile
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ksim.errors import KsimError
from ksim.store import files
from ksim.system import cache

_DEFAULT_REGISTRY = "https://registry.npmjs.org"  # npm's own
_TIMEOUT_S = 60.0


class NpmError(KsimError):
    """A package cannot be had, or is not the one that was pinned."""


@dataclass(frozen=True)
class Package:
    """A release of a package; `integrity` is what `npm view <name>@<version> dist.integrity` says."""

    name: str
    version: str
    integrity: str

    @property
    def archive(self) -> str:
        """File name of its tarball."""
        return f"{self.name.rpartition('/')[2]}-{self.version}.tgz"


def read(package: Package, paths: Sequence[str]) -> dict[str, bytes]:
    """Files of a package, by their path in it; it is fetched when it is first asked for.

    Raises:
        NpmError: the registry cannot be reached, or gives something else.
    """
    with tarfile.open(fileobj=io.BytesIO(_archive(package)), mode="r:gz") as archive:
        found = {}
        for path in paths:
            member = archive.extractfile(f"package/{path}")
            assert member is not None  # what the hash pins has not changed
            found[path] = member.read()
    return found


def _archive(package: Package) -> bytes:
    kept = cache.folder() / "npm" / package.archive
    if kept.is_file() and _is_intact(package, content := kept.read_bytes()):
        return content
    registry = registry_of(package)
    url = f"{registry}/{package.name}/-/{package.archive}"
    try:
        context = ssl.create_default_context(cafile=_setting("cafile"))
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S, context=context) as answer:
            content = answer.read()
    except (OSError, ValueError) as error:
        raise NpmError(
            f"page: {package.name} {package.version} cannot be fetched from {registry}: {error}; where npm itself gets "
            f"it: npm pack {package.name}@{package.version}, and move its {kept.name} to {kept.parent}"
        ) from error
    if not _is_intact(package, content):
        raise NpmError(f"page: what {registry} gives as {package.name} {package.version} is not what ksim was made for")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(kept, content)
    except OSError:
        pass  # the next page fetches it again
    return content


def _is_intact(package: Package, content: bytes) -> bool:
    kind, _, expected = package.integrity.partition("-")
    return base64.b64encode(hashlib.new(kind, content).digest()).decode() == expected


# npm's configuration: https://docs.npmjs.com/cli/configuring-npm/npmrc -----------------------------------------------


def registry_of(package: Package) -> str:
    """URL of the registry that npm is set up to get a package from, without a slash at its end."""
    scope, slash, _ = package.name.partition("/")
    chosen = _setting(f"{scope}:registry") if slash else None
    return (chosen or _setting("registry") or _DEFAULT_REGISTRY).rstrip("/")


def _setting(key: str) -> str | None:
    """A value of npm's configuration: of the environment, else of the project's, the user's or the global npmrc."""
    for name, value in os.environ.items():
        if name.lower() == f"npm_config_{key}" and value:
            return value
    for path in _npmrc_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        for line in reversed(lines):  # the last one counts
            name, equals, value = line.partition("=")
            if equals and name.strip() == key:
                return _expanded(value.strip().strip("\"'"))
    return None


def _npmrc_files() -> Iterator[Path]:
    yield Path(".npmrc")
    yield Path(os.environ.get("NPM_CONFIG_USERCONFIG") or Path.home() / ".npmrc")
    if npm := shutil.which("npm"):
        yield Path(npm).parent.parent / "etc" / "npmrc"


def _expanded(value: str) -> str:
    """With ${NAME} replaced by the environment's, as npm does."""
    return re.sub(r"\$\{(\w+)\}", lambda found: os.environ.get(found[1], found[0]), value)
