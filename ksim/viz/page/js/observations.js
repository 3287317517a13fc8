// What the policy sees: each term measured, clipped, scaled, delayed and kept for its history, as the metadata says.

import { steps } from "ksim/timing.js";

/** What a term of the actor measures, by the function that measured it in training. */
export const MEASURES = {
  "ksim.mdp.observations.projected_gravity": ({ robot }) => robot.gravity,
  "ksim.mdp.observations.base_ang_vel": ({ robot }) => robot.angularVelocity,
  "ksim.mdp.observations.base_lin_vel": ({ robot }) => robot.linearVelocity,
  "ksim.mdp.observations.base_height": ({ robot }) => [robot.height],
  "ksim.mdp.observations.joint_pos": ({ robot }, { joints }) =>
    robot.positions(joints).map((position, i) => position - robot.joints.get(joints[i]).home),
  "ksim.mdp.observations.joint_vel": ({ robot }, { joints }) => robot.velocities(joints),
  "ksim.mdp.observations.joint_pos_cos_sin": ({ robot }, { joints }) => {
    const angles = robot.positions(joints);
    return [...angles.map(Math.cos), ...angles.map(Math.sin)];
  },
  "ksim.mdp.observations.actuator_force": ({ robot }, { joints }) => robot.forces(joints),
  "ksim.mdp.observations.sensor": ({ robot }, { parameters }) => robot.sensor(parameters.name),
  "ksim.mdp.observations.last_action": ({ action }) => action,
  "ksim.mdp.observations.command": ({ commands }, { parameters }) => commands.get(parameters.name).value,
  "ksim.mdp.observations.ground_scan": ({ robot }, { parameters }) => groundScan(robot, parameters),
  "ksim.mdp.observations.phase": ({ time }, { parameters }) => {
    const angle = (2 * Math.PI * time) / parameters.period_s;
    return [Math.cos(angle), Math.sin(angle)];
  },
};

/** Heights of the ground on a grid around the base, above where it would stand in its home pose, m. */
function groundScan(robot, { forward: [first, last], width, spacing, limit }) {
  const line = (from, to) => {
    const count = Math.round((to - from) / spacing);
    return Array.from({ length: count + 1 }, (_, i) => from + ((to - from) * i) / count);
  };
  const [x, y, z] = robot.position;
  const [cos, sin] = [Math.cos(robot.yaw), Math.sin(robot.yaw)];
  const sole = z - robot.base.home[2];
  return line(first, last).flatMap((ahead) =>
    line(-width / 2, width / 2).map((left) => {
      const height = robot.ground.height(x + ahead * cos - left * sin, y + ahead * sin + left * cos) - sole;
      return Math.min(Math.max(height, -(limit ?? Infinity)), limit ?? Infinity);
    }),
  );
}

/** The actor's observation, a term after the other. */
export class Observation {
  constructor(terms, stepDt) {
    this.terms = terms.map((term) => new ObservationTerm(term, stepDt));
    this.size = terms.reduce((sum, term) => sum + term.size, 0);
  }

  reset() {
    for (const term of this.terms) term.frames = null;
  }

  /** The vector; `loop` has the robot, commands, the last action and the time. */
  observe(loop) {
    const vector = Float32Array.from(this.terms.flatMap((term) => term.observe(loop)));
    if (vector.length !== this.size) throw new Error(`the observation has ${vector.length} elements, not ${this.size}`);
    return vector;
  }
}

class ObservationTerm {
  constructor(term, stepDt) {
    this.term = term;
    this.measure = MEASURES[term.function];
    if (!this.measure) throw new Error(`this page cannot measure ${term.function}`);
    this.lag = steps(term.delay, stepDt);
    this.frames = null; // newest first
  }

  observe(loop) {
    const { clip, scale = 1, history } = this.term;
    const [low, high] = clip ?? [null, null];
    const frame = Array.from(this.measure(loop, this.term), (value, i) => {
      const clipped = Math.min(Math.max(value, low ?? -Infinity), high ?? Infinity);
      return clipped * (Array.isArray(scale) ? scale[i] : scale);
    });
    const kept = this.lag + history;
    this.frames = this.frames ? [frame, ...this.frames].slice(0, kept) : Array(kept).fill(frame);
    return this.frames.slice(this.lag).reverse().flat();
  }
}
