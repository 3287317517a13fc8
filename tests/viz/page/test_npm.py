"""Packages from an npm registry: pinned and checked, where npm is told to look, kept; mistakes are one line."""

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from ksim.viz.page import npm
from ksim.viz.page.npm import NpmError, Package


@pytest.fixture(autouse=True)
def _unconfigured(tmp_path, monkeypatch):
    """As on a machine that was never told of a registry; npm's own is never asked."""
    monkeypatch.setenv("KSIM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", "")
    for name in ("NPM_CONFIG_REGISTRY", "npm_config_registry", "NPM_CONFIG_USERCONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def registry(tmp_path, monkeypatch) -> tuple[Path, Package]:
    """A registry that is a folder, and a package in it."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        entry = tarfile.TarInfo("package/a/b.js")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"hello"))
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(content.getvalue()).digest()).decode()
    path = tmp_path / "registry" / "@some" / "thing" / "-" / "thing-1.2.3.tgz"
    path.parent.mkdir(parents=True)
    path.write_bytes(content.getvalue())
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", (tmp_path / "registry").as_uri() + "/")
    return path, Package("@some/thing", "1.2.3", integrity)


def test_a_package_is_fetched_once(registry, tmp_path):
    path, package = registry
    assert npm.read(package, ["a/b.js"]) == {"a/b.js": b"hello"}
    path.unlink()
    assert npm.read(package, ["a/b.js"]) == {"a/b.js": b"hello"}
    kept = tmp_path / "cache" / "npm" / "thing-1.2.3.tgz"
    kept.write_bytes(kept.read_bytes()[:-1])  # damaged: it is asked for again
    with pytest.raises(NpmError):
        npm.read(package, ["a/b.js"])


def test_another_content_is_refused(registry, tmp_path):
    path, package = registry
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(NpmError, match=r"gives as @some/thing 1\.2\.3 is not what ksim was made for$"):
        npm.read(package, ["a/b.js"])
    assert not (tmp_path / "cache").exists()


def test_a_registry_that_does_not_answer_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9")
    with pytest.raises(NpmError) as error:
        npm.read(Package("three", "1.0.0", "sha512-"), ["LICENSE"])
    message = str(error.value)
    assert message.startswith("page: three 1.0.0 cannot be fetched from http://127.0.0.1:9: ")
    assert message.endswith(f"npm pack three@1.0.0, and move its three-1.0.0.tgz to {tmp_path}/cache/npm")
    assert "\n" not in message


def test_npms_configuration_is_followed(tmp_path, monkeypatch):
    thing, scoped = Package("thing", "1.0.0", ""), Package("@some/thing", "1.0.0", "")
    assert npm.registry_of(thing) == npm.registry_of(scoped) == "https://registry.npmjs.org"
    bin_, home = tmp_path / "usr" / "bin", tmp_path / "home"
    for folder in (bin_, tmp_path / "usr" / "etc", home):
        folder.mkdir(parents=True)
    (bin_ / "npm").touch(0o755)
    monkeypatch.setenv("PATH", str(bin_))
    (tmp_path / "usr" / "etc" / "npmrc").write_text("registry=https://global.example/\n")
    assert npm.registry_of(thing) == "https://global.example"
    (home / ".npmrc").write_text("; mine\nregistry = 'https://${SITE}.example'\n@some:registry=https://scope.example\n")
    monkeypatch.setenv("SITE", "user")
    assert npm.registry_of(thing) == "https://user.example"
    Path(".npmrc").write_text("registry=https://project.example\n")
    assert npm.registry_of(thing) == "https://project.example"
    monkeypatch.setenv("npm_config_registry", "https://environment.example")
    assert npm.registry_of(thing) == "https://environment.example"
    assert npm.registry_of(scoped) == "https://scope.example"
