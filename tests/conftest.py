"""Hypothesis profiles. Marks and lanes are explained in CONTRIBUTING.md."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No deadline: how long an example takes says more about the machine than about the code.
_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", _COMMON, max_examples=25)
settings.register_profile("ci", _COMMON, max_examples=100, derandomize=True, print_blob=True)
settings.load_profile("dev")
