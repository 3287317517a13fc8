// What the policy is asked to do: values that sliders set, and clocks that follow from them.

/** Commands by the function that drew them in training. */
export const COMMANDS = {
  "ksim.mdp.commands.uniform_velocity": ({ name, parameters: { x_range, y_range, yaw_rate_range } }) =>
    new Asked(name, [
      { label: "forward", unit: "m/s", range: x_range },
      { label: "left", unit: "m/s", range: y_range },
      { label: "turn", unit: "rad/s", range: yaw_rate_range },
    ]),
  "ksim.mdp.commands.uniform": ({ name, parameters: { low, high } }) =>
    new Asked(name, low.map((_, i) => ({ label: `${name} ${i + 1}`, unit: "", range: [low[i], high[i]] }))),
  "ksim.mdp.commands.gait_clock": (term) => new GaitClock(term),
};

/** The commands of a task that the policy sees or that those follow, by name. */
export function makeCommands(terms) {
  const known = terms.filter((term) => term.function in COMMANDS);
  return new Map(known.map((term) => [term.name, COMMANDS[term.function](term)]));
}

/** A command that somebody sets: `inputs` are its elements, each a label, a unit and a range. */
class Asked {
  constructor(name, inputs) {
    this.name = name;
    // A range that a curriculum moved in training is not told.
    this.inputs = inputs.map((input) => ({ ...input, range: input.range ?? [-1, 1] }));
    this.value = this.inputs.map(({ range: [low, high] }) => Math.min(Math.max(0, low), high));
  }

  reset() {}

  advance() {}
}

/** The clock of a gait, (cos, sin) of its phase; it stops at a half period while another command asks to stand. */
class GaitClock {
  constructor({ name, parameters: { period_s, command, min_command } }) {
    Object.assign(this, { name, period: period_s, command, least: min_command, inputs: [] });
    this.reset();
  }

  reset() {
    this.phase = 0;
    this.runs = false;
    this.value = [0, 0];
  }

  advance(commands, dt) {
    const asked = commands.get(this.command)?.value;
    const moves = !asked || Math.hypot(...asked) > this.least;
    const ahead = this.phase + dt / this.period;
    const half = Math.floor(2 * ahead + 1e-4);
    const stops = !moves && (!this.runs || half > Math.floor(2 * this.phase + 1e-4));
    const rest = this.runs ? half / 2 : this.phase;
    this.phase = (stops ? rest : ahead) % 1;
    this.runs = !stops;
    const angle = 2 * Math.PI * this.phase;
    this.value = stops ? [0, 0] : [Math.cos(angle), Math.sin(angle)];
  }
}
