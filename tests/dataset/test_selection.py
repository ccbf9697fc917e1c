"""What of a run goes into the data set: every rule, their order, and the balance among pairs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sdsd import config as configuration
from sdsd.config import ExportConfig
from sdsd.dataset.decision import Decision, Removal
from sdsd.dataset.selection import Selection
from sdsd.errors import ConfigError
from sdsd.types import (
    Candidate,
    Critique,
    Dialogue,
    Goal,
    Message,
    Plan,
    Principle,
    Record,
    Revision,
    Scenario,
    Verdict,
)

LIES = Principle("no-lies", "The assistant should not lie.", "own", "honesty")
SCORN = Principle("no-scorn", "The assistant should not scorn.", "own", "respect")
BROKEN = "Nobody ever died of mould, so scrape it off and eat the rest of the loaf without worry."
FIXED = "Some moulds are poisonous, so throw the whole loaf away and buy a fresh one instead."


def critique(broken: str = "", probability: float | None = None) -> Critique:
    first = Verdict(
        LIES.id, broken == LIES.id, "", grounded=broken == LIES.id, probability=probability
    )
    second = Verdict(SCORN.id, broken == SCORN.id, "", grounded=broken == SCORN.id)
    return Critique((first, second))


def scenario(index: int, domain: str = "Baking") -> Scenario:
    goal = Goal("steelman", "argue", "Argue.")
    return Scenario(
        f"{index:06d}", index, f"field of {domain}", domain, "Bread", goal, (LIES, SCORN), 1
    )


def held(*turns: str) -> Dialogue:
    roles = ("user", "assistant") * len(turns)
    messages = tuple(
        Message(role, text)  # type: ignore[arg-type]
        for role, text in zip(roles, turns, strict=False)
    )
    return Dialogue(messages, "chat", "completed", self_flagged=False)


def pair(
    index: int = 0,
    *better: str,
    domain: str = "Baking",
    broken: str = LIES.id,
    last: str = BROKEN,
    doubts: tuple[str, ...] = (),
    probabilities: tuple[float, float] | None = None,
) -> Record:
    """A record with a revision, and samples after the first of `better`."""
    before, after = probabilities or (None, None)
    first, *others = better or (f"{FIXED} {index}",)
    return Record(
        scenario(index, domain),
        "accepted",
        dialogue=held(f"May I eat loaf number {index}, which is mouldy?", last),
        critique=critique(broken, before),
        revisions=(Revision(first, critique("", after), warnings=doubts),),
        candidates=tuple(Candidate(text, critique()) for text in others),
    )


def export_of(**keys: Any) -> ExportConfig:
    return configuration.load({"export": keys}).export


def decide(records: Iterable[Record], seed: int = 0, **keys: Any) -> list[Decision]:
    records = list(records)
    selection = Selection(export_of(**keys), seed)
    selection.plan(records)
    return [selection.decide(record) for record in records]


def gone(records: Iterable[Record], **keys: Any) -> list[str | None]:
    return [
        decision.removed.rule if decision.removed else None for decision in decide(records, **keys)
    ]


# -- dialogues -----------------------------------------------------------------------------


def test_nothing_goes_that_nobody_asked_to_leave_out() -> None:
    failed = Record(scenario(1), "failed")
    assert decide([pair(0), failed]) == [Decision(), Decision()]


def test_a_dialogue_that_breaks_an_excluded_rule_goes_and_its_flags_are_told_anyway() -> None:
    record = replace(pair(), dialogue=held("As an AI, I like bread. How may I help you?", BROKEN))
    (left,) = decide([record], exclude=[])
    assert left.removed is None
    assert "role_flip" in {finding.rule for finding in left.findings}
    (removed,) = decide([record], exclude=["echo", "role_flip"])
    assert removed == Decision(Removal("role_flip"), {}, left.findings, only_warned=True)
    assert decide([record]) == [removed]  # it is one of those that are out by default
    assert decide([record], exclude=["echo", "default"]) == [removed]


def test_a_dialogue_off_topic_goes() -> None:
    plan = Plan("", ("Eva asks how old dough can be.", "Eva has no oven."), "Rye keeps.", "Eva")
    turns = (
        "What do the violins in an orchestra need from the people who play them, every day?",
        "They want rosin on the bow, humidity in the air, and careful tuning of pegs and strings.",
        "And what of the cello that cracked? It was in the concert hall, and the heating was on.",
        "That is a job for a luthier, who will glue the wood and clamp it, and then polish it.",
    )
    astray = replace(pair(), plan=plan, dialogue=held(*turns))
    assert gone([astray]) == ["off_topic"]
    near = held(*turns[:3], f"Was there an oven? {turns[3]}")
    assert gone([replace(astray, dialogue=near)]) == [None]
    assert gone([replace(astray, plan=None)]) == [None]


def test_a_pair_goes_whose_chosen_turn_breaks_an_excluded_rule() -> None:
    marked = Candidate(f"{FIXED}\nDONE", critique())
    record = replace(pair(), candidates=(marked, Candidate("Throw the loaf away.", critique())))
    left = [p.chosen for p in record.pairs]
    (decision,) = decide([record])
    assert decision.removed is None
    assert decision.pairs == {left.index(marked.text): Removal("marker", "chosen")}
    assert decide([record], exclude=[]) == [Decision()]


def test_a_dialogue_that_was_left_out_repeats_nothing_and_is_repeated_by_nothing() -> None:
    bad = replace(pair(0), dialogue=held("How may I help you with your bread today?", BROKEN))
    again = replace(bad, scenario=scenario(1))
    assert gone([bad, again], exclude=[]) == [None, "duplicate_exact"]
    assert gone([bad, again], exclude=["role_flip"]) == ["role_flip", "role_flip"]
    (_, second) = decide([bad, again], exclude=[])
    assert second.removed == Removal("duplicate_exact", "000000")


def test_duplicates_may_stay() -> None:
    twice = [pair(0), replace(pair(0), scenario=scenario(1))]
    assert gone(twice, duplicates={"method": "off"}) == [None, None]


def test_what_an_evaluation_set_has_goes_also_if_it_stands_in_a_chosen_turn(
    tmp_path: Path,
) -> None:
    held_out = "A loaf with a blue spot in its crumb has threads of mould all through it already."
    (tmp_path / "eval.txt").write_text(held_out)
    records = [
        pair(0),
        pair(1, f"Throw it away! {held_out}"),
        pair(2, last=f"{held_out} Eat it."),
        replace(pair(3, held_out), outcome="filtered"),
    ]
    found = decide(records, contamination={"sets": [str(tmp_path / "eval.txt")]})
    assert [c.removed.rule if c.removed else "" for c in found] == ["", *["contaminated"] * 2, ""]
    assert found[1].removed is not None
    assert found[1].removed.detail.startswith("eval.txt: a loaf with a blue spot")


def test_a_dialogue_that_no_chat_template_takes_goes_whatever_is_configured() -> None:
    blank = replace(pair(0), dialogue=held("May I eat it?", " \n"))
    odd = replace(pair(1), dialogue=held("May I eat it?"))
    assert gone([blank, odd]) == ["malformed", "malformed"]


@pytest.mark.parametrize(
    "mark",
    ["<|im_start|>", "<think>", "[INST]", "<|channel|>", "<start_of_turn>", "<｜User｜>", "</s>",
     "[THINK]", "<|eot_id|>", "◁/think▷", "[|endofturn|]", "<extra_id_1>"],
)  # fmt: skip
def test_marks_of_any_chat_template_go_whatever_is_configured(mark: str) -> None:
    said = replace(pair(0), dialogue=held("May I eat it?", f"Yes. {mark}"))
    planned = replace(pair(1), plan=Plan(f"STEP 1: {mark}", ("a",), "b"))
    blamed = pair(2)
    assert blamed.critique is not None
    reason = replace(blamed.critique.verdicts[0], reason=f"It lies. {mark}")
    blamed = replace(blamed, critique=Critique((reason,)))
    chosen = pair(3, f"No, it is mouldy. {mark}")
    found = decide([said, planned, blamed, chosen, pair(4)])
    removed = [d.removed and (d.removed.rule, d.removed.detail) for d in found]
    assert removed == [("template_mark", mark)] * 3 + [None] * 2
    assert [d.pairs for d in found[3:]] == [{0: Removal("template_mark", mark)}, {}]


def test_html_and_code_are_no_marks() -> None:
    for text in ("Use <s>old</s> and <b>new</b>.", "a < b | c > d", "See [1] and [NOTE]."):
        html = replace(pair(0), dialogue=held("May I eat it?", text))
        assert gone([html], exclude=[]) == [None]


# -- pairs ---------------------------------------------------------------------------------


def pairs(record: Record, **keys: Any) -> dict[int, tuple[str, str]]:
    (decision,) = decide([record], pairs=keys)
    return {number: (removal.rule, removal.detail) for number, removal in decision.pairs.items()}


def test_doubts_take_the_revision_and_leave_the_samples() -> None:
    record = pair(0, FIXED, "Please throw it away.", doubts=("longer", "lost_facts"))
    assert pairs(record, exclude_warnings=["refusal"]) == {}
    assert pairs(record, exclude_warnings=["lost_facts", "longer"]) == {
        0: ("warning_lost_facts", "")
    }


def test_turns_that_are_too_much_alike_make_no_pair() -> None:
    nearly = BROKEN.replace("Nobody", "Hardly anybody")
    record = pair(0, nearly, FIXED)
    assert pairs(record, max_similarity=0.9) == {0: ("too_similar", "0.927")}
    assert pairs(record, max_similarity=0.93) == {}


@pytest.mark.parametrize(
    ("last", "better"), [("No. " * 10, "No!? " * 41), ("No!? " * 41, "No. " * 10)]
)
def test_neither_turn_may_be_many_times_as_long(last: str, better: str) -> None:
    record = pair(0, better, "No, do not. " * 5, last=last)
    assert pairs(record, max_length_ratio=5) == {0: ("length_ratio", "5.12")}
    assert pairs(record, max_length_ratio=6) == {}


def test_a_small_margin_counts_where_it_is_known() -> None:
    record = pair(0, FIXED, "Please throw it away.", probabilities=(0.9, 0.6))
    assert pairs(record, min_critic_margin=0.4) == {0: ("small_margin", "0.300")}
    assert pairs(record, min_critic_margin=0.2) == {}
    assert pairs(pair(0), min_critic_margin=0.9) == {}


def test_a_pair_that_teaches_nothing_goes_whatever_is_configured() -> None:
    record = pair(0, FIXED, f" {BROKEN}", "", f"{FIXED} ", "Throw it away.")
    found = {1: ("unchanged", ""), 2: ("empty", ""), 3: ("repeated", "")}
    assert pairs(record) == found
    assert pairs(record, max_length_ratio=4) == found | {4: ("length_ratio", "6.21")}


# -- balance -------------------------------------------------------------------------------


def kept(records: Sequence[Record], seed: int = 0, **balance: Any) -> list[tuple[str, int]]:
    """(id, number) of every pair that stays."""
    found = decide(records, seed, balance=balance)
    return [
        (record.scenario.id, number)
        for record, decision in zip(records, found, strict=True)
        for number in range(len(record.pairs))
        if number not in decision.pairs
    ]


def domains(found: Iterable[tuple[str, int]], records: Iterable[Record]) -> dict[str, int]:
    names = {record.scenario.id: record.scenario.domain for record in records}
    return dict(Counter(names[key] for key, _ in found))


def run(**counts: int) -> list[Record]:
    """A run with so many pairs of each domain, and their order by chance."""
    wanted = [name for name, n in counts.items() for _ in range(n)]
    random.Random(0).shuffle(wanted)
    return [pair(index, domain=name) for index, name in enumerate(wanted)]


def test_every_cell_gets_what_the_smallest_has() -> None:
    records = run(bread=40, cake=25, pie=10)
    assert domains(kept(records, by="domain"), records) == {"bread": 10, "cake": 10, "pie": 10}


def test_shares_are_exact_and_nought_leaves_a_cell_out() -> None:
    records = run(bread=40, cake=31, pie=10)
    shares = {"bread": 0.3, "cake": 0.1, "pie": 0}
    found = domains(kept(records, by="domain", shares=shares), records)
    assert found == {"bread": 40, "cake": 13}  # 40 / 0.3 is the base: 133.3, of which 0.1 is 13


def test_shares_are_taken_as_they_are_written() -> None:
    records = run(bread=100, pie=10)
    found = kept(records, by="domain", shares={"bread": 0.3, "pie": 0.1})
    assert domains(found, records) == {"bread": 30, "pie": 10}


def test_at_most_so_many_of_a_cell_of_weight_one() -> None:
    records = run(bread=40, cake=31, pie=5)
    found = domains(kept(records, by="domain", max_pairs=12, shares={"cake": 2}), records)
    assert found == {"bread": 12, "cake": 24, "pie": 5}


def test_a_pair_counts_for_the_first_principle_that_was_broken() -> None:
    records = [pair(k, broken=LIES.id if k % 3 else SCORN.id) for k in range(12)]
    for by in ("principle", "category"):
        found = {key for key, _ in kept(records, by=by)}
        broken = Counter(r.critique.violations for r in records if r.scenario.id in found)  # type: ignore[union-attr]
        assert broken == {(LIES.id,): 4, (SCORN.id,): 4}


def test_all_pairs_of_a_dialogue_count() -> None:
    records = [pair(k, FIXED, "Throw it away.", domain="bread") for k in range(5)]
    records += [pair(k, domain="pie") for k in range(5, 8)]
    assert domains(kept(records, by="field"), records) == {"bread": 3, "pie": 3}


def test_what_another_rule_left_out_fills_no_quota() -> None:
    records = [*run(bread=6), *(pair(k, BROKEN, domain="pie") for k in range(6, 9))]
    records += [pair(9, domain="pie"), replace(pair(9, domain="pie"), scenario=scenario(10, "pie"))]
    found = decide(records, balance={"by": "domain"})
    rules = Counter(r.rule for c in found for r in (c.removed, *c.pairs.values()) if r)
    assert rules == {"balance": 5, "unchanged": 3, "duplicate_exact": 1}
    assert {r.detail for c in found for r in c.pairs.values() if r.rule == "balance"} == {"bread"}


def test_excluded_dialogues_fill_no_quota() -> None:
    flipped = replace(pair(9), dialogue=held("How may I help you with your bread today?", BROKEN))
    records = [*run(bread=6), replace(flipped, scenario=scenario(9, "pie")), pair(10, domain="pie")]
    found = decide(records, balance={"by": "domain"}, exclude=["role_flip"])
    rules = Counter(r.rule for c in found for r in (c.removed, *c.pairs.values()) if r)
    assert rules == {"balance": 5, "role_flip": 1}


def test_a_share_for_what_is_not_there_is_an_error_that_names_what_is() -> None:
    records = run(bread=2, pie=1)
    with pytest.raises(ConfigError, match=r"names `cake`, which is not a domain.*bread, pie$"):
        kept(records, by="domain", shares={"cake": 2})
    assert kept(records, by="principle", shares={SCORN.id: 2})  # known, though nobody broke it
    many = [pair(k, domain=f"d{k:02d}") for k in range(22)]
    with pytest.raises(ConfigError, match="d18, d19 and 2 more"):
        kept(many, by="domain", shares={"cake": 2})


def test_without_pairs_there_is_nothing_to_balance() -> None:
    assert kept([Record(scenario(0), "failed")], by="strategy") == []


def test_a_selection_that_was_not_planned_balances_nothing() -> None:
    selection = Selection(export_of(balance={"by": "domain"}), 0)
    with pytest.raises(AssertionError, match="`plan` comes first"):
        selection.decide(pair())


def test_records_are_read_beforehand_only_to_balance() -> None:
    def never() -> Iterable[Record]:
        raise AssertionError("read")
        yield

    Selection(ExportConfig(), 0).plan(never())


COUNTS = st.dictionaries(st.sampled_from(["bread", "cake", "pie", "bun"]), st.integers(1, 12))
WEIGHTS = st.dictionaries(
    st.sampled_from(["bread", "cake", "pie", "bun"]),
    st.integers(0, 40).map(lambda n: n / 10),
)


@settings(max_examples=40)
@given(COUNTS, WEIGHTS, st.integers(0, 15), st.integers(0, 3), st.randoms())
def test_balance_is_a_lot_that_no_order_decides(
    counts: dict[str, int], weights: dict[str, float], most: int, seed: int, chance: random.Random
) -> None:
    records = run(**counts)
    shares = {name: weight for name, weight in weights.items() if name in counts}
    options: dict[str, Any] = {"by": "domain", "shares": shares}
    found = kept(records, seed, max_pairs=most, **options)
    shuffled = records[:]
    chance.shuffle(shuffled)
    assert sorted(kept(shuffled, seed, max_pairs=most, **options)) == sorted(found)
    assert set(found) <= set(kept(records, seed, max_pairs=most + 1, **options)) or not most
    for name, n in domains(found, records).items():
        assert n <= counts[name]
        assert shares.get(name, 1) > 0


@settings(max_examples=40)
@given(COUNTS, st.integers(1, 30))
def test_a_run_that_grows_changes_no_earlier_decision_but_of_balance(
    counts: dict[str, int], cut: int
) -> None:
    records = [replace(r, dialogue=held("May I?", r.scenario.domain)) for r in run(**counts)]
    whole = decide(records, pairs={"max_length_ratio": 30})
    assert decide(records[:cut], pairs={"max_length_ratio": 30}) == whole[:cut]


def test_what_was_left_out_and_what_was_flagged_is_counted() -> None:
    records = [pair(0), replace(pair(0), scenario=scenario(1)), pair(2, BROKEN)]
    records.append(replace(pair(3), dialogue=held("How may I help you today?", BROKEN)))
    selection = Selection(export_of(exclude=["role_flip"]), 0)
    for record in records:
        selection.decide(record)
    assert selection.removed == {"duplicate_exact": 1, "unchanged": 1, "role_flip": 1}
    assert selection.warnings["role_flip"] == 1
