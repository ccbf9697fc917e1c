"""Every damage of `bench/damage.py` is found, with fewer flipped bits than there."""

from __future__ import annotations

from pathlib import Path

import pytest

from damage import measured

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_every_damage_is_found(tmp_path: Path) -> None:
    counts = measured(tmp_path / "run", parquet=100, journal=20)
    assert {kind: count.missed for kind, count in counts.items() if count.missed} == {}
    assert all(count.found == count.done > 0 for count in counts.values())
    assert counts["a bit of a Parquet file"].done == 100
