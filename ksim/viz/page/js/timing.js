// Times in seconds as counts of steps, as ksim rounds them.

/** Steps of a delay: the middle of the range that it was drawn from in training; 0 without one. */
export function steps(delay, dt) {
  if (!delay) return 0;
  const [low, high] = delay.range_s;
  return Math.floor((low + high) / 2 / dt + 0.5 + 1e-6);
}
