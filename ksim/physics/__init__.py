"""Physics engines behind one small protocol: MJX on accelerators, C MuJoCo on CPUs."""

from ksim.physics.base import Physics, PhysicsState, initial_state
from ksim.physics.select import EngineChoice, choose_engine, make_physics

__all__ = ["EngineChoice", "Physics", "PhysicsState", "choose_engine", "initial_state", "make_physics"]
