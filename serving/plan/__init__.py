"""What should be, what is, and the steps between. Pure values and functions: no clock, no files, no Ray.

diff(Target, World) -> Plan        Target: from the YAML; World: observed; Plan: ordered Changes, each with its effect in words
outlook(Target, World, nodes)      the same before it is done, with traffic, and resources against what is free
drift(Target, Target)              where what was declared and what is accepted differ, value by value
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
from serving.plan.drift import Drift, drift
from serving.plan.outlook import Outlook, fingerprint, outlook, split
from serving.plan.room import Node
from serving.plan.serve_app import app_name, code_version, key_of_app
from serving.plan.target import DeploymentTarget, EdgeMode, EngineSettings, Shelf, Target, Webhook
from serving.plan.world import Running, World

__all__ = [
    "Change",
    "ChangeSettings",
    "DeploymentTarget",
    "Drift",
    "EdgeMode",
    "EditRoute",
    "EngineSettings",
    "Node",
    "Outlook",
    "Plan",
    "Rebatch",
    "Replace",
    "ResizeGateways",
    "Running",
    "Scale",
    "Shelf",
    "Start",
    "Stop",
    "Target",
    "Webhook",
    "World",
    "app_name",
    "code_version",
    "diff",
    "drift",
    "fingerprint",
    "key_of_app",
    "outlook",
    "split",
]
