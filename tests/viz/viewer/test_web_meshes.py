import mujoco
import numpy as np
import pytest

from ksim.viz.viewer.web.meshes import floors, geom_mesh, looks

SHAPES = """
<mujoco>
  <asset>
    <mesh name="wedge" vertex="0 0 0  .3 0 0  0 .2 0  0 0 .1"/>
    <hfield name="hill" nrow="3" ncol="4" size="1 2 .5 .1" elevation="0 0 0 0  0 1 .5 0  0 0 0 0"/>
    <material name="green" rgba="0 1 0 1"/>
  </asset>
  <worldbody>
    <geom name="floor" type="plane" size="0 0 .1"/>
    <geom name="hill" type="hfield" hfield="hill"/>
    <body name="a" pos="1 2 3">
      <geom type="sphere" size=".1"/>
      <geom type="ellipsoid" size=".1 .2 .3" pos="1 0 0" quat="1 1 0 0"/>
      <geom type="capsule" size=".1 .3" quat="1 0 1 0"/>
      <geom type="cylinder" size=".1 .3"/>
      <geom type="box" size=".1 .2 .3" rgba="1 0 0 .5"/>
      <geom type="mesh" mesh="wedge" material="green"/>
      <geom name="hidden" group="3" size="9"/>
      <geom name="unseen" rgba="0 0 0 0" size="9"/>
    </body>
  </worldbody>
</mujoco>
"""


@pytest.fixture(scope="module")
def shapes() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(SHAPES)


def closed(model: mujoco.MjModel) -> list[int]:
    """Geoms with a closed surface."""
    opened = [mujoco.mjtGeom.mjGEOM_PLANE.value, mujoco.mjtGeom.mjGEOM_HFIELD.value]
    return np.flatnonzero(~np.isin(model.geom_type, opened)).tolist()


def test_a_geoms_surface_fills_the_box_that_mujoco_has_for_it(shapes):
    seen = set()
    for geom in closed(shapes):
        low, high = geom_mesh(shapes, geom).bounds
        centre, half = shapes.geom_aabb[geom, :3], shapes.geom_aabb[geom, 3:]
        np.testing.assert_allclose([low, high], [centre - half, centre + half], rtol=0.01, atol=1e-6)
        seen.add(int(shapes.geom_type[geom]))
    assert len(seen) == 6


def test_surfaces_face_outwards(shapes):
    """A ray from outside meets them from their front."""
    assert all(geom_mesh(shapes, geom).volume > 0 for geom in closed(shapes))


def test_a_height_field_is_as_high_as_a_ray_of_mujoco_finds_it(shapes):
    data = mujoco.MjData(shapes)
    mujoco.mj_forward(shapes, data)
    hill = shapes.geom("hill").id
    only_hill = geom_mesh(shapes, hill)
    for x, y, z in only_hill.vertices[only_hill.vertices[:, 2] > 0]:
        down = mujoco.mj_rayHfield(shapes, data, hill, np.array([x, y, 5.0]), np.array([0.0, 0.0, -1.0]), np.zeros(3))
        assert 5.0 - down == pytest.approx(z, abs=1e-6)
    assert (only_hill.face_normals[:, 2] > 0).all()


def test_what_is_fixed_to_a_body_is_in_its_frame_and_one_piece_per_colour(shapes):
    found = {(look.body, look.rgba): look for look in looks(shapes)}
    body = shapes.body("a").id
    assert set(found) == {
        (0, (0.5, 0.5, 0.5, 1.0)),
        (body, (0.5, 0.5, 0.5, 1.0)),
        (body, (1.0, 0.0, 0.0, 0.5)),
        (body, (0.0, 1.0, 0.0, 1.0)),
    }
    grey = found[body, (0.5, 0.5, 0.5, 1.0)].vertices
    # The ellipsoid, a quarter turn about x: its long axis lies along y, a metre away from the body's origin.
    np.testing.assert_allclose([grey.max(axis=0), grey.min(axis=0)], [[1.1, 0.3, 0.3], [-0.4, -0.3, -0.3]], atol=0.01)


def test_planes_are_floors(shapes):
    assert floors(shapes) == [shapes.geom("floor").id]
