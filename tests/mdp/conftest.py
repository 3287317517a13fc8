import pytest

from ksim.compose import compose
from ksim.envs.scene import Scene, build_scene


@pytest.fixture(scope="session")
def kbot() -> Scene:
    return build_scene(compose(["task=kbot_standing"]).task)


@pytest.fixture(scope="session")
def cartpole() -> Scene:
    return build_scene(compose(["task=cartpole_balance"]).task)
