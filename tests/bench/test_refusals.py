"""What refusals cost, on a virtual clock: no more than the bench allows."""

from __future__ import annotations

import asyncio
import random

import pytest

from refusals import Measured, at_random, capped, virtually


@pytest.fixture(autouse=True)
def seeded() -> None:
    random.seed(1)  # of the pauses between retries


def allowed(found: list[Measured]) -> list[str]:
    return [f"{m.what}: {m.compared:.2f}" for m in found if m.compared > m.worst]


def test_a_few_refusals_at_random_do_not_throttle_a_run() -> None:
    found = list(at_random(400, 1.0, (0.025, 0.1)))
    assert allowed(found) == []
    assert all(m.refusals > 50 for m in found[1:])


@pytest.mark.parametrize("cap", [4, 16])
def test_a_server_with_a_cap_is_kept_full(cap: int) -> None:
    assert allowed(list(capped(300, 1.0, (cap,)))) == []


def test_time_passes_only_in_the_model() -> None:
    async def later() -> float:
        await asyncio.sleep(3600.0)
        return asyncio.get_running_loop().time()

    assert virtually(later()) == pytest.approx(3600.0)
