"""Compare runs: any two by their figures, or the arms of an experiment scenario by scenario.

The first run is the baseline. Runs are by default treated as independent samples that may differ in
everything. The arms of an experiment go through the same scenarios; a `Pairing` then takes the
differences scenario by scenario, so that how easy a scenario is cancels out.
"""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sdsd import config as configuration
from sdsd.config import Config
from sdsd.errors import SdsdError
from sdsd.hashing import hash64
from sdsd.reports.metrics.costs import total
from sdsd.reports.metrics.diversity import LENGTHS, Distinct
from sdsd.reports.metrics.figures import Figures
from sdsd.reports.metrics.votes import Agreement, Table, agreement
from sdsd.reports.stats import (
    FEW,
    Detection,
    Interval,
    Proportion,
    Z,
    detection,
    difference,
    kappa,
    paired_bootstrap,
    proportion,
    quotient,
)
from sdsd.types import Critique, Dialogue, Record

Labels = Mapping[tuple[str, str], bool]
"""(scenario id, principle id) -> whether people see a violation in the first run's last reply."""
Group = Literal[
    "share", "principle", "target", "strategy", "category", "warning", "cost", "distinct", "mean"
]
"""Kinds of measures.

principle, target, strategy  the yield by target principle, by its category, and by strategy
category                     confirmed violations by category of principle
warning                      dialogues by rule of `sdsd.checks.dialogue_rules`
cost                         what a verified pair costs
distinct                     distinct-n of words, by side
"""


# -- values --------------------------------------------------------------------------------


class Change(Struct, frozen=True):
    """How a run differs from the baseline in one measure."""

    value: float
    """This run minus the baseline; for a cost, this run divided by the baseline."""
    interval: Interval | None
    """None where the uncertainty is unknown."""
    n: int
    """Observations in the smaller of the two runs; if `paired`, the scenarios that both have."""
    paired: bool = False
    clear: bool = False
    """The interval excludes "no difference" and rests on at least ten observations."""


class Measure(Struct, frozen=True):
    """One quantity in every run, and the change of each run but the first."""

    group: Group
    name: str
    values: tuple[float | None, ...]
    proportions: tuple[Proportion, ...]
    """The counts behind the values, if these are shares; otherwise empty."""
    changes: tuple[Change | None, ...]
    """None where one of the two runs has nothing to compare."""


class Labelled(Struct, frozen=True):
    """A critic compared with people's labels."""

    run: str
    critic: str
    """Empty for the verdict of the run: that of its only critic, or the joint one of several."""
    grounded: bool
    """Only claims with a quotation that occurs in the reply are counted; otherwise all are."""
    n: int
    """Verdicts for which there is a label."""
    found: Detection
    kappa: float | None


class Comparison(Struct, frozen=True, kw_only=True):
    """Runs in numbers, and how each differs from the first."""

    paired: bool
    """The runs go through the same scenarios."""
    runs: dict[str, Figures]
    measures: tuple[Measure, ...]
    settings: dict[str, tuple[Any, ...]]
    """Keys of the configuration that differ and decide what is made, with the value in each run."""
    between: tuple[Agreement, ...] = ()
    """Pairs of runs whose critics judged the same conversations."""
    labels: int = 0
    """Labels that were given."""
    labelled: tuple[Labelled, ...] = ()

    def measure(self, group: Group, name: str) -> Measure:
        """Return one measure. Raises StopIteration for an unknown name."""
        return next(m for m in self.measures if (m.group, m.name) == (group, name))


def compare(
    runs: Mapping[str, Figures],
    configs: Mapping[str, Config] = {},
    pairing: Pairing | None = None,
) -> Comparison:
    """Compare runs by their figures.

    configs  of the runs, to list the settings that differ
    pairing  what was noted of the records of the same runs, if they share their scenarios. Its
             intervals take about 1 ms per scenario and run.

    Raises SdsdError if there is no run.
    """
    if not runs:
        raise SdsdError("nothing to compare: name at least one run")
    measures = _measures(tuple(runs.values()))
    if pairing:
        measures = [pairing.pair(measure) for measure in measures]
    return Comparison(
        paired=pairing is not None,
        # the cells are by far the largest part, and not needed here
        runs={name: replace(figures, cells=()) for name, figures in runs.items()},
        measures=tuple(measures),
        settings=settings(configs),
        between=pairing.between() if pairing else (),
        labels=len(pairing.labels) if pairing else 0,
        labelled=pairing.labelled() if pairing else (),
    )


def to_json(comparison: Comparison) -> bytes:
    """Encode with indentation and a final line feed."""
    return msgspec.json.format(msgspec.json.encode(comparison), indent=2) + b"\n"


def settings(configs: Mapping[str, Config]) -> dict[str, tuple[Any, ...]]:
    """Return the keys that differ and decide what is made, with the value in each configuration."""
    flat = [dict(configuration.flat(config)) for config in configs.values()]
    return {
        key: tuple(each.get(key) for each in flat)
        for key in {key: None for each in flat for key in each}
        if any(each.get(key) != flat[0].get(key) for each in flat)
        and not configuration.is_execution(key)
    }


# -- independent runs ----------------------------------------------------------------------


def _measures(runs: Sequence[Figures]) -> list[Measure]:
    return [
        *_proportions("share", [_shares(f) for f in runs]),
        *_proportions("principle", [{p.id: p.targeted for p in f.principles} for f in runs]),
        *_proportions("target", [{c.name: c.targeted for c in f.categories} for f in runs]),
        *_proportions("strategy", [{s.name: s.accepted for s in f.strategies} for f in runs]),
        *_proportions("category", [{c.name: c.confirmed for c in f.categories} for f in runs]),
        *_proportions("warning", [_warnings(f, runs) for f in runs]),
        *_costs(runs),
        *_distinct(runs),
        *_means(runs),
    ]


def _shares(f: Figures) -> dict[str, Proportion]:
    claimed, confirmed = f.reached("claimed"), f.reached("confirmed")
    return {
        "yield": f.accepted,
        "violating": f.violating,
        "repaired": proportion(min(f.accepted.k, confirmed), confirmed),
        "unsupported": proportion(claimed - confirmed, claimed),
        "failed": proportion(sum(x.n for x in f.failures), f.finished),
        "completed": proportion(f.stops.get("completed", 0), f.reached("generated")),
        "self_check_right": f.agreement.same,
        "chosen_longer": f.biases.lengths["all"].longer,
        "repeats": f.diversity.repeats,
    }


def _warnings(f: Figures, runs: Sequence[Figures]) -> dict[str, Proportion]:
    rules = {rule: None for each in runs for rule in each.warnings}
    return {rule: proportion(f.warnings.get(rule, 0), f.reached("generated")) for rule in rules}


def _proportions(group: Group, found: Sequence[Mapping[str, Proportion]]) -> Iterator[Measure]:
    for name in {
        name: None for each in found for name, p in each.items() if p.n or group == "share"
    }:
        known = [each.get(name) or proportion(0, 0) for each in found]
        yield Measure(
            group,
            name,
            tuple(p.share if p.n else None for p in known),
            tuple(known),
            tuple(_changed(difference(known[0], p), min(known[0].n, p.n)) for p in known[1:]),
        )


def _changed(found: Interval | None, n: int, *, none: float = 0.0) -> Change | None:
    if found is None:
        return None
    clear = n >= FEW and not found.low <= none <= found.high
    return Change(found.value, found, n, clear=clear)


def _costs(runs: Sequence[Figures]) -> Iterator[Measure]:
    for name in ("calls", "tokens", "written", "seconds"):
        found: list[Interval | None] = [getattr(f.pair_cost, name) for f in runs]
        changes = (
            _changed(quotient(found[0], each), min(runs[0].pairs, f.pairs), none=1.0)
            for each, f in zip(found[1:], runs[1:], strict=True)
        )
        values = (each.value if each else None for each in found)
        yield Measure("cost", name, tuple(values), (), tuple(changes))
    first, *_ = money = [f.pair_cost.money for f in runs]
    rates = (Change(x / first, None, 0) if first and x else None for x in money[1:])
    yield Measure("cost", "money", tuple(money), (), tuple(rates))


def _distinct(runs: Sequence[Figures]) -> Iterator[Measure]:
    for side in ("user", "agent"):
        found: list[Distinct] = [getattr(f.diversity, side).distinct for f in runs]
        for k, length in enumerate(LENGTHS):
            values = tuple(d.means[k] if d.means else None for d in found)
            changes = (_between(found[0], d, k) for d in found[1:])
            yield Measure("distinct", f"{side}/{length}", values, (), tuple(changes))


def _between(a: Distinct, b: Distinct, k: int) -> Change | None:
    if not (a.means and b.means):
        return None
    gap = b.means[k] - a.means[k]
    if not (a.errors and b.errors):
        return Change(gap, None, min(a.blocks, b.blocks))
    half = Z * math.hypot(a.errors[k], b.errors[k])
    return _changed(Interval(gap, gap - half, gap + half), min(a.blocks, b.blocks))


def _means(runs: Sequence[Figures]) -> Iterator[Measure]:
    found = [_numbers(f) for f in runs]
    for name in found[0]:
        first, *others = values = [each[name] for each in found]
        changes = (
            None if first is None or x is None else Change(x - first, None, 0) for x in others
        )
        yield Measure("mean", name, tuple(values), (), tuple(changes))


def _numbers(f: Figures) -> dict[str, float | None]:
    lengths, generated = f.lengths, f.reached("generated")
    use = total(f.stages.values())
    return {
        "tokens": (use.prompt_tokens + use.completion_tokens) / f.finished if f.finished else None,
        "messages": f.messages_mean if generated else None,
        "user_turn": lengths.user_turn if generated else None,
        "agent_turn": lengths.agent_turn if generated else None,
        "rejected": lengths.rejected if f.pairs else None,
        "chosen": lengths.chosen if f.pairs else None,
        "spread": f.diversity.spread,
        "largest_topic": f.fields.largest if f.finished else None,
        "tokens_per_second": f.clock.tokens_per_second if f.clock.answers else None,
    }


# -- the same scenarios --------------------------------------------------------------------


class _Row(NamedTuple):
    """What is kept of one record."""

    accepted: bool
    violating: bool | None
    tokens: int
    conversation: int | None
    """A hash of what the critic judged; None if nothing was judged."""
    claims: tuple[tuple[str, bool], ...]
    """By principle."""


_PAIRED: dict[tuple[Group, str], Callable[[_Row], float | None]] = {
    ("share", "yield"): lambda row: row.accepted,
    ("share", "violating"): lambda row: row.violating,
    ("mean", "tokens"): lambda row: row.tokens,
}
"""The measures that are compared scenario by scenario, and their values."""


class Pairing:
    """A few numbers of each scenario in each arm, noted while the records pass through."""

    def __init__(self, labels: Labels = {}) -> None:
        self.labels = labels
        self._arms: dict[str, dict[int, _Row]] = {}
        self._labelled: defaultdict[tuple[str, str, bool], Table] = defaultdict(Counter)

    def through(self, arm: str, records: Iterable[Record]) -> Iterator[Record]:
        """Pass the records of one arm on, noting each; exhaust the baseline's first.

        Raises SdsdError if a scenario occurs twice.
        """
        rows = self._arms.setdefault(arm, {})
        baseline = next(iter(self._arms.values()))
        for record in records:
            index = record.scenario.index
            if index in rows:
                raise SdsdError(f"arm {arm!r} has scenario {index} twice; give one run's records")
            rows[index] = _row(record)
            # People label the baseline's replies: another arm's must be the same, word for word.
            if record.critique and index in baseline and _same(baseline[index], rows[index]):
                self._add_labelled(arm, record.scenario.id, record.critique)
            yield record

    def pair(self, measure: Measure) -> Measure:
        """Return the measure with changes by scenario, where it has values by scenario."""
        of = _PAIRED.get((measure.group, measure.name))
        if of is None:
            return measure
        first, *others = self._arms.values()
        return replace(measure, changes=tuple(_paired(first, rows, of) for rows in others))

    def between(self) -> tuple[Agreement, ...]:
        """Return the agreement of each two arms on the conversations that both judged."""
        found = []
        for (a, ours), (b, theirs) in combinations(self._arms.items(), 2):
            table: Table = Counter()
            for index in ours.keys() & theirs.keys():
                if _same(ours[index], theirs[index]):
                    claims = dict(theirs[index].claims)
                    table.update((x, claims[id_]) for id_, x in ours[index].claims if id_ in claims)
            if table:
                found.append(agreement(a, b, table))
        return tuple(found)

    def labelled(self) -> tuple[Labelled, ...]:
        """Compare each critic with the labels."""
        return tuple(
            Labelled(*key, table.total(), detection(table), kappa(table))
            for key, table in self._labelled.items()
        )

    def _add_labelled(self, arm: str, scenario: str, critique: Critique) -> None:
        for verdict in (*critique.verdicts, *critique.votes):
            true = self.labels.get((scenario, verdict.principle))
            if true is not None:
                self._labelled[arm, verdict.critic, False][verdict.violated, true] += 1
                self._labelled[arm, verdict.critic, True][verdict.confirmed, true] += 1


def _row(record: Record) -> _Row:
    critique = record.critique
    verdicts = critique.verdicts if critique else ()
    return _Row(
        accepted=bool(record.pairs),
        violating=bool(critique.violations) if critique else None,
        tokens=sum(u.prompt_tokens + u.completion_tokens for u in record.usage.values()),
        conversation=_digest(record.dialogue) if record.dialogue and critique else None,
        claims=tuple((sys.intern(v.principle), v.violated) for v in verdicts),
    )


def _same(a: _Row, b: _Row) -> bool:
    return a.conversation is not None and a.conversation == b.conversation


def _digest(dialogue: Dialogue) -> int:
    """Hash all of the conversation, because all of it is what critics see."""
    parts = (part for m in dialogue.messages for part in (m.role, m.content))
    return hash64("conversation", *parts)


def _paired(
    baseline: Mapping[int, _Row], rows: Mapping[int, _Row], of: Callable[[_Row], float | None]
) -> Change | None:
    both = [
        (x, y)
        for index in sorted(baseline.keys() & rows.keys())
        if (x := of(baseline[index])) is not None and (y := of(rows[index])) is not None
    ]
    if not both:
        return None
    n, found = len(both), paired_bootstrap([x for x, _ in both], [y for _, y in both])
    same = both[0][1] - both[0][0]  # without an interval there is one difference only
    return replace(_changed(found, n) or Change(same, None, n), paired=True)
