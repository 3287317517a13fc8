import mujoco
import pytest

from ksim.viz.backend import forget_backends

# A red ball on a white plane, with a body to track, a mocap target and a camera of its own.
BALL = """
<mujoco>
  <visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
  <worldbody>
    <geom type="plane" size="20 20 0.1" rgba="1 1 1 1"/>
    <camera name="side" pos="0 -4 1" xyaxes="1 0 0 0 0 1"/>
    <body name="ball" pos="0 0 1"><freejoint/><geom size="0.2" rgba="1 0 0 1"/></body>
    <body name="target" mocap="true" pos="0 0 -5">
      <geom type="box" size="0.2 0.2 0.2" rgba="0 0 1 1" contype="0" conaffinity="0"/>
    </body>
  </worldbody>
</mujoco>
"""


@pytest.fixture(scope="session")
def ball() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(BALL)


@pytest.fixture
def ball_on_a_table() -> mujoco.MjModel:
    """The same over a table of 6 by 6 m, half a metre high, on the floor."""
    spec = mujoco.MjSpec.from_string(BALL)
    spec.add_hfield(name="table", nrow=2, ncol=2, size=[3, 3, 0.1, 0.1], userdata=[0.0] * 4)
    table = {"type": mujoco.mjtGeom.mjGEOM_HFIELD, "hfieldname": "table", "pos": [0.0, 0.0, 0.5]}
    spec.worldbody.add_geom(**table, rgba=[0.2, 0.2, 0.2, 1])
    return spec.compile()


@pytest.fixture
def fresh_backend():
    """Lets a test change the environment without leaving its answer behind."""
    forget_backends()
    yield
    forget_backends()
