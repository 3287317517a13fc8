"""Programs that call back into Python are compiled once a machine, and call what this process hands them."""

import math

from support.child import output

PROGRAM = """
import logging, sys
import jax, jax.numpy as jnp, numpy as np
from ksim.system import jax_setup
logging.basicConfig(format="%(message)s", stream=sys.stdout)
logging.getLogger("ksim.system.callback_cache").setLevel(logging.DEBUG)
jax_setup.use_compile_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
factor = float(sys.argv[1])
like = jax.ShapeDtypeStruct((3,), np.float32)

def program(x):
    def step(x, _):
        scaled = jax.pure_callback(lambda x: np.asarray(x) * np.float32(factor), like, x)
        moved = jax.pure_callback(lambda x: np.asarray(x) + np.float32(1), like, scaled)
        return jnp.sin(moved), moved
    return jax.lax.scan(step, x, None, length=2)[1]

print("result", *np.asarray(jax.jit(program)(jnp.ones(3)))[:, 0])
"""


def run(cache, factor: float, **env: str) -> tuple[list[str], list[float]]:
    """What was done with the cache, and the program's numbers."""
    lines = output(PROGRAM, str(factor), KSIM_CACHE_DIR=str(cache), **env).splitlines()
    (result,) = [line.split()[1:] for line in lines if line.startswith("result")]
    return [line.split()[0] for line in lines if ".callbacks" in line], [float(x) for x in result]


def expected(factor: float) -> list[float]:
    first = factor + 1
    return [first, math.sin(first) * factor + 1]


def test_it_is_compiled_once_and_calls_the_callbacks_of_each_process(tmp_path):
    for factor, done in ((2.0, ["wrote"]), (2.0, ["read"]), (3.0, ["read"])):
        found = run(tmp_path, factor)
        assert found[0] == done
        assert all(abs(x - y) < 1e-6 for x, y in zip(found[1], expected(factor), strict=True))
    (kept,) = tmp_path.rglob("*.callbacks")
    kept.write_bytes(kept.read_bytes()[:100])  # damaged: it is compiled anew
    done, numbers = run(tmp_path, 2.0)
    assert done[-1] == "wrote" and abs(numbers[0] - 3.0) < 1e-6
    assert run(tmp_path, 2.0)[0] == ["read"]


def test_nothing_is_kept_where_the_cache_is_off(tmp_path):
    assert run(tmp_path, 2.0, JAX_ENABLE_COMPILATION_CACHE="false")[0] == []
    assert not list(tmp_path.rglob("*.callbacks"))
