import pytest

from ksim.config.compose import compose
from ksim.envs.scene import Scene, build_scene


@pytest.fixture(scope="session")
def kbot() -> Scene:
    return build_scene(compose(["task=kbot_standing"]).task)


@pytest.fixture(scope="session")
def kbot_feet() -> Scene:
    """With a contact sensor of two elements, the feet."""
    feet = "{_target_: ksim.mdp.sensors.contact, bodies: '.*FootBushing.*', against: floor, track_time: true}"
    return build_scene(compose(["task=kbot_standing", f"+task.scene.sensors.feet={feet}"]).task)


@pytest.fixture(scope="session")
def cartpole() -> Scene:
    return build_scene(compose(["task=cartpole_balance"]).task)
