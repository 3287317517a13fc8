// The picture: the robot's geoms in the frames of their bodies, on a floor, seen by a camera that follows.

import * as THREE from "three";
import { OrbitControls } from "three/OrbitControls";

const SKY = 0xdfe8f2;
const FLOOR_TILE = 0.5; // m
const ABOVE_BASE = 0.4; // m, where arrows of commands start
const METRES_PER_SPEED = 0.5; // length of an arrow, m per m/s
const PUSH_SHOWN_S = 0.5;

/** A picture of a simulation in a canvas. */
export class View {
  /**
   * @param canvas where to draw.
   * @param world `drawing` and `camera`: see ksim/viz/page/drawing.py and ksim/viz/camera.py.
   * @param robot whose base the camera follows, if it has one.
   */
  constructor(canvas, { drawing, camera }, robot) {
    this.canvas = canvas;
    this.robot = robot;
    this.pixels = Math.min(devicePixelRatio, 2); // of the canvas in one of the page
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: true });
    this.renderer.shadowMap.enabled = true;
    this.renderer.shadowMap.type = THREE.PCFSoftShadowMap;
    this.scene = new THREE.Scene();
    this.scene.background = new THREE.Color(SKY);
    this.scene.fog = new THREE.Fog(SKY, 12, 45);
    this.#light();
    this.#build(drawing);
    this.#arrows();
    this.camera = new THREE.PerspectiveCamera(camera.fovy, 1, 0.02, 200);
    this.camera.up.set(0, 0, 1);
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.maxPolarAngle = 0.55 * Math.PI;
    this.home = camera;
    this.followed = new THREE.Vector3();
    this.lookHome();
    new ResizeObserver(() => this.#resize()).observe(canvas);
    this.#resize();
  }

  /** The camera where the task has it. */
  lookHome() {
    const { lookat, distance, azimuth, elevation } = this.home;
    const [a, e] = [THREE.MathUtils.degToRad(azimuth), THREE.MathUtils.degToRad(elevation)];
    const along = new THREE.Vector3(Math.cos(e) * Math.cos(a), Math.cos(e) * Math.sin(a), Math.sin(e));
    this.followed.set(0, 0, 0);
    this.controls.target.set(...lookat);
    this.camera.position.copy(this.controls.target).addScaledVector(along, -distance);
    this.controls.update();
  }

  /** Draw the simulation as it is now. */
  draw() {
    const { data } = this.robot.simulation;
    const [xpos, xquat] = [data.xpos, data.xquat];
    for (const [body, group] of this.bodies) {
      group.position.fromArray(xpos, 3 * body);
      group.quaternion.set(xquat[4 * body + 1], xquat[4 * body + 2], xquat[4 * body + 3], xquat[4 * body]);
    }
    this.#follow();
    this.#drawPull();
    this.controls.update();
    this.renderer.render(this.scene, this.camera);
  }

  /** Show a velocity that is asked for, (forward, left, turn), above the base; null for none. */
  showCommand(velocity) {
    const base = this.#base();
    const yaw = this.robot.base ? this.robot.yaw : 0;
    const start = base.clone().add(new THREE.Vector3(0, 0, ABOVE_BASE));
    const [forward, left, turn] = velocity ?? [0, 0, 0];
    const along = new THREE.Vector3(forward, left, 0).applyAxisAngle(this.camera.up, yaw);
    setArrow(this.commandArrow, start, along.multiplyScalar(METRES_PER_SPEED));
    setArrow(this.turnArrow, start, new THREE.Vector3(0, 0, turn * METRES_PER_SPEED));
  }

  /** Show a push, (forward, left) in m/s, for a while of simulated time. */
  showPush(push, time) {
    const isShown = push !== null && time >= push.time && time - push.time < PUSH_SHOWN_S;
    const along = isShown ? new THREE.Vector3(push.forward, push.left, 0) : new THREE.Vector3();
    setArrow(this.pushArrow, this.#base(), along.applyAxisAngle(this.camera.up, push?.yaw ?? 0));
  }

  /** Draw less where a computer has no graphics of its own: coarser, then without shadows, then coarser still. */
  simplify() {
    if (this.pixels > 1) this.pixels = 1;
    else if (this.sun.castShadow) this.sun.castShadow = false;
    else this.pixels = 0.5;
    this.#resize();
  }

  /** What of the robot is at a place of the canvas, in normalized coordinates: `body`, and the `point` in the world. */
  pick(place) {
    const ray = this.#ray(place);
    const [hit] = ray.intersectObjects([...this.bodies.values()], true);
    return hit ? { body: hit.object.userData.body, point: hit.point } : null;
  }

  /** Where the ray through a place of the canvas meets the plane through a point that faces the camera. */
  inPlaneOf(point, place) {
    const facing = this.camera.getWorldDirection(new THREE.Vector3());
    const plane = new THREE.Plane().setFromNormalAndCoplanarPoint(facing, point);
    return this.#ray(place).ray.intersectPlane(plane, new THREE.Vector3());
  }

  /** A point of the world in a body's frame, m. */
  toBody(body, point) {
    return this.bodies.get(body).worldToLocal(point.clone()).toArray();
  }

  #ray(place) {
    const ray = new THREE.Raycaster();
    ray.setFromCamera(new THREE.Vector2(...place), this.camera);
    return ray;
  }

  #base() {
    return this.robot.base ? new THREE.Vector3(...this.robot.position) : new THREE.Vector3();
  }

  #follow() {
    const { x, y } = this.#base();
    // Over uneven ground it rises and sinks smoothly.
    const rise = 0.1 * (this.robot.ground.height(x, y) - this.followed.z);
    const moved = new THREE.Vector3(x, y, this.followed.z + rise).sub(this.followed);
    this.followed.add(moved);
    for (const follower of [this.camera.position, this.controls.target]) follower.add(moved);
    this.sun.target.position.copy(this.followed);
    this.sun.position.copy(this.followed).add(this.sunOffset);
    // The floor goes along by whole tiles, so that it never ends and does not seem to move.
    const tiles = (value) => 2 * FLOOR_TILE * Math.round(value / (2 * FLOOR_TILE));
    this.floor?.position.set(tiles(x), tiles(y), this.floor.position.z);
  }

  #light() {
    this.scene.add(new THREE.HemisphereLight(0xffffff, 0xb8c0c8, 1.6));
    this.sun = new THREE.DirectionalLight(0xffffff, 2.0);
    this.sunOffset = new THREE.Vector3(-2.4, -4.0, 8.0);
    this.sun.castShadow = true;
    this.sun.shadow.mapSize.set(2048, 2048);
    Object.assign(this.sun.shadow.camera, { left: -3, right: 3, top: 3, bottom: -3, near: 1, far: 20 });
    this.sun.shadow.normalBias = 0.01;
    this.scene.add(this.sun, this.sun.target);
  }

  #build({ geoms, meshes, hfields }) {
    this.bodies = new Map();
    const shapes = { mesh: meshes.map(meshGeometry), hfield: hfields.map(hfieldGeometry) };
    for (const geom of geoms) {
      const isEndless = geom.type === "plane" && geom.size[0] === 0;
      const geometry = shapes[geom.type]?.[geom.data] ?? primitive(geom);
      const mesh = new THREE.Mesh(geometry, isEndless ? floorMaterial() : material(geom.rgba));
      mesh.position.fromArray(geom.pos);
      mesh.quaternion.set(geom.quat[1], geom.quat[2], geom.quat[3], geom.quat[0]);
      mesh.castShadow = geom.type !== "plane" && geom.rgba[3] === 1;
      mesh.receiveShadow = true;
      mesh.userData.body = geom.body;
      if (geom.body === 0) {
        this.scene.add(mesh);
        if (isEndless) this.floor = mesh;
        continue;
      }
      if (!this.bodies.has(geom.body)) {
        this.bodies.set(geom.body, new THREE.Group());
        this.scene.add(this.bodies.get(geom.body));
      }
      this.bodies.get(geom.body).add(mesh);
    }
  }

  #arrows() {
    const arrow = (color) => {
      const made = new THREE.ArrowHelper(new THREE.Vector3(1, 0, 0), new THREE.Vector3(), 1, color);
      made.visible = false;
      this.scene.add(made);
      return made;
    };
    [this.commandArrow, this.turnArrow, this.pushArrow] = [0x2f9e44, 0x3366e0, 0xd6336c].map(arrow);
    const geometry = new THREE.BufferGeometry().setFromPoints([new THREE.Vector3(), new THREE.Vector3()]);
    this.pullLine = new THREE.Line(geometry, new THREE.LineBasicMaterial({ color: 0xd6336c, depthTest: false }));
    this.pullLine.frustumCulled = false;
    this.pullLine.renderOrder = 1;
    this.scene.add(this.pullLine);
  }

  #drawPull() {
    const { pull } = this.robot.simulation;
    this.pullLine.visible = pull !== null;
    if (!pull) return;
    const held = this.bodies.get(pull.select).localToWorld(new THREE.Vector3(...pull.localpos));
    const ends = this.pullLine.geometry.attributes.position;
    ends.setXYZ(0, ...held.toArray());
    ends.setXYZ(1, ...pull.refselpos);
    ends.needsUpdate = true;
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    this.renderer.setPixelRatio(this.pixels);
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
  }
}

function setArrow(arrow, start, along) {
  const length = along.length();
  arrow.visible = length > 0.01;
  if (!arrow.visible) return;
  arrow.position.copy(start);
  arrow.setDirection(along.clone().normalize());
  arrow.setLength(length, Math.min(0.1, 0.4 * length), Math.min(0.06, 0.25 * length));
}

function material([r, g, b, a]) {
  const made = new THREE.MeshStandardMaterial({ roughness: 0.55, metalness: 0.05, transparent: a < 1, opacity: a });
  made.color.setRGB(r, g, b, THREE.SRGBColorSpace);
  return made;
}

function floorMaterial() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 128;
  const paint = canvas.getContext("2d");
  [["#d3d9df", 0, 0], ["#c2cbd4", 64, 0], ["#c2cbd4", 0, 64], ["#d3d9df", 64, 64]].forEach(([color, x, y]) => {
    paint.fillStyle = color;
    paint.fillRect(x, y, 64, 64);
  });
  const texture = new THREE.CanvasTexture(canvas);
  texture.colorSpace = THREE.SRGBColorSpace;
  texture.wrapS = texture.wrapT = THREE.RepeatWrapping;
  texture.repeat.setScalar(100 / (2 * FLOOR_TILE));
  texture.anisotropy = 8;
  return new THREE.MeshStandardMaterial({ map: texture, roughness: 0.9 });
}

/** MuJoCo's primitive shapes; its long axis is z. */
function primitive({ type, size }) {
  const [x, y, z] = size;
  switch (type) {
    case "plane":
      return new THREE.PlaneGeometry(2 * x || 100, 2 * y || 100);
    case "sphere":
      return new THREE.SphereGeometry(x, 32, 16);
    case "capsule":
      return new THREE.CapsuleGeometry(x, 2 * y, 12, 24).rotateX(Math.PI / 2);
    case "ellipsoid":
      return new THREE.SphereGeometry(1, 32, 16).scale(x, y, z);
    case "cylinder":
      return new THREE.CylinderGeometry(x, x, 2 * y, 32).rotateX(Math.PI / 2);
    case "box":
      return new THREE.BoxGeometry(2 * x, 2 * y, 2 * z);
    default:
      throw new Error(`this page cannot draw a ${type}`);
  }
}

function meshGeometry({ vertices, faces, normals, normal_faces }) {
  const spread = (values, indices) => {
    const found = new Float32Array(3 * indices.length);
    indices.forEach((index, i) => found.set(values.subarray(3 * index, 3 * index + 3), 3 * i));
    return new THREE.BufferAttribute(found, 3);
  };
  const geometry = new THREE.BufferGeometry();
  geometry.setAttribute("position", spread(vertices, faces));
  geometry.setAttribute("normal", spread(normals, normal_faces));
  return geometry;
}

function hfieldGeometry({ size, shape: [rows, columns], heights }) {
  const [x, y, z] = size;
  const geometry = new THREE.PlaneGeometry(2 * x, 2 * y, columns - 1, rows - 1);
  const positions = geometry.attributes.position;
  // MuJoCo's first row is at -y, three.js's at +y.
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      positions.setZ((rows - 1 - row) * columns + column, heights[row * columns + column] * z);
  geometry.computeVertexNormals();
  return geometry;
}
