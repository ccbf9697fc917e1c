"""Hypothesis profiles: `dev` for `--quick`, `ci` (the same examples every time), `all` for `--all`.

Tests whose examples are expensive set a number of their own. Marks are explained in pyproject.toml.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No deadline: how long an example takes says more about the machine than about the code.
_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", _COMMON, max_examples=25)
settings.register_profile("ci", _COMMON, max_examples=100, derandomize=True, print_blob=True)
settings.register_profile("all", _COMMON, max_examples=400, print_blob=True)
settings.load_profile("dev")
