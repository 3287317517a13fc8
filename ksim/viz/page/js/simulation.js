// MuJoCo's model and state, and what a hand does to them: stepping, pushing, pulling.

/** A robot's world in MuJoCo, number for number the one that ksim compiled. */
export class Simulation {
  /**
   * @param mujoco the module of MuJoCo's WebAssembly build.
   * @param description `mjcf`, `files`, `exact` and `option`: see ksim/viz/page/simulation.py.
   */
  constructor(mujoco, { mjcf, files, exact, option }) {
    this.mujoco = mujoco;
    const vfs = new mujoco.MjVFS();
    for (const [name, bytes] of Object.entries(files)) vfs.addBuffer(name, bytes);
    this.model = mujoco.MjModel.from_xml_string(mjcf, vfs);
    if (!this.model) throw new Error("MuJoCo cannot compile the robot");
    vfs.delete();
    for (const [name, values] of Object.entries(exact)) this.model[name].set(values);
    for (const [name, value] of Object.entries(option)) {
      if (typeof value === "number") this.model.opt[name] = value;
      else this.model.opt[name].set(value);
    }
    this.data = new mujoco.MjData(this.model);
    this.pull = null;
  }

  /** The id of a named element, such as id("JOINT", "knee"). */
  id(kind, name) {
    const id = this.mujoco.mj_name2id(this.model, this.mujoco.mjtObj[`mjOBJ_${kind}`].value, name);
    if (id < 0) throw new Error(`the model has no ${kind.toLowerCase()} ${name}`);
    return id;
  }

  /** Back to the model's own state; the caller sets another pose, and calls `refresh` or `rest`. */
  reset() {
    this.release();
    this.mujoco.mj_resetData(this.model, this.data);
  }

  /** An env step: a physics step with each of the controls (arrays with an element for each actuator). */
  step(controls) {
    const { mujoco, model, data } = this;
    for (const control of controls) {
      data.ctrl.set(control);
      if (this.pull) this.#applyPull();
      mujoco.mj_step(model, data);
    }
    // ksim hands the state on as float32 from env step to env step.
    for (const name of ["qpos", "qvel", "act", "qacc_warmstart"]) {
      const values = data[name];
      for (let i = 0; i < values.length; i++) values[i] = Math.fround(values[i]);
    }
    this.refresh();
  }

  /** Positions, velocities and what sensors measure of them, as the state is now. */
  refresh() {
    this.mujoco.mj_step1(this.model, this.data);
  }

  /** Everything as it is in the state with controls that are held, forces included. */
  rest(control) {
    this.data.ctrl.set(control);
    this.mujoco.mj_forward(this.model, this.data);
  }

  /** Take hold of a body at a point (m, in the body's frame); `drag` then moves the hand. */
  grab(body, point) {
    const { mujoco, model, data } = this;
    this.release();
    const perturb = new mujoco.MjvPerturb();
    mujoco.mjv_defaultPerturb(perturb);
    perturb.select = body;
    perturb.localpos.set(point);
    // The mass that resists at the point, by which MuJoCo's viewer measures its pull; it wants a scene, with a camera.
    const scene = new mujoco.MjvScene(model, 1);
    const [option, camera] = [new mujoco.MjvOption(), new mujoco.MjvCamera()];
    mujoco.mjv_updateScene(model, data, option, perturb, camera, 0, scene);
    mujoco.mjv_initPerturb(model, data, scene, perturb);
    for (const used of [scene, option, camera]) used.delete();
    perturb.active = mujoco.mjtPertBit.mjPERT_TRANSLATE.value;
    this.pull = perturb;
  }

  /** Pull what is held towards a point (m, in the world): a critically damped spring, as in MuJoCo's viewer. */
  drag(point) {
    this.pull?.refselpos.set(point);
  }

  /** Let go. */
  release() {
    this.pull?.delete();
    this.pull = null;
    this.data.xfrc_applied.fill(0);
  }

  #applyPull() {
    this.data.xfrc_applied.fill(0);
    this.mujoco.mjv_applyPerturbForce(this.model, this.data, this.pull);
  }
}
