"""Drafting affinities: what a model says becomes a file that loads, and nothing is asked twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsd.config import load
from sdsd.errors import CatalogueError, SdsdError
from sdsd.models.scripted import Script, ScriptedModel
from sdsd.runs.draft_affinities import Drafted, draft, offered_of, ratings
from sdsd.runs.events import Event, Noted
from sdsd.scenarios import affinities, catalogue
from sdsd.scenarios.catalogue import Catalogue
from sdsd.types import Domain, Goal, Principle, Request
from tests.factories.scripted import Crash, crashing

CONFIG = load({"attempts": 2})
OWN = Catalogue(
    domains=(
        Domain("art", "Drawing", ("a hand that will not look like one",)),
        Domain("art history", "Icons", ("gold leaf that flakes",)),
        Domain("law: leases", "Deposits", ("a deposit that is kept",)),
    ),
    principles=tuple(Principle(f"p{k}", f"Rule {k}.", "f", "c") for k in range(3)),
    goals=(Goal("g1", "fix", "One."), Goal("g2", "fix", "Two."), Goal("g3", "learn", "Three.")),
)
OFFERED = offered_of(OWN)


def judging(request: Request, seed: int) -> str:
    """Ratings by the principle that is asked about, in the forms that models write."""
    asked = request.messages[-1].content
    number = int(re.findall(r"Rule (\d)", asked)[0])
    if "subjects" in asked:
        assert "- art\n- art history\n- law: leases\n" in asked
        names = list(OFFERED["fields"])
        names = names[number:] + names[:number]
        return f"Sure!\n1. {names[0]}: 3\n**{names[1].upper()}** - 0\nsomething unheard of: 3"
    if "goals of" in asked:
        assert "- fix: for example: One." in asked
        return '- "Learn": for example: 4 of 3.5: 2; fix 3; fix 0'
    return "haste: 3\nDirect: 2\nsubtle (2)\nsympathy = 0\nnatural: 1\nflattery: 1\nretry: 1"


def drafted(
    out: Path, script: Script = judging, loaded: Catalogue = OWN
) -> tuple[Drafted, int, list[str]]:
    """What came of it, the calls that were made, and the notes that were heard."""
    model, notes = ScriptedModel(script), list[str]()

    def hear(event: Event) -> None:
        if isinstance(event, Noted):
            notes.append(event.text)

    came = draft(out, loaded, CONFIG, on_event=hear, models={"default": model})
    return came, model.asked, notes


def test_a_draft_loads_as_what_the_model_said(tmp_path: Path) -> None:
    out = tmp_path / "own.yaml"
    came, calls, notes = drafted(out)
    assert (came, calls) == (Drafted(principles=3, judged=3), 9)
    assert notes == [f"[{k}/3] p{k - 1}" for k in (1, 2, 3)]
    found = affinities.load(out, [p.id for p in OWN.principles], OWN.domains, OWN.goals)
    assert found["p0"].fields == {"art": 3, "art history": 0}
    assert found["p2"].fields == {"law: leases": 3, "art": 0}
    assert found["p1"].goals == {"g1": 3, "g2": 3, "g3": 2}
    assert found["p1"].strategies == {"haste": 3, "direct": 2, "subtle": 2, "sympathy": 0}
    with pytest.raises(CatalogueError, match="is there already; name another file"):
        drafted(out)


def test_after_a_crash_only_what_is_missing_is_asked(tmp_path: Path) -> None:
    drafted(tmp_path / "whole.yaml")
    whole = (tmp_path / "whole.yaml").read_text()

    for k in range(9):
        out = tmp_path / f"{k}.yaml"
        with pytest.raises(Crash):
            drafted(out, crashing(judging, k))
        assert not out.exists()
        assert drafted(out)[:2] == (Drafted(principles=3, judged=3), 9 - k)
        assert out.read_text() == whole


def test_principles_without_a_usable_reply_stay_neutral(tmp_path: Path) -> None:
    def half(request: Request, seed: int) -> str:
        return (
            "I like them all."
            if "Rule 1" in request.messages[-1].content
            else judging(request, seed)
        )

    out = tmp_path / "own.yaml"
    came, calls, notes = drafted(out, half)
    assert (came, calls) == (Drafted(principles=3, judged=2), 6 + 3 * 2)
    assert notes[1] == "[2/3] p1: nothing usable, so it stays neutral"
    assert set(affinities.load(out, ["p0", "p1", "p2"], OWN.domains, OWN.goals)) == {"p0", "p2"}
    with pytest.raises(SdsdError, match="no usable line; try a larger model"):
        drafted(tmp_path / "nothing.yaml", lambda request, seed: "I cannot.")


def test_goals_of_one_kind_are_offered_one_by_one() -> None:
    goals = tuple(Goal(f"g{k}", "user", f"Goal {k}.") for k in range(3))
    offered = offered_of(Catalogue(OWN.domains, OWN.principles, goals))
    assert list(offered["goals"]) == ["g0", "g1", "g2"]


def test_what_is_offered_of_the_packaged_catalogue() -> None:
    offered = offered_of(catalogue.load())
    assert len(offered["fields"]) == 43
    assert list(offered["goals"])[:2] == ["learn", "decide"]
    assert len(offered["goals"]) == 9
    assert offered["strategies"]["haste"].startswith("The user is in a hurry")


def test_too_few_ratings_are_asked_again_and_at_last_taken(tmp_path: Path) -> None:
    def lazy(request: Request, seed: int) -> str:
        return "art: 3" if "subjects" in request.messages[-1].content else "none"

    came, calls, _ = drafted(tmp_path / "own.yaml", lazy)
    assert (came, calls) == (Drafted(principles=3, judged=3), 3 * 3 * CONFIG.attempts)


# --- parsing ------------------------------------------------------------------------------------

NAMES = ("art", "art history", "law: leases", "no-go")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("art: 3\nart history: 0", {"art": 3, "art history": 0}),
        ("Art 3; ART HISTORY 2; Law: leases 1", {"art": 3, "art history": 2, "law: leases": 1}),
        ("1) **art** - 2\n2. `no-go`: 0", {"art": 2, "no-go": 0}),
        ("art: 1\nart: 3", {"art": 1}),
        ("art: because of 2 things, 3", {"art": 3}),
        ("arts: 3\nart: 7\nart: 2.5\nthe art: 3\nart", {}),
        ("art: 2 out of 3.\nart history: 1/3", {"art": 2, "art history": 1}),
        ("", {}),
    ],
)
def test_ratings_are_read_leniently(text: str, found: dict[str, int]) -> None:
    assert ratings(text, NAMES) == found


words = st.sampled_from(
    ["art", "history", "law", ":", "\n", "3", "2", "0", "1.", " ", ";", "\ud800", "**"]
)


@given(st.lists(words, max_size=60).map("".join) | st.text())
def test_any_reply_is_ratings_of_known_names(text: str) -> None:
    found = ratings(text, NAMES)
    assert set(found) <= set(NAMES)
    assert set(found.values()) <= {0, 1, 2, 3}


@given(st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_what_is_written_as_asked_is_read(levels: list[int]) -> None:
    told = dict(zip(NAMES, levels, strict=True))
    assert ratings("\n".join(f"{name}: {level}" for name, level in told.items()), NAMES) == told
