"""Growing a catalogue: what a model offers is kept once, and nothing is asked for twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdsd.config import load
from sdsd.errors import CatalogueError
from sdsd.hashing import hash64
from sdsd.models.scripted import Script, ScriptedModel
from sdsd.runs.events import Event, Noted
from sdsd.runs.expand_catalogue import ALIKE, Grown, expand, fresh
from sdsd.scenarios import catalogue
from sdsd.scenarios.similarity import near_duplicates
from sdsd.types import Request
from tests.factories.scripted import Crash, crashing

TOPICS = """
- field: food
  domains:
    - name: Bread
      subareas: [a sourdough starter that smells of acetone, shaping wet dough by hand]
    - name: Cheese
      subareas: [a rind that turns pink after three weeks]
- field: Home & garden
  domains:
    - name: Roofs
      subareas: [a leak that shows over the stairs]
"""
CONFIG = load({"attempts": 2})
WORDS = [f"{a}{b}" for a in ("bar", "del", "fos", "gim", "kul") for b in ("an", "et", "ix", "om")]


def phrase(*parts: object) -> str:
    """Six words drawn from what it is for: the form of a subarea, and like no other."""
    return " ".join(f"{WORDS[hash64(*parts, k) % 20]}{hash64(*parts, k) % 997}" for k in range(6))


def writer(request: Request, seed: int) -> str:
    """Numbered lines: new ones, one twice, one that is there already, and two without form."""
    asked = request.messages[-1].content
    there = re.findall(r"^- (.+)$", asked, re.MULTILINE)
    new = [phrase(seed, k) for k in range(4)]
    lines = [
        new[0],
        new[1],
        there[0].upper(),
        new[1],
        "Short",
        f"Note: {new[2]}",
        new[2] + ".",
        new[3],
    ]
    return "Here they are:\n" + "\n".join(f"{k}. {line}" for k, line in enumerate(lines, 1))


@pytest.fixture
def topics(tmp_path: Path) -> Path:
    file = tmp_path / "topics.yaml"
    file.write_text(TOPICS)
    return file


def grown(
    topics: Path,
    out: Path,
    per_domain: int = 9,
    script: Script = writer,
    only: tuple[str, ...] = (),
) -> tuple[Grown, int, list[str]]:
    """What came of it, the calls that were made, and the notes that were heard."""
    model, notes = ScriptedModel(script), []

    def hear(event: Event) -> None:
        if isinstance(event, Noted):
            notes.append(event.text)

    came = expand(
        out, topics, CONFIG, per_domain=per_domain, only=only, on_event=hear,
        models={"default": model},
    )  # fmt: skip
    return came, model.asked, notes


def test_every_domain_grows_to_the_number_and_loads_as_a_catalogue(
    topics: Path, tmp_path: Path
) -> None:
    out = tmp_path / "larger"
    came, calls, notes = grown(topics, out)
    assert came == Grown(before=4, after=27)
    larger, before = catalogue.load(out), catalogue.load(topics)
    assert calls >= 3 * 2  # a reply brings at most four
    assert {(d.field, d.name): len(d.subareas) for d in larger.domains} == {
        (d.field, d.name): 9 for d in before.domains
    }
    for domain in before.domains:
        (same,) = (d for d in larger.domains if d.name == domain.name)
        assert same.subareas[: len(domain.subareas)] == domain.subareas
    assert notes == [
        "[1/3] Bread: 2 -> 9 subareas",
        "[2/3] Cheese: 1 -> 9 subareas",
        "[3/3] Roofs: 1 -> 9 subareas",
    ]
    assert sorted(p.name for p in out.glob("*.yaml")) == ["food.yaml", "home-garden.yaml"]


def test_nothing_is_kept_twice_over_all_domains(topics: Path, tmp_path: Path) -> None:
    """Also if the model offers the same to every domain."""

    def parrot(request: Request, seed: int) -> str:
        return writer(request, 0) + "\n9. " + phrase(seed)

    grown(topics, tmp_path / "larger", script=parrot)
    subareas = [s for d in catalogue.load(tmp_path / "larger").domains for s in d.subareas]
    assert near_duplicates(subareas, ALIKE) == []
    assert phrase(0, 0) in subareas
    assert not [s for s in subareas if s.isupper() or s == "Short" or s.endswith(".")]


def test_a_second_time_nothing_is_asked(topics: Path, tmp_path: Path) -> None:
    out = tmp_path / "larger"
    first, calls, _ = grown(topics, out)
    written = {p.name: p.read_bytes() for p in out.glob("*.yaml")}
    assert calls > 0
    assert grown(topics, out)[:2] == (first, 0)
    assert {p.name: p.read_bytes() for p in out.glob("*.yaml")} == written


def test_after_a_crash_only_what_is_missing_is_asked(topics: Path, tmp_path: Path) -> None:
    whole, calls, _ = grown(topics, tmp_path / "whole")

    for k in range(calls):
        out = tmp_path / str(k)
        with pytest.raises(Crash):
            grown(topics, out, script=crashing(writer, k))
        assert grown(topics, out)[:2] == (whole, calls - k)
        assert catalogue.load(out).digest == catalogue.load(tmp_path / "whole").digest


def test_a_larger_number_goes_on_from_what_there_is(topics: Path, tmp_path: Path) -> None:
    out = tmp_path / "larger"
    _, some, _ = grown(topics, out, 9)
    came, more, _ = grown(topics, out, 14)
    assert came == Grown(before=4, after=42)
    _, all_at_once, _ = grown(topics, tmp_path / "at once", 14)
    assert more == all_at_once - some
    assert catalogue.load(out).digest == catalogue.load(tmp_path / "at once").digest


def test_only_the_fields_that_are_named(topics: Path, tmp_path: Path) -> None:
    out = tmp_path / "larger"
    came, _, _ = grown(topics, out, only=("food",))
    assert came == Grown(before=3, after=18)
    assert [p.name for p in out.glob("*.yaml")] == ["food.yaml"]
    with pytest.raises(
        CatalogueError, match=r"no field `foot` in the topics; the fields are food, "
    ):
        grown(topics, out, only=("foot",))


def test_a_model_that_offers_nothing_leaves_the_catalogue_as_it_is(
    topics: Path, tmp_path: Path
) -> None:
    came, calls, _ = grown(topics, tmp_path / "larger", script=lambda request, seed: "I cannot.")
    assert came == Grown(before=4, after=4)
    assert calls == 3 * CONFIG.attempts
    assert catalogue.load(tmp_path / "larger").digest == catalogue.load(topics).digest


def test_what_a_model_writes_cannot_break_the_files(topics: Path, tmp_path: Path) -> None:
    """Control characters, half characters and YAML's own signs: the result still loads."""
    nasty = [
        "1. \x1b[31mred words on the screen",
        "2. 'quoted' words # and a comment",
        "3. *bold* words with & and @ and % signs",
        "4. words with half a character \ud800 inside",
        "5. no and yes and null and 1e3",
        "6. words that are turned \u202e around",
        "7. [a list, of words] that never ends",
        "8. - a dash before the words",
    ]

    def script(request: Request, seed: int) -> str:
        return (
            "\n".join(nasty) if "Bread" in request.messages[-1].content else writer(request, seed)
        )

    grown(topics, tmp_path / "larger", script=script)
    assert len(catalogue.load(tmp_path / "larger").domains) == 3


@settings(max_examples=50)
@given(st.lists(st.sampled_from(WORDS[:6]).map(lambda w: f"about {w} and {w}")), st.integers(0, 5))
def test_fresh_are_those_like_nothing_before_them(texts: list[str], known: int) -> None:
    taken, offered = texts[:known], texts[known:]
    kept = fresh(offered, taken)
    seen: list[str] = []
    for text in offered:
        if text not in taken and text not in seen:
            seen.append(text)
    assert kept == seen


def test_a_stop_is_told_and_what_there_is_stays(topics: Path, tmp_path: Path) -> None:
    """The domains that it did not come to are written as they were."""
    out, stingy = tmp_path / "larger", load({"attempts": 2, "budget": {"tokens": 1}})
    came = expand(out, topics, stingy, per_domain=9, models={"default": ScriptedModel(writer)})
    assert "the budget of 1 tokens is used up" in came.stopped
    assert 4 <= came.after < 27
    assert len(catalogue.load(out).domains) == 3
