"""What all tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# The machine of a test run may be slow and shared: a time limit per example would make tests flaky that are not about time.
settings.register_profile("serving", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("serving")
