"""Drafting affinities: what a model says becomes a file that loads, and nothing is asked twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsd.config import load
from sdsd.errors import CatalogueError, SdsdError, Unparseable
from sdsd.models.scripted import Script, ScriptedModel
from sdsd.runs.draft_affinities import Drafted, Offered, draft, levels
from sdsd.runs.events import Event, Noted
from sdsd.scenarios import affinities, catalogue
from sdsd.scenarios.catalogue import Catalogue
from sdsd.types import Domain, Goal, Principle, Request

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
OFFERED = Offered.of(OWN)


def judging(request: Request, seed: int) -> str:
    """The nine lines, with fields by the principle that is asked about."""
    asked = request.messages[-1].content
    number = re.search(r"Rule (\d)", asked)
    assert number is not None
    assert "art; art history; law: leases" in asked
    assert "- fix: for example: One." in asked
    fields = list(OFFERED.fields)
    best, never = fields[int(number[1])], fields[(int(number[1]) + 1) % 3]
    return f"""Sure!
FIELDS 3: {best}
**Fields 2:** none
FIELDS 0: {never}; something unheard of
GOALS 3: "Learn"
GOALS 2: fix, learn
WAYS 3: haste;
WAYS 2: Direct and subtle
STRATEGIES 0: sympathy"""


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
    assert (came, calls) == (Drafted(principles=3, judged=3), 3)
    assert notes == [f"[{k}/3] p{k - 1}" for k in (1, 2, 3)]
    found = affinities.load(out, [p.id for p in OWN.principles], OWN.domains, OWN.goals)
    assert found["p0"].fields == {"art": 3, "art history": 0}
    assert found["p2"].fields == {"law: leases": 3, "art": 0}
    assert found["p1"].goals == {"g1": 2, "g2": 2, "g3": 3}
    assert found["p1"].strategies == {"haste": 3, "direct": 2, "subtle": 2, "sympathy": 0}
    with pytest.raises(CatalogueError, match="is there already; name another file"):
        drafted(out)


def test_after_a_crash_only_what_is_missing_is_asked(tmp_path: Path) -> None:
    drafted(tmp_path / "whole.yaml")
    whole = (tmp_path / "whole.yaml").read_text()

    class Crash(BaseException):
        pass

    for k in range(3):
        out = tmp_path / f"{k}.yaml"
        left = iter(range(k))

        def dying(request: Request, seed: int) -> str:
            if next(left, None) is None:  # noqa: B023  (called in this round only)
                raise Crash
            return judging(request, seed)

        with pytest.raises(Crash):
            drafted(out, dying)
        assert not out.exists()
        assert drafted(out)[:2] == (Drafted(principles=3, judged=3), 3 - k)
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
    assert (came, calls) == (Drafted(principles=3, judged=2), 4)
    assert notes[1] == "[2/3] p1: nothing usable, so it stays neutral"
    assert set(affinities.load(out, ["p0", "p1", "p2"], OWN.domains, OWN.goals)) == {"p0", "p2"}
    with pytest.raises(SdsdError, match="no usable line; try a larger model"):
        drafted(tmp_path / "nothing.yaml", lambda request, seed: "I cannot.")


def test_goals_of_one_kind_are_offered_one_by_one() -> None:
    goals = tuple(Goal(f"g{k}", "user", f"Goal {k}.") for k in range(3))
    assert list(Offered.of(Catalogue(OWN.domains, OWN.principles, goals)).goals) == [
        "g0",
        "g1",
        "g2",
    ]


def test_what_is_offered_of_the_packaged_catalogue() -> None:
    offered = Offered.of(catalogue.load())
    assert len(offered.fields) == 43
    assert list(offered.goals)[:2] == ["learn", "decide"]
    assert len(offered.goals) == 9
    assert offered.strategies["haste"].startswith("The user is in a hurry")


# --- parsing ------------------------------------------------------------------------------------


def test_the_longer_name_counts_and_the_first_affinity() -> None:
    text = "FIELDS 3: art history\nFIELDS 2: art, art history\nfields 0\n- law: leases"
    assert levels(text, OFFERED) == {"fields": {3: ["art history"], 2: ["art"], 0: ["law: leases"]}}


@pytest.mark.parametrize(
    "text", ["", "FIELDS 3:", "FIELDS 3: none", "art and law", "FIELDS 7: art"]
)
def test_a_reply_without_a_known_name_is_asked_again(text: str) -> None:
    with pytest.raises(Unparseable):
        levels(text, OFFERED)


words = st.sampled_from(
    ["FIELDS", "GOALS", "WAYS", "3", "2", "0", ":", "\n", "art", "history", "fix", "haste", " "]
) | st.sampled_from([";", "\ud800", "**"])


@given(st.lists(words, max_size=60).map("".join) | st.text())
def test_any_reply_is_levels_of_known_names_or_unparseable(text: str) -> None:
    try:
        found = levels(text, OFFERED)
    except Unparseable:
        return
    assert found
    for axis, by_level in found.items():
        names = [name for listed in by_level.values() for name in listed]
        assert set(by_level) <= {0, 1, 2, 3}
        assert len(names) == len(set(names)) > 0
        assert set(names) <= set(getattr(OFFERED, axis))
