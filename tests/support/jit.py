"""Programs that are run a few times: compiled cheaply, they run slower."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

quick_jit: Callable[..., Any] = partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)
