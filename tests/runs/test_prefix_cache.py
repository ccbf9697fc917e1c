"""How much of its prompts a run makes a server compute that its prefix cache could have held."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

import sdsd
from simoptions import Options
from simulator import spawned

pytestmark = pytest.mark.e2e


def test_a_run_computes_little_more_than_the_least(tmp_path: Path) -> None:
    """With a cache that holds everything it is the least, but for blocks that are not full."""
    with spawned(Options(instant=True)) as url:
        model = {"model": "sim", "base_url": url, "parallel": 4}
        keys = {"n": 40, "models": {"default": model}, "critique": {"exam": 0}}
        made = sdsd.run(keys, out=tmp_path / "run")
        with urllib.request.urlopen(url.removesuffix("/v1") + "/sim/stats") as reply:
            seen = json.load(reply)
    assert 0.95 <= seen["computed_tokens"] / seen["least_tokens"] <= 1.25
    usage = made.status().usage
    assert sum(u.prompt_tokens - u.cached_tokens for u in usage) <= seen["computed_tokens"]
