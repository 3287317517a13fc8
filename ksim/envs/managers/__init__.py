"""One manager for each kind of term: it holds the resolved terms and evaluates them for one env."""

from ksim.envs.managers.actions import ActionManager
from ksim.envs.managers.commands import CommandManager
from ksim.envs.managers.contacts import ContactManager
from ksim.envs.managers.curriculum import CurriculumManager
from ksim.envs.managers.events import EventManager
from ksim.envs.managers.metrics import MetricManager
from ksim.envs.managers.observations import ObservationManager
from ksim.envs.managers.rewards import RewardManager
from ksim.envs.managers.terminations import TerminationManager

__all__ = [
    "ActionManager",
    "CommandManager",
    "ContactManager",
    "CurriculumManager",
    "EventManager",
    "MetricManager",
    "ObservationManager",
    "RewardManager",
    "TerminationManager",
]
