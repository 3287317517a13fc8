// From the policy's action to the controls of every physics step, as the metadata's laws say.

import { steps } from "ksim/timing.js";

/** The terms of the action; joints that none of them drives hold their home position. */
export class Action {
  constructor(terms, robot, { decimation, simulation: { timestep } }) {
    this.robot = robot;
    this.substeps = decimation;
    this.home = [...robot.joints.values()].filter((joint) => joint.actuator !== null).map((joint) => joint.home);
    this.terms = terms.map((term) => new ActionTerm(term, robot, decimation, timestep));
    this.size = terms.reduce((sum, term) => sum + term.joints.length, 0);
  }

  /** Begin an episode; returns the controls of an action of zeros. */
  reset() {
    const control = [...this.home];
    for (const term of this.terms) term.reset().forEach((target, i) => (control[term.actuators[i]] = target));
    return control;
  }

  /** The controls of an env step: an array for each physics step. */
  controls(action, commands) {
    const controls = Array.from({ length: this.substeps }, () => [...this.home]);
    let start = 0;
    for (const term of this.terms) {
      const own = action.slice(start, (start += term.actuators.length));
      term.controls(own, commands).forEach((targets, s) => targets.forEach((target, i) => (controls[s][term.actuators[i]] = target)));
    }
    return controls;
  }
}

class ActionTerm {
  constructor(term, robot, substeps, timestep) {
    this.term = term;
    this.robot = robot;
    this.substeps = substeps;
    this.actuators = term.joints.map((name) => robot.joints.get(name).actuator);
    this.lag = steps(term.delay, timestep);
    this.gain = term.low_pass_hz && 1 - Math.exp(-2 * Math.PI * term.low_pass_hz * timestep); // of a first-order filter
  }

  /** Delay and filter start with what an action of zeros asks for. */
  reset() {
    const rest = this.#targets(this.actuators.map(() => 0));
    this.asked = Array(Math.ceil(this.lag / this.substeps) + 1).fill(rest); // newest first
    this.control = rest;
    return rest;
  }

  controls(action, commands) {
    this.asked = [this.#targets(action, commands), ...this.asked.slice(0, -1)];
    return Array.from({ length: this.substeps }, (_, s) => {
      // What was asked for `lag` physics steps before: by an action that is so many env steps old.
      const target = this.asked[Math.max(0, -Math.floor((s - this.lag) / this.substeps))];
      this.control = this.gain ? this.control.map((last, i) => last + this.gain * (target[i] - last)) : target;
      return this.control;
    });
  }

  #targets(action, commands = null) {
    const { joints, clip, offset, scale, lower, upper, relative } = this.term;
    const ahead = commands && this.term.lift ? lifted(this.term, commands.get(this.term.clock).value) : null;
    const [low, high] = clip ?? [null, null];
    const middle = relative ? this.robot.positions(joints) : offset;
    return joints.map((_, i) => {
      const clipped = Math.min(Math.max(action[i], low ?? -Infinity), high ?? Infinity);
      const target = middle[i] + scale[i] * clipped + (ahead?.[i] ?? 0);
      return Math.min(Math.max(target, lower[i] ?? -Infinity), upper[i] ?? Infinity);
    });
  }
}

/** What each joint does by itself when a gait's clock, (cos, sin), says that a foot is to swing. */
function lifted({ lift, stance, offsets }, [cos, sin]) {
  if (cos === 0 && sin === 0) return lift.map(() => 0); // the clock is stopped
  const level = Math.sin(Math.PI * (stance - 0.5));
  const shares = lift[0].map((_, foot) => {
    const angle = 2 * Math.PI * (offsets ? offsets[foot] : foot / lift[0].length);
    return Math.max(sin * Math.cos(angle) + cos * Math.sin(angle) - level, 0) / (1 - level);
  });
  return lift.map((row) => row.reduce((sum, rise, foot) => sum + rise * shares[foot], 0));
}
