"""What should be, what is, and the steps between. Pure values and functions: no clock, no files, no Ray.

diff(Target, World) -> Plan        Target: from the YAML; World: observed; Plan: ordered Changes, each with its effect in words
"""

from serving.plan.change import (
    Change,
    ChangeSettings,
    EditRoute,
    Plan,
    Rebatch,
    Replace,
    ResizeGateways,
    Scale,
    Start,
    Stop,
)
from serving.plan.compare import diff
from serving.plan.serve_app import app_name, code_version, key_of_app
from serving.plan.target import DeploymentTarget, EdgeMode, EngineSettings, Target
from serving.plan.world import Running, World

__all__ = [
    "Change",
    "ChangeSettings",
    "DeploymentTarget",
    "EdgeMode",
    "EditRoute",
    "EngineSettings",
    "Plan",
    "Rebatch",
    "Replace",
    "ResizeGateways",
    "Running",
    "Scale",
    "Start",
    "Stop",
    "Target",
    "World",
    "app_name",
    "code_version",
    "diff",
    "key_of_app",
]
