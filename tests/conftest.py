"""Hypothesis profiles: `dev` for `--quick`, `ci` (the same examples every time), `all` for `--all`.

Tests whose examples are expensive set a number of their own. Marks are explained in pyproject.toml.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadline: how long an example takes says more about the machine than about the code.
_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", _COMMON, max_examples=25)
settings.register_profile("ci", _COMMON, max_examples=100, derandomize=True, print_blob=True)
settings.register_profile("all", _COMMON, max_examples=400, print_blob=True)
settings.load_profile("dev")


@pytest.fixture(scope="session")
def empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory of the tests alone."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def no_cached_exams(
    request: pytest.FixtureRequest, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep exam results of the tests out of the user's cache; only the engine needs its model."""
    if request.node.get_closest_marker("engine") is None:
        monkeypatch.setenv("SDSD_CACHE", str(empty_cache))
