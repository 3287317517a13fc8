// The robot as a control loop knows it: joints by name, the base, what its sensors say.

/** A robot in a simulation, as the policy's metadata describes it. */
export class Robot {
  constructor(simulation, metadata, ground) {
    this.simulation = simulation;
    this.ground = ground;
    const { model } = simulation;
    this.joints = new Map(); // in the metadata's order: those with an actuator first, in the order of the controls
    metadata.joints.forEach(({ name, home, control }, i) => {
      const id = simulation.id("JOINT", name);
      const actuator = control === undefined ? null : i;
      this.joints.set(name, { home, actuator, qpos: model.jnt_qposadr[id], qvel: model.jnt_dofadr[id] });
    });
    this.base = null;
    if (metadata.base) {
      const body = simulation.id("BODY", metadata.base.body);
      const joint = model.body_jntadr[body];
      const { home_pos, home_quat } = metadata.base;
      this.base = { body, qpos: model.jnt_qposadr[joint], qvel: model.jnt_dofadr[joint], home: [...home_pos, ...home_quat] };
    }
  }

  /** The home pose at rest. */
  reset() {
    this.simulation.reset();
    const { data } = this.simulation;
    for (const { home, qpos } of this.joints.values()) data.qpos[qpos] = home;
    if (this.base) {
      const [x, y, z, ...quaternion] = this.base.home;
      data.qpos.set([x, y, z + this.ground.height(x, y), ...quaternion], this.base.qpos);
    }
    this.simulation.refresh();
  }

  /** Positions of joints, rad or m. */
  positions(names) {
    return names.map((name) => this.simulation.data.qpos[this.joints.get(name).qpos]);
  }

  /** Velocities of joints, rad/s or m/s. */
  velocities(names) {
    return names.map((name) => this.simulation.data.qvel[this.joints.get(name).qvel]);
  }

  /** Torques or forces of the joints' actuators in the last physics step, N m or N. */
  forces(names) {
    return names.map((name) => this.simulation.data.actuator_force[this.joints.get(name).actuator]);
  }

  /** Values of a sensor of the model, in MuJoCo's units. */
  sensor(name) {
    const { model, data } = this.simulation;
    const id = this.simulation.id("SENSOR", name);
    const start = model.sensor_adr[id];
    return Array.from(data.sensordata.subarray(start, start + model.sensor_dim[id]));
  }

  /** Position of the base in the world, m. */
  get position() {
    return Array.from(this.simulation.data.qpos.subarray(this.base.qpos, this.base.qpos + 3));
  }

  /** Height of the base above the ground, m. */
  get height() {
    const [x, y, z] = this.position;
    return z - this.ground.height(x, y);
  }

  /** Orientation of the base in the world, wxyz. */
  get quaternion() {
    return Array.from(this.simulation.data.qpos.subarray(this.base.qpos + 3, this.base.qpos + 7));
  }

  /** Heading of the base, rad. */
  get yaw() {
    const [w, x, y, z] = this.quaternion;
    return Math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z));
  }

  /** Direction of gravity in the base's frame, a unit vector. */
  get gravity() {
    return rotateInverse(this.quaternion, [0, 0, -1]);
  }

  /** Linear velocity of the base in its own frame, m/s. */
  get linearVelocity() {
    return rotateInverse(this.quaternion, this.worldVelocity);
  }

  /** Linear velocity of the base in the world, m/s. */
  get worldVelocity() {
    return Array.from(this.simulation.data.qvel.subarray(this.base.qvel, this.base.qvel + 3));
  }

  /** Angular velocity of the base in its own frame, rad/s. */
  get angularVelocity() {
    return Array.from(this.simulation.data.qvel.subarray(this.base.qvel + 3, this.base.qvel + 6));
  }

  /** Change the base's velocity over the floor, m/s: forward and to the left, as it heads. */
  push(forward, left) {
    const { data } = this.simulation;
    const [cos, sin] = [Math.cos(this.yaw), Math.sin(this.yaw)];
    data.qvel[this.base.qvel] += forward * cos - left * sin;
    data.qvel[this.base.qvel + 1] += forward * sin + left * cos;
    this.simulation.refresh();
  }
}

/** A vector of the world in the frame of a unit quaternion (wxyz). */
export function rotateInverse([w, x, y, z], [a, b, c]) {
  // v + 2 u x (u x v + w v) with u of the conjugate
  const [p, q, r] = [-x, -y, -z];
  const [d, e, f] = [q * c - r * b + w * a, r * a - p * c + w * b, p * b - q * a + w * c];
  return [a + 2 * (q * f - r * e), b + 2 * (r * d - p * f), c + 2 * (p * e - q * d)];
}
