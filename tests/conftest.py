"""What all tests share."""

from __future__ import annotations

import os

import pytest
from httpx import _config as httpx_config
from hypothesis import HealthCheck, settings

# The machine of a test run may be slow and shared: a time limit per example would make tests flaky that are not about time.
settings.register_profile("serving", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# CI judges a change, so it tries the same examples each time; every run by hand goes on looking for new ones.
settings.register_profile("ci", settings.get_profile("serving"), derandomize=True)
# For the same reason clients of HTTP wait longer than the five seconds that are usual: a test that cares says so itself.
for part in ("connect", "read", "write", "pool"):
    setattr(httpx_config.DEFAULT_TIMEOUT_CONFIG, part, 60.0)
settings.load_profile("ci" if os.environ.get("CI") else "serving")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_AtOnce(config))


class _AtOnce:
    """Says what failed when it fails: a test run that is cut off at its time limit has told it by then."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            crash = getattr(report.longrepr, "reprcrash", None)
            words = str(crash.message if crash is not None else report.longrepr).strip().partition("\n")[0]
            terminal.write_line(f"\n{report.nodeid}: {report.when} failed: {words[:300]}")
