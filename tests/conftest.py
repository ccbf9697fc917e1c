"""Hypothesis profiles: `dev` for `--quick`, `ci` (the same examples every time), `all` for `--all`.

Tests whose examples are expensive set a number of their own. Marks are explained in pyproject.toml.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from _pytest.nodeid import coerce_node_id
from hypothesis import HealthCheck, settings

# No deadline: how long an example takes says more about the machine than about the code.
_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", _COMMON, max_examples=25)
settings.register_profile("ci", _COMMON, max_examples=100, derandomize=True, print_blob=True)
settings.register_profile("all", _COMMON, max_examples=400, print_blob=True)
settings.load_profile("dev")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of an `xdist_group` on one worker.

    The worker goes by what follows `@` in a test's id. xdist 3.8 puts it into an attribute that
    pytest 9.2 no longer reads, without a word.
    """
    if not config.getoption("loadgroup", False):
        return
    for item in items:
        group = item.get_closest_marker("xdist_group")
        if group is not None and "@" not in item.nodeid:
            item._id = coerce_node_id(f"{item.nodeid}@{group.args[0]}")


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
