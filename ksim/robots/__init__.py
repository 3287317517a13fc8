"""Robots: a folder each, with its MJCF, actuators, home pose, mirror map and named parts; one loader for all."""

from ksim.robots.actuators import Control, add_actuators, set_control
from ksim.robots.loader import load, names
from ksim.robots.robot import Mirror, Robot

__all__ = ["Control", "Mirror", "Robot", "add_actuators", "load", "names", "set_control"]
