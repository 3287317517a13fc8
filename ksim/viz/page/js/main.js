// The page: a policy that drives a robot, at the pace of the clock, in a picture, under somebody's hands.

import loadMujoco from "mujoco";
import * as ort from "onnxruntime-web";
import { Controller } from "ksim/controller.js";
import { Ground } from "ksim/ground.js";
import { Hand } from "ksim/hand.js";
import { Panel } from "ksim/panel.js";
import { Simulation } from "ksim/simulation.js";
import { View } from "ksim/view.js";

const LONGEST_FRAME_S = 0.5; // of what a hidden page has missed, no more is made up for
const STEPPING_MS = 100; // of wall time in a frame
const SLOW_FRAME_MS = 60;
const RATE_OVER_MS = 1000;
const DOWN_S = 1.5; // how long a fallen robot lies before it starts again

/** Start the page; `files` are those that it carries, unpacked, by name. */
export async function start(files) {
  const [mujocoWasm, ortWasm] = [files["mujoco.wasm"], files["ort-wasm-simd-threaded.wasm"]];
  const mujoco = await loadMujoco({ wasmBinary: mujocoWasm, locateFile: (name) => name });
  Object.assign(ort.env.wasm, { wasmBinary: ortWasm, numThreads: 1 });
  const world = files["world.json"];
  const simulation = new Simulation(mujoco, world.simulation);
  const ground = new Ground(world.ground);
  const controller = await Controller.create(ort, files["policy.onnx"], simulation, ground);
  return new Page(controller, world, files["licences.json"]);
}

/** What buttons, keys and scripts do to the robot: scripts find it as `await ksim`. */
class Page {
  constructor(controller, world, licences) {
    this.controller = controller;
    this.ends = world.ends;
    this.licences = Object.entries(licences).map(([whose, text]) => `${whose}\n\n${text}`).join("\n\n\n");
    this.paused = false;
    this.speed = 1;
    this.startsAgain = true;
    this.falls = 0;
    this.fallen = ""; // which of the task's ends came first in this episode
    this.lastPush = null;
    this.rate = 0; // simulated seconds in a second
    this.isSlow = false;
    this.queue = Promise.resolve(); // a step waits for the network: nothing else may touch the state meanwhile
    this.view = new View(document.getElementById("view"), world, controller.robot);
    this.hand = new Hand(this.view, controller.simulation);
    this.panel = new Panel(this);
    this.#run().catch((error) => {
      document.body.dataset.state = "failed";
      document.getElementById("status").textContent = `This page has stopped: ${error.message ?? error}`;
      throw error;
    });
  }

  /** Hold the simulation, or let it go on. */
  pause(isPaused) {
    this.paused = isPaused;
  }

  /** Back to the home pose. */
  reset() {
    return this.#inTurn(() => this.#reset());
  }

  /** One env step, and a pause. */
  stepOnce() {
    this.paused = true;
    return this.step(1);
  }

  /** Env steps, paused or not; returns for each what the policy saw and did, and the positions that came of it. */
  step(count) {
    return this.#inTurn(async () => {
      const trace = [];
      for (let i = 0; i < count; i++) {
        const step = await this.controller.step();
        trace.push({ ...step, qpos: Array.from(this.controller.simulation.data.qpos) });
        this.#judge();
      }
      return trace;
    });
  }

  /** Change the base's velocity, m/s, forward and to the left. */
  push(forward, left) {
    return this.#inTurn(() => {
      const { robot, time } = this.controller;
      this.lastPush = { forward, left, yaw: robot.yaw, time };
      robot.push(forward, left);
    });
  }

  #inTurn(act) {
    const done = this.queue.then(act);
    this.queue = done.catch(() => {}); // whoever asked hears of it
    return done;
  }

  #reset() {
    this.hand.letGo();
    this.controller.reset();
    this.fallen = "";
    this.lastPush = null;
  }

  /** Whether the task would have ended the episode here. */
  #judge() {
    const { robot, simulation } = this.controller;
    const isBroken = !Array.from(simulation.data.qpos).every(Number.isFinite);
    const ended = isBroken ? { name: "diverged" } : this.ends.find((end) => hasEnded(end, robot));
    if (ended && !this.fallen) {
      this.fallen = ended.name;
      this.falls += 1;
      this.fallTime = this.controller.time;
    }
    if (isBroken) this.#reset();
  }

  async #run() {
    let [last, owed] = [performance.now(), 0];
    let [markedAt, marked, frames] = [last, 0, 0];
    for (;;) {
      const now = await new Promise(requestAnimationFrame);
      const elapsed = Math.min(Math.max(now - last, 0) / 1000, LONGEST_FRAME_S);
      last = now;
      const { dt } = this.controller;
      owed = this.paused ? 0 : owed + elapsed * this.speed;
      for (const until = performance.now() + STEPPING_MS; owed >= dt && performance.now() < until && !this.paused; owed -= dt) {
        await this.step(1);
        marked += dt;
        if (this.fallen && this.startsAgain && this.controller.time - this.fallTime > DOWN_S) await this.reset();
      }
      this.isSlow = owed > 2 * dt;
      owed = Math.min(owed, 2 * dt); // too slow for the clock: the time is lost
      frames += 1;
      if (now - markedAt > RATE_OVER_MS) {
        this.rate = marked / ((now - markedAt) / 1000);
        if (!this.paused && (now - markedAt) / frames > SLOW_FRAME_MS) this.view.simplify();
        [markedAt, marked, frames] = [now, 0, 0];
      }
      this.#show();
    }
  }

  #show() {
    const { commands, time } = this.controller;
    const velocity = [...commands.values()].find(({ inputs }) => inputs[0]?.unit === "m/s");
    this.view.showCommand(velocity?.value ?? null);
    this.view.showPush(this.lastPush, time);
    this.view.draw();
    this.panel.update();
  }
}

function hasEnded({ lean_rad, height, joints, limit }, robot) {
  if (lean_rad !== undefined) return robot.gravity[2] > -Math.cos(lean_rad);
  if (height !== undefined) return robot.height < height;
  return robot.positions(joints).some((position) => Math.abs(position) > limit);
}
