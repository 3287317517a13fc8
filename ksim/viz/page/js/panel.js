// The panel: buttons, sliders and keys that drive the page, and what it says of the robot.

const KEYS = { " ": "pause", n: "step", r: "reset", c: "camera", "0": "zero" };
const PUSHES = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, 1], ArrowRight: [0, -1] };

/** The panel of a page; `page` is what its buttons call. */
export class Panel {
  constructor(page) {
    this.page = page;
    this.sliders = [];
    this.#title();
    this.#commands();
    this.#bind();
  }

  /** Write what is so now. */
  update() {
    const { page } = this;
    const { robot } = page.controller;
    set("pause", page.paused ? "Play" : "Pause");
    set("time", `${shown(page.controller.time)} s`);
    set("rate", page.paused ? "paused" : `${shown(page.rate)}×`);
    element("rate").classList.toggle("slow", !page.paused && page.isSlow);
    set("falls", `${page.falls}`);
    set("fallen", page.fallen ? `ended: ${page.fallen}` : "");
    if (robot.base) {
      const [forward, left] = headingVelocity(robot);
      set("height", `${shown(robot.height)} m`);
      set("forward", `${shown(forward)} m/s`);
      set("left", `${shown(left)} m/s`);
      set("turning", `${shown(robot.angularVelocity[2])} rad/s`);
    }
    for (const { command, index, input, value } of this.sliders) {
      if (document.activeElement !== input) input.value = command.value[index];
      value.textContent = shown(command.value[index]);
    }
  }

  #title() {
    const { metadata } = this.page.controller;
    document.title = `${metadata.task} · ksim`;
    set("task", metadata.task);
    set("run", `${metadata.run}, ${metadata.step.toLocaleString("en")} env steps, ${(1 / metadata.step_dt).toFixed(0)} Hz`);
    for (const part of document.querySelectorAll(".with-base")) part.hidden = !this.page.controller.robot.base;
  }

  #commands() {
    const list = element("commands");
    for (const command of this.page.controller.commands.values()) {
      command.inputs.forEach(({ label, unit, range: [low, high] }, index) => {
        const [row, input, value] = ["label", "input", "output"].map((tag) => document.createElement(tag));
        Object.assign(input, { type: "range", min: low, max: high, step: (high - low) / 200, value: command.value[index] });
        input.setAttribute("aria-label", `${label}, ${unit}`);
        input.dataset.command = `${command.name}.${index}`;
        input.addEventListener("input", () => (command.value[index] = Number(input.value)));
        const name = document.createElement("span");
        name.textContent = unit ? `${label}, ${unit}` : label;
        row.append(name, input, value);
        list.append(row);
        this.sliders.push({ command, index, input, value, rest: command.value[index] });
      });
    }
    element("commands-section").hidden = this.sliders.length === 0;
  }

  #bind() {
    const { page } = this;
    const actions = {
      pause: () => page.pause(!page.paused),
      step: () => page.stepOnce(),
      reset: () => page.reset(),
      camera: () => page.view.lookHome(),
      zero: () => this.sliders.forEach(({ command, index, rest }) => (command.value[index] = rest)),
    };
    for (const [id, act] of Object.entries(actions)) element(id).addEventListener("click", act);
    const push = (key) => {
      const speed = Number(element("push-speed").value);
      page.push(...PUSHES[key].map((part) => part * speed));
    };
    for (const button of document.querySelectorAll("[data-push]"))
      button.addEventListener("click", () => push(button.dataset.push));
    element("push-speed").addEventListener("input", (event) => set("push-value", shown(Number(event.target.value))));
    element("playback").addEventListener("change", (event) => (page.speed = Number(event.target.value)));
    element("again").addEventListener("change", (event) => (page.startsAgain = event.target.checked));
    element("licences").addEventListener("toggle", () => set("licence-texts", page.licences), { once: true });
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
      const action = actions[KEYS[event.key.toLowerCase()]];
      if (!action && !(event.key in PUSHES)) return;
      event.preventDefault(); // Space presses the focused button, arrows scroll
      if (action) action();
      else if (page.controller.robot.base) push(event.key);
    });
  }
}

/** Velocity of the base over the floor in its heading frame, (forward, left), m/s. */
function headingVelocity(robot) {
  const [x, y] = robot.worldVelocity;
  const [cos, sin] = [Math.cos(robot.yaw), Math.sin(robot.yaw)];
  return [x * cos + y * sin, -x * sin + y * cos];
}

/** Two decimals, and no -0.00. */
function shown(value) {
  return (Math.round(100 * value) / 100 + 0).toFixed(2);
}

function element(id) {
  return document.getElementById(id);
}

function set(id, text) {
  const found = element(id);
  if (found.textContent !== text) found.textContent = text;
}
