// The control loop: observe, ask the network, drive the actuators, simulate.

import { Action } from "ksim/actions.js";
import { makeCommands } from "ksim/commands.js";
import { Observation } from "ksim/observations.js";
import { metadataOf } from "ksim/onnx_metadata.js";
import { Robot } from "ksim/robot.js";

/** A policy that drives the robot of a simulation. */
export class Controller {
  static async create(ort, model, simulation, ground) {
    return new Controller(ort, await ort.InferenceSession.create(model), metadataOf(model), simulation, ground);
  }

  constructor(ort, session, metadata, simulation, ground) {
    this.ort = ort;
    this.session = session;
    this.metadata = metadata;
    this.simulation = simulation;
    this.robot = new Robot(simulation, metadata, ground);
    this.dt = metadata.step_dt;
    this.commands = makeCommands(metadata.commands);
    this.observation = new Observation(metadata.observations, this.dt);
    this.actions = new Action(metadata.actions, this.robot, metadata);
    this.reset();
  }

  /** Seconds since the reset. */
  get time() {
    return this.steps * this.dt;
  }

  /** The home pose at rest; commands stay as they are. */
  reset() {
    this.robot.reset();
    this.steps = 0;
    this.action = new Array(this.actions.size).fill(0);
    this.observation.reset();
    this.simulation.rest(this.actions.reset());
    for (const command of this.commands.values()) command.reset();
    this.carry = Object.fromEntries(this.metadata.carry?.map(({ name, initial }) => [name, this.#tensor(initial)]) ?? []);
  }

  /** One env step; returns what the policy saw and did. */
  async step() {
    for (const command of this.commands.values()) command.advance(this.commands, this.dt);
    const obs = this.observation.observe(this);
    const given = { obs: new this.ort.Tensor("float32", obs, [1, obs.length]), ...this.carry };
    const found = await this.session.run(given);
    for (const name of Object.keys(this.carry)) this.carry[name] = found[`next_${name}`];
    this.action = Array.from(found.action.data);
    this.simulation.step(this.actions.controls(this.action, this.commands));
    this.steps += 1;
    return { obs: Array.from(obs), action: this.action };
  }

  #tensor(initial) {
    const shape = [1];
    for (let part = initial; Array.isArray(part); part = part[0]) shape.push(part.length);
    return new this.ort.Tensor("float32", Float32Array.from([initial].flat(Infinity)), shape);
  }
}
