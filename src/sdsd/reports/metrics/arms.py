"""Several ways to make the same dialogues, compared: one pass over each arm's records.

An arm is a run with changes of the configuration; all arms go through the same scenarios. What is
compared is paired by the scenario's index, so how easy a scenario is cancels out. Of each scenario
only a few numbers are kept, and a hash of the conversation instead of its text.
"""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

from msgspec import Struct

from sdsd.errors import SdsdError
from sdsd.hashing import hash64
from sdsd.reports.agreement import (
    Detection,
    detection_of,
    kappa_of,
    paired_bootstrap,
    ratio_bootstrap,
)
from sdsd.reports.metrics.figures import FUNNEL, Step
from sdsd.reports.metrics.votes import Table, Votes, agreement
from sdsd.reports.rates import Estimate, Rate, rate
from sdsd.types import Critique, Dialogue, Record

Labels = Mapping[tuple[str, str], bool]
"""(scenario id, principle id) -> whether people say that the first arm's last turn breaks it."""

Measure = Literal["yield", "violation", "tokens"]
"""What is compared by scenario.

yield      1 if it ended in a verified pair, else 0
violation  1 if a violation was confirmed, else 0; of those judged in both arms
tokens     tokens read and written for it
"""
_MEASURES: tuple[Measure, ...] = ("yield", "violation", "tokens")


# -- values --------------------------------------------------------------------------------


class Cost(Struct, frozen=True):
    """What an arm spent on one thing, over all its dialogues, accepted or not."""

    total: float
    per_pair: Estimate | None
    """For each verified pair; None if there was none, or only one dialogue."""


class Arm(Struct, frozen=True, kw_only=True):
    """One arm in numbers. Shares are of 1, times in seconds."""

    name: str
    finished: int
    funnel: tuple[Step, ...]
    failures: dict[str, int]
    """By stage."""
    accepted: Rate
    """The yield: of the dialogues finished, those with at least one verified pair."""
    pairs: int
    """Verified pairs; a dialogue of which several samples were drawn may have more than one."""
    violating: Rate
    """Of the dialogues judged, those with a confirmed violation."""
    principles: dict[str, Rate]
    """The yield by the principle that the dialogue was meant to break."""
    categories: dict[str, Rate]
    """The yield by that principle's category."""
    strategies: dict[str, Rate]
    """The yield by strategy."""
    exchanges: float | None
    """Exchanges per dialogue held, in the mean."""
    calls: Cost
    tokens: Cost
    """Read and written; those read from a prefix cache count too."""
    seconds: Cost
    """Model time, all requests added up."""


class Paired(Struct, frozen=True):
    """An arm against the first one, over the scenarios that both have."""

    arm: str
    measure: Measure
    n: int
    baseline: float | None
    """The first arm's mean over these scenarios; None if there are none."""
    mean: float | None
    """This arm's."""
    interval: tuple[float, float] | None
    """Of the difference, 95%; None if it cannot be told from so few, or all differ alike."""

    @property
    def difference(self) -> float | None:
        """This arm's mean less the first one's."""
        return None if self.mean is None or self.baseline is None else self.mean - self.baseline


class Agreement(Struct, frozen=True):
    """Two raters' claims on the same turns and principles."""

    arm: str
    """Where both are critics of one arm; empty where the raters are arms."""
    first: str
    second: str
    same: Rate
    kappa: float | None
    """Cohen's."""


class Panel(Struct, frozen=True):
    """All critics of an arm at once."""

    arm: str
    critics: tuple[str, ...]
    n: int
    """Turns and principles judged."""
    alpha: float | None
    """Krippendorff's, of their claims."""


class Labelled(Struct, frozen=True):
    """A critic against people."""

    arm: str
    critic: str
    """Empty for the arm's verdict, joint where it has several critics."""
    grounded: bool
    """Only claims count whose quotation is there; else all do."""
    n: int
    """Verdicts that people judged too."""
    found: Detection
    kappa: float | None


class Comparison(Struct, frozen=True, kw_only=True):
    """An experiment in numbers. The first arm is the baseline."""

    arms: tuple[Arm, ...]
    paired: tuple[Paired, ...]
    critics: tuple[Agreement, ...]
    panels: tuple[Panel, ...]
    between: tuple[Agreement, ...]
    """Arms whose critics judged the same conversations; pairs of arms without any are left out."""
    labels: int
    """Judgements by people that were given."""
    labelled: tuple[Labelled, ...]
    """Of each arm, over those of its conversations that are the first arm's too."""
    texts: dict[str, str]
    """What the ids of the principles stand for."""


# -- counting ------------------------------------------------------------------------------


class _Row(NamedTuple):
    """What is kept of one dialogue."""

    accepted: bool
    pairs: int
    violating: bool | None
    calls: int
    tokens: int
    seconds: float
    conversation: int | None
    """A hash of what the critic judged; None if nothing was."""
    claims: tuple[tuple[str, bool], ...]
    """By principle."""

    def value(self, measure: Measure) -> float | None:
        values = {"yield": self.accepted, "violation": self.violating, "tokens": self.tokens}
        return values[measure]


_Rows = Mapping[int, _Row]


def compare(arms: Mapping[str, Iterable[Record]], labels: Labels | None = None) -> Comparison:
    """The figures of an experiment. The first arm is the baseline.

    arms    each arm's finished records, any order, read once, one arm after the other
    labels  what people say of the first arm's last turns. They speak of a text: another arm is
            held against them only where its conversation is the same, word for word.

    Raises SdsdError if there is no arm, or a record's scenario comes twice in one. The intervals
    take about 2 ms of work for each scenario of each arm.
    """
    if not arms:
        raise SdsdError("an experiment without arms: name at least one")
    known = labels or {}
    tallies: list[_Tally] = []
    for name, records in arms.items():
        tally = _Tally(name, known, tallies[0].rows if tallies else None)
        for record in records:
            tally.add(record)
        tallies.append(tally)
    first, *others = tallies
    return Comparison(
        arms=tuple(tally.arm() for tally in tallies),
        paired=tuple(
            _paired(tally.name, measure, first.rows, tally.rows)
            for measure in _MEASURES
            for tally in others
        ),
        critics=tuple(x for tally in tallies for x in tally.agreements()),
        panels=tuple(panel for tally in tallies if (panel := tally.panel())),
        between=tuple(x for a, b in combinations(tallies, 2) if (x := _between(a, b))),
        labels=len(known),
        labelled=tuple(x for tally in tallies for x in tally.labelled()),
        texts={id_: text for tally in tallies for id_, text in tally.texts.items()},
    )


class _Tally:
    """Counters over the records of one arm, and one row for each."""

    def __init__(self, name: str, labels: Labels, baseline: _Rows | None) -> None:
        self.name = name
        self.rows: dict[int, _Row] = {}
        self.texts: dict[str, str] = {}
        self._labels = labels
        self._baseline = self.rows if baseline is None else baseline
        self._funnel: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._exchanges = 0
        self._yields: dict[str, defaultdict[str, list[int]]] = {
            kind: defaultdict(lambda: [0, 0]) for kind in ("principle", "category", "strategy")
        }
        self._votes = Votes()
        self._labelled: defaultdict[tuple[str, bool], Table] = defaultdict(Counter)

    def add(self, record: Record) -> None:
        scenario = record.scenario
        if scenario.index in self.rows:
            raise SdsdError(
                f"arm {self.name!r} has scenario {scenario.index} twice; give one run's records"
            )
        self.rows[scenario.index] = row = _row(record)
        self._funnel.update(name for name, reached in FUNNEL if reached(record))
        self.texts.update((p.id, p.text) for p in scenario.principles)
        target_principle = scenario.target_principle
        for kind, key in (
            ("principle", target_principle.id),
            ("category", target_principle.category),
            ("strategy", scenario.strategy),
        ):
            cell = self._yields[kind][key]
            cell[0] += row.accepted
            cell[1] += 1
        if record.failure:
            self._failures[record.failure.step.partition("/")[0]] += 1
        if record.dialogue:
            self._exchanges += record.dialogue.exchanges
        if record.critique:
            self._votes.add(record.critique.votes)
            before = self._baseline.get(scenario.index)
            if before and _same(before, row):
                self._add_labelled(scenario.id, record.critique)

    def _add_labelled(self, scenario: str, critique: Critique) -> None:
        for verdict in (*critique.verdicts, *critique.votes):
            true = self._labels.get((scenario, verdict.principle))
            if true is not None:
                self._labelled[verdict.critic, False][verdict.violated, true] += 1
                self._labelled[verdict.critic, True][verdict.confirmed, true] += 1

    def arm(self) -> Arm:
        """What was counted."""
        funnel, held = self._funnel, self._funnel["held"]
        rows = [self.rows[index] for index in sorted(self.rows)]
        pairs = [float(row.pairs) for row in rows]

        def cost(spent: Sequence[float]) -> Cost:
            return Cost(math.fsum(spent), ratio_bootstrap(spent, pairs))

        def yields(kind: str) -> dict[str, Rate]:
            return {key: rate(k, n) for key, (k, n) in sorted(self._yields[kind].items())}

        return Arm(
            name=self.name,
            finished=len(rows),
            funnel=tuple(Step(name, funnel[name]) for name, _ in FUNNEL),
            failures=dict(self._failures.most_common()),
            accepted=rate(funnel["accepted"], len(rows)),
            pairs=sum(row.pairs for row in rows),
            violating=rate(funnel["confirmed"], funnel["judged"]),
            principles=yields("principle"),
            categories=yields("category"),
            strategies=yields("strategy"),
            exchanges=self._exchanges / held if held else None,
            calls=cost([row.calls for row in rows]),
            tokens=cost([row.tokens for row in rows]),
            seconds=cost([row.seconds for row in rows]),
        )

    def agreements(self) -> list[Agreement]:
        """Of each two critics."""
        return [_agreement(table, self.name, a, b) for a, b, table in self._votes.tables()]

    def panel(self) -> Panel | None:
        """Of all critics; None if there are not several."""
        votes = self._votes
        if len(votes.critics) < 2:
            return None
        return Panel(self.name, votes.critics, votes.judged, votes.alpha)

    def labelled(self) -> list[Labelled]:
        """Each critic against people, all claims and then those with evidence."""
        return [
            Labelled(
                self.name, critic, grounded, table.total(), detection_of(table), kappa_of(table)
            )
            for (critic, grounded), table in self._labelled.items()
        ]


def _row(record: Record) -> _Row:
    uses, critique = record.usage.values(), record.critique
    return _Row(
        accepted=record.outcome == "accepted",
        pairs=len(record.pairs),
        violating=bool(critique.violations) if critique else None,
        calls=sum(use.calls for use in uses),
        tokens=sum(use.prompt_tokens + use.completion_tokens for use in uses),
        seconds=math.fsum(use.seconds for use in uses),
        conversation=_digest(record.dialogue) if record.dialogue and critique else None,
        claims=tuple((sys.intern(v.principle), v.violated) for v in critique.verdicts)
        if critique
        else (),
    )


def _same(a: _Row, b: _Row) -> bool:
    """Whether the same text was judged."""
    return a.conversation is not None and a.conversation == b.conversation


def _digest(dialogue: Dialogue) -> int:
    """Critics see the whole conversation, so it is all of it that must be the same."""
    return hash64(
        "conversation", *(part for m in dialogue.messages for part in (m.role, m.content))
    )


# -- comparing -----------------------------------------------------------------------------


def _paired(arm: str, measure: Measure, baseline: _Rows, rows: _Rows) -> Paired:
    both = [
        (x, y)
        for index in sorted(baseline.keys() & rows.keys())
        if (x := baseline[index].value(measure)) is not None
        and (y := rows[index].value(measure)) is not None
    ]
    if not both:
        return Paired(arm, measure, 0, None, None, None)
    before, after = [x for x, _ in both], [y for _, y in both]
    n = len(both)
    found = paired_bootstrap(before, after)
    interval = None if found is None or found.high is None else (found.low, found.high)
    return Paired(arm, measure, n, math.fsum(before) / n, math.fsum(after) / n, interval)


def _between(a: _Tally, b: _Tally) -> Agreement | None:
    """Two arms' verdicts on what both judged; None if there is nothing."""
    table: Table = Counter()
    for index in a.rows.keys() & b.rows.keys():
        ours, theirs = a.rows[index], b.rows[index]
        if _same(ours, theirs):
            claims = dict(theirs.claims)
            table.update((claim, claims[id_]) for id_, claim in ours.claims if id_ in claims)
    return _agreement(table, "", a.name, b.name) if table else None


def _agreement(table: Table, arm: str, first: str, second: str) -> Agreement:
    return Agreement(arm, first, second, *agreement(table))
