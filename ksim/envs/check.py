"""What can be known about a task before its env is built: numbers, the robot's files, and every term."""

from ksim import robots
from ksim.config import fields
from ksim.config.schema import ManagerBasedRlEnvCfg, TaskCfg
from ksim.envs.ground import make_ground
from ksim.envs.settings import SensorSettings
from ksim.envs.task import TaskTerms
from ksim.envs.terms import resolve


def check_task(task: ManagerBasedRlEnvCfg | TaskCfg) -> None:
    """Check a task.

    Raises:
        ConfigError: for the first mistake, naming its YAML path and what would be right.
    """
    fields.check(task, "task")
    if isinstance(task, TaskCfg):
        task.check()
        return
    robots.load(task.scene.robot, task.scene.mjcf)
    resolve("task.scene.sensors", task.scene.sensors, SensorSettings)
    make_ground(task.scene)
    TaskTerms.of(task)
