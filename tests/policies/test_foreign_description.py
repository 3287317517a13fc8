"""A manifest with a right checksum whose description is none that ksim writes: told in a line."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from support.untrained import untrained

import ksim
from ksim.errors import KsimError


@pytest.fixture(scope="module")
def written(composed, tmp_path_factory) -> Path:
    run, _ = untrained(composed["cartpole_balance"], tmp_path_factory.mktemp("cartpole") / "runs")
    return run.checkpoints / "0"


def load(written: Path, folder: Path, change) -> ksim.policies.saved.SavedPolicy:
    """The policy of a copy, whose description is changed and signed for again."""
    folder.mkdir()
    shutil.copy(written / "policy.npz", folder)
    manifest = json.loads((written / "manifest.json").read_bytes())
    del manifest["sha256"]
    change(manifest["meta"])
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**manifest, "sha256": digest}))
    return ksim.load_policy(folder)


def put(*path, value):
    """Changes one value of a description."""

    def change(meta):
        *parents, last = path
        for key in parents:
            meta = meta[key]
        meta[last] = value

    return change


ACTOR = ("observations", "actor")
CHANGES = {
    "no observations": put("observations", value=None),
    "observations in a list": put("observations", value=[]),
    "no actor": put("observations", value={"critic": []}),
    "a term that is a word": put(*ACTOR, 0, value="gravity"),
    "a term without a name": put(*ACTOR, 0, "name", value=None),
    "a size that is a word": put(*ACTOR, 0, "size", value="3"),
    "a size of nothing": put(*ACTOR, 0, "size", value=-1),
    "a size of a truth": put(*ACTOR, 0, "size", value=True),
    "another size": put(*ACTOR, 0, "size", value=70),
    "two terms of one name": lambda meta: meta["observations"]["actor"].append(meta["observations"]["actor"][0]),
    "no actions": put("actions", value=None),
    "an action that is a number": put("actions", value=[1]),
    "joints that are a word": put("actions", 0, "joints", value="slider"),
    "a joint more": put("actions", 0, "joints", value=["slider", "hinge"]),
    "a step that takes no time": put("step_dt", value=0),
    "a step that takes for ever": put("step_dt", value=None),
    "no sizes": put("policy", "sizes", value=None),
    "a size too few": put("policy", "sizes", value=[]),
    "sizes in words": put("policy", "sizes", value=["4", "1"]),
    "sizes below nothing": put("policy", "sizes", value=[4, -16, 1]),
    "sizes beyond reason": put("policy", "sizes", value=[4, 10**30, 1]),
    "an unknown activation": put("policy", "activation", value="eval"),
    "an activation that is a list": put("policy", "activation", value=[]),
    "a mirror map that is a number": put("policy", "mirror", value=3),
    "a mirror map of words": put("policy", "mirror", value={"input": {"index": ["a"], "sign": ["b"]}, "output": {}}),
    "a class that is no policy": put("policy", "_target_", value="ksim.rl.networks.MLP"),
    "the abstract policy": put("policy", "_target_", value="ksim.rl.policy.Policy"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_description_that_ksim_does_not_write_is_refused_in_a_line(name, written, tmp_path):
    with pytest.raises(KsimError) as refused:
        load(written, tmp_path / "copy", CHANGES[name])
    assert "\n" not in str(refused.value) and str(tmp_path / "copy") in str(refused.value)


def test_a_description_that_is_only_signed_again_is_read(written, tmp_path):
    """Else what was changed might be refused for another reason."""
    assert load(written, tmp_path / "copy", lambda meta: None).joints == ["slider"]
