"""The interactive visualizer: a task's env driven by hand, in a window or in a browser."""
