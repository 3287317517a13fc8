// How high the ground is: a flat floor, or MuJoCo's surface of two triangles per square of a height field.

/** The ground of a world; `field` is null, or has heights of nodes (m), rows and columns, and their distance (m). */
export class Ground {
  constructor(field) {
    this.field = field;
  }

  /** Height under a point of the world, m; beyond the edge the edge goes on. */
  height(x, y) {
    if (!this.field) return 0;
    const { heights, shape, spacing } = this.field;
    const [rows, columns] = shape;
    const [column, a] = cell(x / spacing + (columns - 1) / 2, columns - 2);
    const [row, b] = cell(y / spacing + (rows - 1) / 2, rows - 2);
    const node = (i, j) => heights[i * columns + j];
    const [near, far] = [node(row, column), node(row + 1, column + 1)];
    const corner = a > b ? node(row, column + 1) : node(row + 1, column);
    return near + Math.max(a, b) * (corner - near) + Math.min(a, b) * (far - corner);
  }
}

/** The square that a place is in, and where in it, from 0 to 1. */
function cell(place, last) {
  const index = Math.min(Math.max(Math.floor(place), 0), last);
  return [index, Math.min(Math.max(place - index, 0), 1)];
}
