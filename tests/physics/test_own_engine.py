"""An engine from outside: a module, a YAML file, and nothing of ksim changed."""

import json
import re
from pathlib import Path

import pytest
from support.child import python
from support.runs import SMALL

from ksim.config.compose import compose
from ksim.errors import ConfigError
from ksim.system import trust
from ksim.training.checks import checked

README = (Path(__file__).parents[2] / "README.md").read_text()
RUN = (
    "import runpy, sys; sys.argv[0] = 'run'; sys.path.insert(0, ''); runpy.run_module('ksim.run', run_name='__main__')"
)
COUNTED = """
import atexit
calls = {"step": 0, "forward": 0}
atexit.register(lambda: open("calls.json", "w").write(__import__("json").dumps(calls)))

class CountedPhysics(MyPhysics):
    def _host_step(self, *args):
        calls["step"] += 1
        return super()._host_step(*args)

    def _host_forward(self, *args):
        calls["forward"] += 1
        return super()._host_forward(*args)
"""


@pytest.mark.slow
def test_an_engine_of_ones_own_trains(tmp_path, monkeypatch):
    """The README's, which counts its calls here: one step of all envs for each env step of the training."""
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n# my_engine.py\n(.*?)```", README, re.DOTALL)
    Path("my_engine.py").write_text(code + COUNTED)
    Path("my_conf/physics").mkdir(parents=True)
    (yaml,) = re.findall(r"```yaml\n# my_conf/physics/mine.yaml\n(.*?)```", README, re.DOTALL)
    Path("my_conf/physics/mine.yaml").write_text(yaml.replace("MyPhysics  #", "CountedPhysics  #"))
    overrides = [o for o in SMALL if not o.startswith("physics")]
    printed = python(RUN, "--config-dir", "my_conf", *overrides, "physics=mine", "algo.total_steps=256")
    assert printed.returncode == 0, printed.stderr[-3000:]
    assert "my_engine.CountedPhysics, as physics.engine asks" in printed.stderr + printed.stdout
    calls = json.loads(Path("calls.json").read_text())
    assert calls["step"] == 256 // 16 and calls["forward"] >= 1
    (run,) = Path("runs/cartpole_balance").glob("2*")
    assert json.loads((run / "status.json").read_text())["state"] == "completed"
    assert "engine: my_engine.CountedPhysics" in (run / "config.yaml").read_text()


def test_an_engine_that_is_not_there_is_refused_before_anything_is_built(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match=r"^physics.engine: there is no module 'my_engin'"):
        checked(compose([*SMALL, "physics.engine=my_engin.MyPhysics"]))
    with pytest.raises(ConfigError, match=r"^physics.engine: ksim.physics.batch has no 'BatchPhysic' \(did you mean"):
        checked(compose([*SMALL, "physics.engine=ksim.physics.batch.BatchPhysic"]))
    with pytest.raises(
        ConfigError, match=r"^physics.engine: there is no 'mujco' \(did you mean 'mujoco'.*dotted paths"
    ):
        checked(compose([*SMALL, "physics.engine=mujco"]))
    checked(compose([*SMALL, "physics.engine=ksim.physics.batch.BatchPhysics"]))


def test_a_strangers_run_may_not_name_an_engine(tmp_path, monkeypatch):
    """Building it would run their code."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("KSIM_TRUST", raising=False)
    config = tmp_path / "config.yaml"
    config.write_text("physics: {engine: subprocess.Popen}")
    with pytest.raises(ConfigError, match="physics.engine: subprocess.Popen is not one of ksim's terms"):
        trust.read(config)
    for harmless in ("mjx", "ksim.physics.batch.BatchPhysics"):
        config.write_text(f"physics: {{engine: {harmless}}}")
        assert harmless in trust.read(config)
