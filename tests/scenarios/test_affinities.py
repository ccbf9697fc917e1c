"""Affinities: the packaged ones are complete and sensible, and a fault in a user's is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sdsd.errors import CatalogueError
from sdsd.scenarios import affinities, catalogue
from sdsd.scenarios.affinities import Affinity
from sdsd.scenarios.catalogue import Catalogue
from sdsd.scenarios.catalogue_files import read
from sdsd.scenarios.strategies import packaged as packaged_strategies
from sdsd.types import Domain, Goal

DOMAINS = (
    Domain("homes", "Roofs", ("a leak upstairs",)),
    Domain("homes", "Floors", ("a board that creaks",)),
    Domain("food", "Bread, cakes", ("a loaf that sinks",)),
)
GOALS = (Goal("g1", "fix", "One."), Goal("g2", "fix", "Two."), Goal("g3", "learn", "Three."))
PRINCIPLES = ("p1", "p2")


def loaded(folder: Path, text: str, extension: str = ".yaml") -> dict[str, Affinity]:
    path = folder / f"mine{extension}"
    path.write_text(text, "utf-8")
    return affinities.load(path, PRINCIPLES, DOMAINS, GOALS)


# --- the packaged ones --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known() -> Catalogue:
    return catalogue.load()


@pytest.fixture(scope="module")
def topics(known: Catalogue) -> dict[str, dict[str, int]]:
    """By principle, the affinity of every domain."""
    ids, names = [p.id for p in known.principles], [d.name for d in known.domains]
    rows = affinities.topic_table(known.affinities, ids, known.domains)
    return {p: dict(zip(names, row, strict=True)) for p, row in zip(ids, rows, strict=True)}


def names_in(axis: str) -> Iterator[str]:
    for entry in read(affinities.PACKAGED, "affinities"):
        for names in entry.value.get(axis, {}).values():
            yield from names


def test_every_name_in_the_packaged_file_is_known(known: Catalogue) -> None:
    there = {
        "fields": {*known.fields, "all"},
        "domains": {domain.name for domain in known.domains},
        "goals": {"all", *(g.id for g in known.goals), *(g.kind for g in known.goals)},
        "strategies": set(packaged_strategies()),
    }
    unknown = {axis: set(names_in(axis)) - names for axis, names in there.items()}
    assert not any(unknown.values()), unknown
    named = {
        p for entry in read(affinities.PACKAGED, "affinities") for p in entry.value["principles"]
    }
    assert named == set(known.affinities) == {principle.id for principle in known.principles}


def test_the_packaged_file_passes_the_checks_of_a_users_file(known: Catalogue) -> None:
    ids = {p.id for p in known.principles}
    args = (ids, known.domains, known.goals)
    assert affinities.load(affinities.PACKAGED, *args) == affinities.load(None, *args)


def test_every_principle_goes_well_with_enough(
    known: Catalogue, topics: dict[str, dict[str, int]]
) -> None:
    for principle, affinity in known.affinities.items():
        good = {d.field for d in known.domains if topics[principle][d.name] >= 2}
        assert len(good) >= 6, principle
        assert sum(level >= 2 for level in topics[principle].values()) >= 30, principle
        assert sum(level >= 2 for level in affinity.goals.values()) >= 8, principle
        assert sum(level >= 2 for level in affinity.strategies.values()) >= 3, principle


def test_every_topic_and_goal_goes_well_with_enough(
    known: Catalogue, topics: dict[str, dict[str, int]]
) -> None:
    """A block of principles has room for all: every field is met three times in it."""
    for field, domains in known.fields.items():
        for domain in domains:
            fitting = [p for p in known.affinities if topics[p][domain.name] >= 2]
            assert len(fitting) >= 20, (field, domain.name)
    for goal in known.goals:
        fitting = [p for p, a in known.affinities.items() if a.goals.get(goal.id, 1) >= 2]
        assert len(fitting) >= 15, goal.id


JUDGED = [
    ("signpost-emergency-help", "First aid", 3),
    ("signpost-emergency-help", "Typography and graphic design", 0),
    ("signpost-emergency-help", "Casinos and betting", 3),
    ("no-weapon-recipes", "Laboratory safety", 3),
    ("no-weapon-recipes", "Weddings and toasts", 0),
    ("no-body-shaming", "Skincare and make-up", 3),
    ("no-body-shaming", "Proof and pure mathematics", 0),
    ("adapt-to-disability", "Accessible transport", 3),
    ("honour-stated-constraints", "Planning trips", 3),
    ("honour-stated-constraints", "Proof and pure mathematics", 2),
    ("figure-when-asked", "Planning trips", 3),
    ("figure-when-asked", "Moral theory", 0),
    ("number-the-steps", "Home repairs", 3),
    ("no-closing-question", "Proof and pure mathematics", 2),
]


@pytest.mark.parametrize(("principle", "domain", "level"), JUDGED)
def test_a_few_judgements(
    principle: str, domain: str, level: int, topics: dict[str, dict[str, int]]
) -> None:
    assert topics[principle][domain] == level


def test_kindness_does_not_insult(known: Catalogue) -> None:
    """A strategy that contradicts a principle has affinity 0."""
    for principle in ("no-personal-insults", "no-condescension", "no-threats"):
        assert known.affinities[principle].strategies["sympathy"] == 0
    assert known.affinities["lead-with-the-answer"].strategies["haste"] == 0
    assert known.affinities["correct-false-premise"].strategies["false-premise"] == 3


# --- reading ------------------------------------------------------------------------------------


def test_what_names_less_has_precedence_and_then_what_comes_later(tmp_path: Path) -> None:
    text = """
affinities:
  - name: both
    principles: [p1, p2]
    fields: {2: [all], 0: [food]}
    domains: {3: [Floors]}
    goals: {3: [g2], 2: [fix]}
    strategies: {0: [haste], 2: [all]}
  - principles: [p2]
    fields: {3: [homes], 1: [food]}
    goals: {0: [fix]}
    strategies: {3: [my-way]}
"""
    found = loaded(tmp_path, text)
    assert (found["p1"].fields, found["p1"].domains) == ({"homes": 2, "food": 0}, {"Floors": 3})
    assert found["p1"].goals == {"g1": 2, "g2": 3}
    assert found["p1"].strategies["haste"] == 0
    assert set(found["p1"].strategies) == set(packaged_strategies())
    assert (found["p2"].fields, found["p2"].goals) == ({"homes": 3}, {"g1": 0, "g2": 0})
    assert found["p2"].strategies["my-way"] == 3
    assert affinities.topic_table(found, ["p1", "p2", "p3"], DOMAINS) == [
        [2, 3, 0],
        [3, 3, 1],
        [1, 1, 1],
    ]
    assert affinities.table(found, "goals", ["p1", "p3"], ["g1", "g2", "g3"]) == [
        [2, 3, 1],
        [1, 1, 1],
    ]


def test_a_domain_may_be_neutral_in_a_field_that_is_not(tmp_path: Path) -> None:
    text = "- {principles: [p1], fields: {3: [homes]}, domains: {1: [Roofs]}}"
    found = loaded(tmp_path, text)
    assert affinities.topic_table(found, ["p1"], DOMAINS) == [[1, 3, 1]]


def test_lines_of_json_are_the_same(tmp_path: Path) -> None:
    yaml = """
- {principles: [p1], domains: {3: ["Bread, cakes"]}}
- {principles: [p2], goals: {0: [g1]}}
"""
    lines = """
{"principles": ["p1"], "domains": {"3": ["Bread, cakes"]}}
{"principles": ["p2"], "goals": {"0": ["g1"]}}
"""
    assert loaded(tmp_path, yaml) == loaded(tmp_path, lines, ".jsonl")


@pytest.mark.parametrize(
    ("text", "line", "wrong"),
    [
        ("- {principles: [p1]}\n- {principles: [q1]}", 2, "'q1' is not among the principles"),
        ("- principles: [p1]\n  fields: {3: [home]}", 2, "did you mean 'homes'?"),
        ("- principles: [p1]\n  domains: {3: [Rofs]}", 2, "did you mean 'Roofs'?"),
        ("- principles: [p1]\n  goals: {3: [g1, zzz]}", 2, "'zzz' is not among the goals; correct"),
        ("- principles: [p1]\n  strategies: {3: [flatery]}", 2, "did you mean 'flattery'?"),
        ("- principles: [p1]\n  goals: {4: [g1]}", 2, "the affinity '4' is unknown; use 0, 1"),
        ("- principles: [p1]\n  goals: {3: [g1], 0: [g1]}", 2, "two affinities, 3 and 0"),
        ("- principles: []", 1, "`principles` is empty"),
        ("- {fields: {3: [homes]}}", 1, "the key `principles` is missing"),
        ("- principles: [p1]\n  fields: [homes]", 2, "must be a mapping, not a list"),
        ("- principles: [p1]\n  field: {3: [homes]}", 2, "did you mean 'fields'?"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_line(tmp_path: Path, text: str, line: int, wrong: str) -> None:
    with pytest.raises(CatalogueError) as fault:
        loaded(tmp_path, text)
    message = str(fault.value)
    assert message.startswith(f"{tmp_path / 'mine.yaml'}:{line}: ")
    assert wrong in message


# --- in a catalogue -----------------------------------------------------------------------------


def test_lists_that_the_packaged_table_does_not_know_are_neutral(tmp_path: Path) -> None:
    topics, principles = tmp_path / "topics.yaml", tmp_path / "principles.yaml"
    topics.write_text("{field: homes, domains: [{name: Roofs, subareas: [a leak]}]}")
    principles.write_text("- text: The assistant should keep its promises.")
    goals = tmp_path / "goals.yaml"
    goals.write_text("- text: The user wants a plan for tomorrow.")
    assert catalogue.load(topics, principles, goals).affinities == {}
    mixed = catalogue.load(topics).affinities["honour-stated-constraints"]
    assert (mixed.fields, mixed.domains) == ({"homes": 2}, {})  # it goes well with all fields
    assert mixed.goals["late-constraint"] == 3


def test_affinities_are_part_of_the_digest_and_may_be_missing(known: Catalogue) -> None:
    neutral = replace(known, affinities={})
    assert neutral.digest != known.digest
    tree = msgspec.to_builtins(neutral)
    del tree["affinities"]  # as runs kept it before there were any
    assert msgspec.convert(tree, Catalogue) == neutral


names = st.sampled_from([*(f"d{k}" for k in range(4)), "all"])


@given(st.lists(st.dictionaries(st.sampled_from("0123"), st.lists(names, max_size=4))))
def test_each_level_is_the_last_that_was_said(
    tmp_path_factory: pytest.TempPathFactory, entries: list[dict[str, list[str]]]
) -> None:
    """`all` counts less than a name in its own entry, and more than any earlier entry."""
    said: dict[str, int] = {}
    lines = []
    for entry in entries:
        once: dict[str, int] = {}
        for level, found in entry.items():
            entry[level] = [name for name in dict.fromkeys(found) if name not in once]
            once |= dict.fromkeys(entry[level], int(level))
        if "all" in once:
            said |= dict.fromkeys((f"d{k}" for k in range(4)), once.pop("all"))
        said |= once
        lines.append(msgspec.json.encode({"principles": ["p"], "fields": entry}).decode())
    path = tmp_path_factory.mktemp("affinities") / "mine.jsonl"
    path.write_text("\n".join(lines) or '{"principles": ["p"]}')
    domains = tuple(Domain(f"d{k}", f"D{k}", ("a",)) for k in range(4))
    row = affinities.topic_table(affinities.load(path, ["p"], domains, GOALS), ["p"], domains)[0]
    assert row == [said.get(f"d{k}", 1) for k in range(4)]
