// The hand: what is pressed on the robot is held, and pulled to wherever the pointer goes.

/** Lets a pointer pull the robot in a view. */
export class Hand {
  constructor(view, simulation) {
    this.view = view;
    this.simulation = simulation;
    this.held = null; // a point of the plane in which the pointer moves
    const { canvas } = view;
    // Before the camera's controls, which must not turn it meanwhile.
    canvas.addEventListener("pointerdown", (event) => this.#down(event), { capture: true });
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => this.letGo());
  }

  #down(event) {
    if (event.button !== 0 || this.held) return;
    const found = this.view.pick(this.#place(event));
    if (!found) return;
    this.view.controls.enabled = false;
    this.view.canvas.setPointerCapture(event.pointerId);
    this.held = found.point;
    this.simulation.grab(found.body, this.view.toBody(found.body, found.point));
    this.simulation.drag(found.point.toArray());
  }

  #move(event) {
    const place = this.#place(event);
    if (!this.held) {
      if (event.buttons === 0) this.view.canvas.style.cursor = this.view.pick(place) ? "grab" : "";
      return;
    }
    const point = this.view.inPlaneOf(this.held, place);
    if (point) this.simulation.drag(point.toArray());
  }

  /** Open the hand. */
  letGo() {
    if (!this.held) return;
    this.held = null;
    this.simulation.release();
    this.view.controls.enabled = true;
  }

  /** Where the pointer is, from -1 to 1, up and to the right. */
  #place({ clientX, clientY }) {
    const { left, top, width, height } = this.view.canvas.getBoundingClientRect();
    return [(2 * (clientX - left)) / width - 1, 1 - (2 * (clientY - top)) / height];
  }
}
