"""What a prefix cache without end would compute, against a count by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sdsd
from sdsd.runs.ask import Call
from sdsd.runs.journal import Journal, fingerprint
from sdsd.runs.prefix_cache import EVERY, Economy, common
from sdsd.types import Completion, Message, Request
from simoptions import Options
from simulator import spawned


@given(st.text("ab", max_size=40), st.text("ab", max_size=40))
def test_the_common_beginning(a: str, b: str) -> None:
    length = common(a, b)
    assert a[:length] == b[:length]
    assert length == min(len(a), len(b)) or a[length] != b[length]


def call(dialogue: int, step: str, *contents: str, prompt: str = "") -> Call:
    roles: tuple[Literal["system", "user"], ...] = ("system", "user")
    messages = tuple(Message(role, text) for role, text in zip(roles, contents, strict=False))
    request = Request("agent", 9, messages, prompt=prompt)
    return Call("s", step, request, 1, fingerprint(request, "m"), dialogue)


def test_only_what_was_never_sent_before_is_new() -> None:
    economy = Economy()
    streams = ["x" * 100, "x" * 100 + "reply" + "y" * 95, "x" * 100 + "reply" + "z" * 95]
    for k, prompt in enumerate(streams):
        tokens = len(prompt)
        answer = Completion("reply", prompt_tokens=tokens, cached_tokens=tokens // 2)
        economy.answered(call(0, f"turn/{k}", prompt=prompt), answer)
    sums = economy.sums()
    assert sums["sampled_prompt"] == 500
    assert sums["sampled_cached"] == 250
    # Everything of the first; of the others what follows prompt and reply; the model's name apart.
    assert sums["sampled_least"] == pytest.approx(100 + 95 + 95, abs=3)
    assert economy.sums()["sampled_prompt"] == 0


def test_the_fixed_beginning_of_a_kind_of_prompt_is_sent_once() -> None:
    economy = Economy()
    fixed = "s" * 400
    for dialogue in (0, EVERY, 2 * EVERY):
        answer = Completion("", prompt_tokens=500)
        economy.answered(call(dialogue, "plan", fixed, f"{dialogue:02}" * 50), answer)
        economy.closed(dialogue)
    assert economy.sums()["sampled_least"] == pytest.approx(500 + 100 + 100, rel=0.15)


def test_most_dialogues_are_not_looked_at() -> None:
    economy = Economy()
    economy.answered(call(1, "plan", "a", "b"), Completion("", prompt_tokens=10))
    assert economy.sums() == {"sampled_prompt": 0, "sampled_cached": 0, "sampled_least": 0}


def test_a_run_says_how_near_to_the_least_it_came(tmp_path: Path) -> None:
    """With a cache that holds everything it is the least, but for blocks that are not full."""
    with spawned(Options(instant=True)) as url:
        keys = {"n": 40, "models": {"default": {"model": "sim", "base_url": url, "parallel": 4}}}
        sdsd.run(keys, out=tmp_path / "run")
    with Journal(tmp_path / "run" / "journal.sqlite", readonly=True) as journal:
        sums = journal.sums()
    computed = sums["sampled_prompt"] - sums["sampled_cached"]
    assert 0.95 <= computed / sums["sampled_least"] <= 1.25
    report = (tmp_path / "run" / "report.html").read_text()
    assert "times that, in a sample of the dialogues" in report
