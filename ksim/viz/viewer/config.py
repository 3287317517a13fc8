"""Settings of the interactive visualizer."""

from __future__ import annotations

from dataclasses import dataclass

from ksim.config.fields import setting


@dataclass(frozen=True, kw_only=True)
class InteractiveVisualizerConfig:
    """What `view.<name>=<value>` sets on the command line."""

    position_step_m: float = setting(0.01, above=0)  # that a key moves the base, in metres
    velocity_step: float = setting(0.1, above=0)  # that a key changes its velocity, in m/s
    rotation_step_rad: float = setting(0.01, above=0)  # that a key turns the base, in rad
    angular_velocity_step: float = setting(0.1, above=0)  # that a key changes its angular velocity, in rad/s
    suspended_pose: list[float] | None = setting(None, length=7)  # m and wxyz; None: where the base is
    speed: float = setting(1.0, at_least=0.05, at_most=20.0)  # simulated seconds in a second, where the engine can
    paused: bool = False  # at the start
    plot_window: int = setting(5_000, above=1)  # newest env steps in plots
    plot_path: str | None = None  # folder of the plots; None: rewards_plots in a temporary folder
    plot_every_s: float = setting(0.5, at_least=0.1)  # seconds between two versions of the plot
    checkpoint_every_s: float = setting(2.0, at_least=0.1)  # seconds between two looks for a newer checkpoint
    host: str = "localhost"  # address that the browser's page is served on
    port: int = setting(8080, at_least=0, at_most=65_535)  # its port
