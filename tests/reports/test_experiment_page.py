"""Arms compared on hand-made records, and their page."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from html.parser import HTMLParser

import msgspec
import pytest

from sdsd.config import Config
from sdsd.errors import SdsdError
from sdsd.reports.html.comparison import render
from sdsd.reports.metrics.comparison import Change, Comparison, Group, Pairing, compare, to_json
from sdsd.reports.metrics.figures import collect
from sdsd.types import (
    Candidate,
    Critique,
    Dialogue,
    Failure,
    Goal,
    Message,
    Plan,
    Principle,
    Record,
    Revision,
    Scenario,
    StageUsage,
    Verdict,
)

PRINCIPLES = tuple(
    Principle(f"rule-{i}", f"The agent should keep rule {i}.", "own", f"kind-{i % 2}")
    for i in range(4)
)
CLEAN = Critique((Verdict("rule-0", False, ""),))


def scenario(i: int, strategy: str = "direct", name: str = "") -> Scenario:
    principles = (PRINCIPLES[i % 4], PRINCIPLES[(i + 1) % 4])
    goal = Goal("g", "kind", "A goal.")
    return Scenario(name or f"s{i}", i, "f", "d", "s", goal, principles, 2, strategy)


def verdict(principle: str, found: str, critic: str = "") -> Verdict:
    """`found`: c(lean), u(nsupported), v(iolated)."""
    return Verdict(principle, found != "c", "Because.", grounded=found == "v", critic=critic)


def record(
    i: int,
    found: str = "vc",
    *,
    accepted: bool = True,
    text: str = "the last",
    tokens: int = 100,
    votes: Iterable[tuple[str, str]] = (),
    strategy: str = "direct",
    name: str = "",
    samples: int = 0,
) -> Record:
    """`found` has a letter for each of the two principles; `votes` the same for each critic."""
    s = scenario(i, strategy, name)
    ids = [p.id for p in s.principles]
    said = tuple(verdict(ids[k], letters[k], critic) for k in range(2) for critic, letters in votes)
    combined = tuple(verdict(id_, letter) for id_, letter in zip(ids, found, strict=True))
    critique = Critique(combined, said)
    messages = Message("user", "hello"), Message("assistant", text)
    return Record(
        s,
        "accepted" if accepted else "filtered",
        "" if accepted else "no_violation",
        plan=Plan("text", ("one",), "slip"),
        dialogue=Dialogue(messages, "chat", "completed", False),
        critique=critique,
        revisions=(Revision("better", CLEAN),) if accepted else (),
        usage={"turn": StageUsage(2, tokens, 0, 50, 1.5)},
        candidates=(Candidate("another", CLEAN),) * samples,
    )


def failed(i: int) -> Record:
    use = {"plan": StageUsage(1, 10, 0, 10, 0.5)}
    return Record(scenario(i), "failed", failure=Failure("plan/retry/1", "unparseable"), usage=use)


def compare_arms(
    arms: Mapping[str, Iterable[Record]], labels: Mapping[tuple[str, str], bool] | None = None
) -> Comparison:
    pairing = Pairing(labels or {})
    figures = {
        name: collect(pairing.through(name, records), [], Config(), ((), ()))
        for name, records in arms.items()
    }
    return compare(figures, {}, pairing)


def change(found: Comparison, group: Group, name: str, arm: str) -> Change | None:
    k = list(found.runs).index(arm)
    return found.measure(group, name).changes[k - 1]


def experiment(n: int = 120) -> Comparison:
    """Three arms with votes, strategies, failures and people; the third judges the first's text."""
    rng = random.Random(7)

    def arm(rate: float, tokens: int, prefix: str) -> Iterator[Record]:
        for i in range(n):
            if rng.random() < 0.05:
                yield failed(i)
                continue
            broken = rng.random() < rate
            found = "vc" if broken else "cc"
            votes = [(c, found if rng.random() < 0.85 else "uv") for c in ("strict", "calm", "old")]
            yield record(
                i,
                found,
                accepted=broken and rng.random() < 0.8,
                text=f"{prefix} {i}",
                tokens=int(rng.gauss(tokens, tokens / 5)),
                votes=votes,
                strategy=("direct", "pressure", "role_play")[i % 3],
            )

    labels = {
        (f"s{i}", p.id): rng.random() < 0.3 for i in range(0, n, 2) for p in scenario(i).principles
    }
    arms = {
        "baseline": arm(0.35, 4000, "one"),
        "best of four, with pressure": arm(0.6, 9000, "other"),
        "second critic": arm(0.4, 4100, "one"),
    }
    return compare_arms(arms, labels)


# -- counting ------------------------------------------------------------------------------


def test_an_arm_is_counted() -> None:
    records = [record(0), record(1, "uc", accepted=False), failed(2), record(4, samples=2)]
    arm = compare_arms({"only": records}).runs["only"]
    assert {step.name: step.n for step in arm.funnel} == {
        "started": 4,
        "planned": 3,
        "generated": 3,
        "judged": 3,
        "claimed": 3,
        "confirmed": 2,
        "revised": 2,
        "accepted": 2,
    }
    assert [(x.stage, x.n) for x in arm.failures] == [("plan", 1)]
    assert (arm.accepted.k, arm.accepted.n, arm.pairs) == (2, 4, 4)
    assert (arm.violating.k, arm.violating.n) == (2, 3)
    targeted = {p.id: (p.targeted.k, p.targeted.n) for p in arm.principles if p.targeted.n}
    assert targeted == {"rule-0": (2, 2), "rule-1": (0, 1), "rule-2": (0, 1)}
    assert {c.name: (c.targeted.k, c.targeted.n) for c in arm.categories} == {
        "kind-0": (2, 3),
        "kind-1": (0, 1),
    }
    assert (arm.messages_mean - 1) / 2 == 1
    uses = arm.stages.values()
    assert sum(use.prompt_tokens + use.completion_tokens for use in uses) == 470
    assert (sum(use.calls for use in uses), sum(use.seconds for use in uses)) == (7, 5)
    assert arm.pair_cost.tokens is not None
    assert arm.pair_cost.tokens.value == pytest.approx(470 / 4)


def test_strategies_are_told_apart() -> None:
    records = [record(0, strategy="a"), record(1, strategy="b", accepted=False)]
    arm = compare_arms({"only": records}).runs["only"]
    found = {s.name: (s.accepted.k, s.accepted.n) for s in arm.strategies}
    assert found == {"a": (1, 1), "b": (0, 1)}


def test_differences_are_paired_by_scenario() -> None:
    base = [record(i, tokens=100 + 1000 * i, accepted=i < 3) for i in range(9)]
    more = [record(i, tokens=140 + 1000 * i + i % 2, accepted=i < 6) for i in range(1, 12)]
    found = compare_arms({"base": base, "more": reversed(more)})
    assert found.paired
    tokens = change(found, "mean", "tokens", "more")
    accepted = change(found, "share", "yield", "more")
    assert tokens is not None
    assert accepted is not None
    assert (tokens.n, accepted.n) == (8, 8)  # 1 to 8 are in both
    assert tokens.value == pytest.approx(40.5)
    assert tokens.interval is not None
    assert (
        40 <= tokens.interval.low < 40.5 < tokens.interval.high <= 41
    )  # not the scenarios' spread
    assert accepted.value == 5 / 8 - 2 / 8
    assert (tokens.paired, accepted.paired) == (True, True)
    repaired = change(found, "share", "repaired", "more")
    assert repaired is not None
    assert not repaired.paired  # a scenario without a violation has no value


def test_a_failure_has_a_yield_but_no_violation() -> None:
    found = compare_arms({"a": [record(0), failed(1)], "b": [record(0), record(1)]})
    yields, violating = (change(found, "share", x, "b") for x in ("yield", "violating"))
    assert yields is not None
    assert violating is not None
    assert (yields.n, violating.n) == (2, 1)


def test_nothing_shared_has_no_difference() -> None:
    found = compare_arms({"a": [record(0)], "b": [record(1)], "none": []})
    for arm in ("b", "none"):
        assert change(found, "mean", "tokens", arm) is None
    assert "no scenario in common with the baseline" in render(found)


def test_equal_arms_differ_by_nothing_without_a_made_up_interval() -> None:
    found = compare_arms({"a": [record(i) for i in range(5)], "b": [record(i) for i in range(5)]})
    same = change(found, "share", "yield", "b")
    assert same is not None
    assert (same.value, same.interval, same.clear) == (0, None, False)


def test_an_arm_without_a_pair_has_no_cost_of_one() -> None:
    arm = compare_arms({"a": [record(i, "cc", accepted=False) for i in range(3)]}).runs["a"]
    assert sum(u.prompt_tokens + u.completion_tokens for u in arm.stages.values()) == 450
    assert arm.pair_cost.tokens is None


def test_no_arm_and_a_scenario_twice_are_refused() -> None:
    with pytest.raises(SdsdError, match="at least one"):
        compare_arms({})
    with pytest.raises(SdsdError, match="'a' has scenario 3 twice"):
        compare_arms({"a": [record(3), record(3)]})


def test_the_same_records_give_the_same_figures() -> None:
    assert to_json(experiment(30)) == to_json(experiment(30))


# -- agreement -----------------------------------------------------------------------------


def test_critics_of_an_arm() -> None:
    say = [("x", "vc"), ("y", "uc"), ("z", "cc")]
    records = [record(0, votes=say), record(1, votes=say), record(2, votes=say[:2])]
    panel = compare_arms({"a": records}).runs["a"].critics
    assert panel is not None
    same = {(a.first, a.second): (a.same.k, a.same.n) for a in panel.pairs}
    assert same == {("x", "y"): (6, 6), ("x", "z"): (2, 4), ("y", "z"): (2, 4)}
    kappas = {(a.first, a.second): a.kappa for a in panel.pairs}
    assert kappas == {("x", "y"): 1, ("x", "z"): 0, ("y", "z"): 0}
    assert (list(panel.claims), panel.judged) == (["x", "y", "z"], 6)
    # 16 ratings, 6 of them claims; two units have 4 unlike ordered pairs, each over 3 - 1
    assert panel.alpha == pytest.approx(1 - 15 * (2 * 4 / 2) / (16**2 - 6**2 - 10**2))


def test_one_critic_agrees_with_nobody() -> None:
    found = compare_arms({"a": [record(0), record(1)]})
    assert (found.runs["a"].critics, found.between) == (None, ())


def test_arms_agree_only_on_the_same_conversation() -> None:
    a = [record(0), record(1, "cc"), record(2), failed(3)]
    b = [record(0, "uc"), record(1, "vc"), record(2, text="another"), failed(3)]
    (both,) = compare_arms({"a": a, "b": b}).between
    assert (both.first, both.second, both.same.k, both.same.n) == ("a", "b", 3, 4)


def test_critics_against_people() -> None:
    people = {("s0", "rule-0"): True, ("s0", "rule-1"): True, ("s1", "rule-1"): False}
    people |= {("s2", "rule-2"): True}
    records = [record(0, "vc"), record(1, "uc"), record(2, "vc", votes=[("x", "cc"), ("y", "vc")])]
    other = [record(0, "cc"), record(1, "cc", text="another")]
    found = compare_arms({"a": records, "b": other}, people)
    rows = {(x.run, x.critic, x.grounded): x for x in found.labelled}
    every, grounded = rows["a", "", False], rows["a", "", True]
    assert (every.n, every.found.precision.k, every.found.precision.n) == (4, 2, 3)
    assert (every.found.recall.k, every.found.recall.n) == (2, 3)
    assert (grounded.found.precision.k, grounded.found.precision.n) == (2, 2)
    assert rows["a", "x", False].found.recall.k == 0
    assert rows["a", "y", False].found.recall.k == 1
    assert rows["b", "", False].n == 2  # its second conversation is another one
    assert found.labels == 4


# -- page ----------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Every start tag with its attributes, and whether all are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    return tags


def headings(page: str) -> list[str]:
    return [part.partition("</h2>")[0] for part in page.split("<h2>")[1:]]


def test_the_whole_page() -> None:
    found = experiment()
    settings = {"critique.wording": ("plain", "plain", "strict")}
    page = render(msgspec.structs.replace(found, settings=settings))
    assert headings(page) == [
        "The arms",
        "Yield",
        "Violations",
        "Differences",
        "From scenario to pair",
        "Cost of a verified pair",
        "Where it works",
        "Agreement between critics",
        "Critics compared with people",
        "Distinct words",
        "Quality warnings",
        "Other numbers",
        "Failures",
        "How to read this",
    ]
    tags = parsed(page)
    assert not [tag for tag, _ in tags.tags if tag in ("script", "img", "link", "iframe", "a")]
    assert "<code>critique.wording</code>" in page
    assert "<code>&#34;strict&#34;</code>" in page
    assert "nan" not in page.lower()


@pytest.mark.parametrize(
    "arms",
    [
        {"only": []},
        {"only": [record(0)]},
        {"only": [failed(0)], "other": [failed(0)]},
        {"a": [record(0)], "b": [record(1, "cc", accepted=False)]},
        {"a": [record(0, votes=[("x", "vc"), ("y", "vc")])]},
    ],
)
def test_a_page_of_hardly_anything(arms: dict[str, list[Record]]) -> None:
    found = compare_arms(arms, {("s0", "rule-0"): True})
    page = render(found)
    parsed(page)
    assert "nan" not in page.lower()
    assert msgspec.json.decode(to_json(found), type=Comparison) == found


def test_what_others_wrote_stays_text() -> None:
    evil = "</style></title><script>alert(1)</script>\"' onload=x \u202e"
    nasty = [
        msgspec.structs.replace(
            record(i, votes=[(evil, "vc"), (f"y{evil}", "cc")]),
            scenario=msgspec.structs.replace(
                scenario(i, (evil, "z")[i // 20]),
                principles=(Principle(evil, evil, evil, evil), PRINCIPLES[0]),
            ),
        )
        for i in range(40)
    ]
    step = "<img src=x onerror=alert(1)>"  # a stage ends at the first slash
    broken = msgspec.structs.replace(failed(99), failure=Failure(step, evil, evil))
    arms = {evil: [*nasty, broken], f"b{evil}": [*nasty, broken]}
    found = compare_arms(arms, {("s0", "rule-0"): True})
    assert found.labelled
    page = render(msgspec.structs.replace(found, settings={evil: (evil, evil)}))
    tags = parsed(page)
    assert {tag for tag, _ in tags.tags}.isdisjoint({"script", "img"})
    assert not [name for _, attrs in tags.tags for name in attrs if name.startswith("on")]
    assert "\u202e" not in page


def test_json_goes_there_and_back() -> None:
    found = experiment(40)
    written = to_json(found)
    assert written.endswith(b"}\n")
    assert msgspec.json.decode(written, type=Comparison) == found
