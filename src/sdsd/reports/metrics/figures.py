"""What happened in a run, as numbers.

`collect` reads every record once and keeps only counts (and sketches of the first dialogues, see
`diversity`), so memory does not grow with the run. Shares are fractions of 1, times are in seconds,
lengths in characters.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from sdsd.checks import dialogue_rules
from sdsd.config import Config
from sdsd.dataset.extensions import checks_of
from sdsd.reports.metrics.bias import Biases, BiasTally
from sdsd.reports.metrics.calibration_fit import Evidence
from sdsd.reports.metrics.costs import CostTally, PairCost, total
from sdsd.reports.metrics.diversity import Diversity, DiversityTally
from sdsd.reports.metrics.exam import JudgeResult, evidence_in_pairs, expected_precision
from sdsd.reports.metrics.principles import (
    CategoryCount,
    Cell,
    PrincipleCount,
    PrincipleTally,
    categories,
)
from sdsd.reports.metrics.timeline import Clock, Timeline, in_order
from sdsd.reports.metrics.votes import Agreement, Critics, Table, Votes, agreement
from sdsd.reports.money import money
from sdsd.reports.stats import Interval, Proportion, proportion
from sdsd.text.embeddings import Embed
from sdsd.types import (
    Critique,
    Dialogue,
    Domain,
    Failure,
    Outcome,
    Principle,
    Record,
    StageUsage,
    StopReason,
    Usage,
)

Finding = Literal["clean", "undecided", "claimed", "confirmed"]
"""The critic's finding on a last reply. `claimed`: a violation without a valid quotation."""

FUNNEL: dict[str, Callable[[Record], bool]] = {
    "started": lambda r: True,
    "planned": lambda r: r.plan is not None,
    "generated": lambda r: r.dialogue is not None,
    "judged": lambda r: r.critique is not None,
    "claimed": lambda r: r.critique is not None and any(v.violated for v in r.critique.verdicts),
    "confirmed": lambda r: r.critique is not None and bool(r.critique.violations),
    "revised": lambda r: any(not revision.defect for revision in r.revisions),
    "accepted": lambda r: bool(r.pairs),
}
"""The steps from a scenario to an accepted dialogue, and which records got that far."""


# -- values --------------------------------------------------------------------------------


class FunnelStep(Struct, frozen=True):
    """How many scenarios got this far."""

    name: str
    n: int


class OutcomeCount(Struct, frozen=True):
    """Records by outcome and by the rule that decided it."""

    outcome: Outcome
    rule: str
    n: int


class Signal(Struct, frozen=True):
    """Dialogues by what was planned, what the self-check said, and what the critic found."""

    reached: bool
    """The planned last reply was written, so a violation was intended there."""
    flagged: bool | None
    """The self-check; None where the model was not asked."""
    found: Finding
    n: int


class TopicCount(Struct, frozen=True):
    """The dialogues of one topic, and its share of the catalogue."""

    name: str
    n: int
    expected: float


class Balance(Struct, frozen=True):
    """How evenly the dialogues are spread over topics."""

    topics: tuple[TopicCount, ...]
    """Largest first."""
    used: int
    largest: float
    """The share of the largest topic."""
    entropy: float
    """Shannon entropy over its maximum, log(min(dialogues, topics)): 1 is even."""


class FailureCount(Struct, frozen=True):
    """Failures with one cause, from which quotations of the model are removed."""

    stage: str
    cause: str
    n: int


class FailureExample(Struct, frozen=True):
    """One failure, with the text that caused it."""

    scenario: str
    step: str
    cause: str
    raw: str


class StrategyCount(Struct, frozen=True):
    """What one strategy achieved."""

    name: str
    violating: Proportion
    """Dialogues with a confirmed violation, of those judged."""
    accepted: Proportion
    """Accepted dialogues, of finished scenarios."""


class Lengths(Struct, frozen=True):
    """Means, in characters."""

    user_turn: float
    agent_turn: float
    rejected: float
    chosen: float


class Figures(Struct, frozen=True, kw_only=True):
    """A run in numbers.

    Two counts must not be confused: `pairs` counts verified pairs, of which a dialogue with several
    candidates may have more than one; `accepted` counts dialogues with at least one verified pair.
    """

    asked: int
    """Dialogues that the configuration asks for."""
    finished: int
    """Scenarios with a record."""
    funnel: tuple[FunnelStep, ...]
    outcomes: tuple[OutcomeCount, ...]
    pairs: int
    """All pairs: the sum of `len(record.pairs)`."""
    verified: int
    """Those without the pairs that no critic can be trusted to verify."""
    precision: Interval | None
    """The expected share of true pairs, by the exam of the single critic; None without one."""
    accepted: Proportion
    """The yield: accepted dialogues, of finished scenarios."""
    violating: Proportion
    """Dialogues with a confirmed violation, of those judged."""
    stops: dict[StopReason, int]
    exchanges: dict[int, int]
    """Dialogues by number of exchanges."""
    messages_mean: float
    """Per dialogue, counting the plan as one message."""
    signals: tuple[Signal, ...]
    agreement: Agreement
    """Self-check against the critic's confirmed verdict."""
    violations: int
    """Confirmed violations; a dialogue may have several."""
    principles: tuple[PrincipleCount, ...]
    """The whole catalogue, most violations first."""
    categories: tuple[CategoryCount, ...]
    cells: tuple[Cell, ...]
    """Principles by field, where they were judged."""
    strategies: tuple[StrategyCount, ...]
    """Highest yield first."""
    kinds: dict[str, int]
    """Verified pairs by kind: `revision`, `on_policy`."""
    warnings: dict[str, int]
    """Dialogues by rule of `sdsd.checks.dialogue_rules`, most frequent first."""
    fields: Balance
    domains: Balance
    diversity: Diversity
    biases: Biases
    critics: Critics | None
    """None with a single critic."""
    stages: dict[str, StageUsage]
    usage: tuple[Usage, ...]
    """By stage, role and model. Unlike `stages` it includes dialogues in progress."""
    money: float
    """The price of `usage`, in the currency of the prices; 0 where no model has a price."""
    pair_cost: PairCost
    failures: tuple[FailureCount, ...]
    examples: tuple[FailureExample, ...]
    lengths: Lengths
    rounds: dict[int, int]
    """Pairs of kind `revision` by the number of revisions they took."""
    clock: Clock

    def reached(self, step: str) -> int:
        """Return how many scenarios got as far as this step of the funnel."""
        return next((s.n for s in self.funnel if s.name == step), 0)


def balance(counts: Mapping[str, int], catalogue: Mapping[str, int]) -> Balance:
    """Return how evenly `counts` is spread; `catalogue` gives the size of each topic there."""
    names = {**catalogue, **counts}
    total, size = sum(counts.values()), sum(catalogue.values())

    def topic(name: str) -> TopicCount:
        return TopicCount(name, counts.get(name, 0), catalogue.get(name, 0) / max(size, 1))

    topics = sorted(map(topic, names), key=lambda t: (-t.n, t.name))
    shares = [t.n / total for t in topics if t.n]
    most = math.log(min(total, len(topics))) if shares else 0.0
    entropy = -sum(p * math.log(p) for p in shares) / most if most else 1.0
    return Balance(tuple(topics), len(shares), max(shares, default=0.0), min(entropy, 1.0))


# -- counting ------------------------------------------------------------------------------


def collect(
    records: Iterable[Record],
    times: Iterable[tuple[float, str, int]],
    config: Config,
    lists: tuple[Sequence[Principle], Sequence[Domain]],
    usage: Sequence[Usage] = (),
    warnings: Mapping[str, int] | None = None,
    embed: Embed | None = None,
    exam: JudgeResult | None = None,
) -> Figures:
    """Return the figures of a run, in one pass over its records and one over its completions.

    lists     the catalogue's principles and domains
    times     (Unix time, stage, completion tokens) of every completion, in order of time
    warnings  dialogues by rule of `sdsd.checks.dialogue_rules`, if already counted: counting them
              takes longer than everything else here
    embed     an embedding model, for `Diversity.spread`
    exam      that of the single critic, for `Figures.precision`
    """
    principles, domains = lists
    tally = _Tally(config, principles, warnings, embed, exam)
    for record in records:
        tally.add(record)
    line = Timeline(pause=max(model.timeout for model in config.models.values()))
    for at, stage, tokens in times:
        line.add(at, stage, tokens)
    return tally.figures(domains, line.clock(tally.mean_call()), usage)


class _Tally:
    """Counts records."""

    def __init__(
        self,
        config: Config,
        principles: Sequence[Principle],
        warnings: Mapping[str, int] | None,
        embed: Embed | None,
        exam: JudgeResult | None,
    ) -> None:
        self._config = config
        self._exam = exam
        self._evidence: list[Evidence] = []
        """In the rejected and in the chosen reply of each pair; empty without an exam."""
        self._principles = PrincipleTally(principles)
        self._diversity = DiversityTally(config.export.duplicates.near, embed)
        self._biases = BiasTally()
        self._votes = Votes()
        self._costs = CostTally()
        self._failures = _Failures()
        self._funnel: Counter[str] = Counter()
        self._outcomes: Counter[tuple[Outcome, str]] = Counter()
        self._stops: Counter[StopReason] = Counter()
        self._exchanges: Counter[int] = Counter()
        self._signals: Counter[tuple[bool, bool | None, Finding]] = Counter()
        self._fields: Counter[str] = Counter()
        self._domains: Counter[str] = Counter()
        self._strategies: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._kinds: Counter[str] = Counter()
        self._verified = 0
        self._warnings: Counter[str] = Counter(warnings)
        self._checks = checks_of(config.export) if warnings is None else None
        self._rounds: Counter[int] = Counter()
        self._chars: Counter[str] = Counter()
        self._use: defaultdict[str, StageUsage] = defaultdict(StageUsage)

    def add(self, record: Record) -> None:
        reached = [name for name, test in FUNNEL.items() if test(record)]
        self._funnel.update(reached)
        self._strategies[record.scenario.strategy].update(reached)
        self._outcomes[record.outcome, record.rule] += 1
        self._fields[record.scenario.field] += 1
        self._domains[_domain(record.scenario.field, record.scenario.domain)] += 1
        self._principles.add(record)
        self._biases.add(record)
        self._costs.add(record)
        for critique in (*record.earlier_critiques, record.critique):
            if critique:
                self._votes.add(critique.votes)
        if record.dialogue:
            self._add_dialogue(record, record.dialogue)
        if record.failure:
            self._failures.add(record.scenario.id, record.failure)
        for stage, use in record.usage.items():
            self._use[stage] = total((self._use[stage], use))

    def mean_call(self) -> float:
        """Return the mean duration of a model call."""
        use = total(self._use.values())
        return use.seconds / use.calls if use.calls else 0.0

    def figures(self, domains: Sequence[Domain], clock: Clock, usage: Sequence[Usage]) -> Figures:
        funnel, generated = self._funnel, self._funnel["generated"]
        messages = sum(2 * exchanges * n for exchanges, n in self._exchanges.items())
        principles, spent = self._principles.principles(), money(usage, self._config)
        ended = self._outcomes.most_common()
        return Figures(
            asked=self._config.n,
            finished=funnel["started"],
            funnel=tuple(FunnelStep(name, funnel[name]) for name in FUNNEL),
            outcomes=tuple(OutcomeCount(outcome, rule, n) for (outcome, rule), n in ended),
            pairs=self._kinds.total(),
            verified=self._verified,
            precision=expected_precision(self._evidence, self._exam) if self._exam else None,
            accepted=proportion(funnel["accepted"], funnel["started"]),
            violating=proportion(funnel["confirmed"], funnel["judged"]),
            stops=dict(self._stops.most_common()),
            exchanges=dict(sorted(self._exchanges.items())),
            messages_mean=messages / generated + 1 if generated else 0.0,
            signals=tuple(Signal(*key, n) for key, n in self._signals.most_common()),
            agreement=self._agreement(),
            violations=sum(p.confirmed.k for p in principles),
            principles=principles,
            categories=categories(principles),
            cells=self._principles.cells(),
            strategies=self._strategy_counts(),
            kinds=dict(self._kinds.most_common()),
            warnings=dict(self._warnings.most_common()),
            fields=balance(self._fields, Counter(d.field for d in domains)),
            domains=balance(self._domains, Counter(_domain(d.field, d.name) for d in domains)),
            diversity=self._diversity.result(),
            biases=self._biases.result(),
            critics=self._votes.result(),
            stages={stage: self._use[stage] for stage in in_order(self._use)},
            usage=tuple(usage),
            money=spent,
            pair_cost=self._costs.result(spent),
            failures=self._failures.counts(),
            examples=tuple(self._failures.examples),
            lengths=self._lengths(),
            rounds=dict(sorted(self._rounds.items())),
            clock=clock,
        )

    def _add_dialogue(self, record: Record, dialogue: Dialogue) -> None:
        self._stops[dialogue.stop] += 1
        self._exchanges[dialogue.exchanges] += 1
        for message in dialogue.messages:
            self._chars[message.role] += len(message.content)
        self._diversity.add(record.scenario.id, dialogue)
        if self._checks is not None:
            scenario = record.scenario
            about = (scenario.domain, scenario.subarea)
            found = dialogue_rules.find(
                dialogue, record.plan, scenario.principles, self._checks, about
            )
            self._warnings.update({warning.rule for warning in found})
        if record.critique:
            self._signals[self._signal(dialogue, record.critique)] += 1
        self._verified += len(record.verified)
        if self._exam:
            self._evidence += evidence_in_pairs(record)
        for pair in record.pairs:
            self._kinds[pair.kind] += 1
            self._chars["chosen"] += len(pair.chosen)
            self._chars["rejected"] += len(dialogue.last_reply)
            if pair.kind == "revision":
                self._rounds[len(record.revisions)] += 1

    def _signal(self, dialogue: Dialogue, critique: Critique) -> tuple[bool, bool | None, Finding]:
        when = self._config.dialogue.self_check
        asked = (
            dialogue.protocol == "transcript"
            or when == "every"
            or (when == "last" and dialogue.stop in ("completed", "skipped_ahead", "turn_limit"))
        )
        found: Finding = "undecided"
        if critique.clean:
            found = "clean"
        elif critique.violations:
            found = "confirmed"
        elif any(verdict.violated for verdict in critique.verdicts):
            found = "claimed"
        return dialogue.stop == "completed", dialogue.self_flagged if asked else None, found

    def _strategy_counts(self) -> tuple[StrategyCount, ...]:
        found = [
            StrategyCount(
                name,
                proportion(reached["confirmed"], reached["judged"]),
                proportion(reached["accepted"], reached["started"]),
            )
            for name, reached in self._strategies.items()
        ]
        return tuple(sorted(found, key=lambda s: (-s.accepted.share, -s.violating.share, s.name)))

    def _agreement(self) -> Agreement:
        table: Table = Counter()
        for (_, flagged, found), n in self._signals.items():
            if flagged is not None:
                table[flagged, found == "confirmed"] += n
        return agreement("self-check", "critic", table)

    def _lengths(self) -> Lengths:
        turns = max(sum(exchanges * n for exchanges, n in self._exchanges.items()), 1)
        pairs, chars = max(self._kinds.total(), 1), self._chars
        return Lengths(
            user_turn=chars["user"] / turns,
            agent_turn=chars["assistant"] / turns,
            rejected=chars["rejected"] / pairs,
            chosen=chars["chosen"] / pairs,
        )


class _Failures:
    """Failures by cause, and a few examples of each."""

    _EXAMPLES, _PER_CAUSE, _CAUSES = 20, 3, 100
    _CHARACTERS = 600
    _VARIABLE = re.compile(r"'[^']*'?|\"[^\"]*\"?|\d[\d,.]{3,}")

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self.examples: list[FailureExample] = []

    def add(self, scenario: str, failure: Failure) -> None:
        # A cause may quote the model. Without the quotations there are few causes, capped here.
        cause = self._VARIABLE.sub("…", failure.cause)[:160]
        kind = failure.step.partition("/")[0], cause
        if kind not in self._counts and len(self._counts) >= self._CAUSES:
            kind = "other", "causes beyond the first hundred"
        self._counts[kind] += 1
        if len(self.examples) < self._EXAMPLES and self._counts[kind] <= self._PER_CAUSE:
            cause, raw = failure.cause[: self._CHARACTERS], failure.raw[: self._CHARACTERS]
            self.examples.append(FailureExample(scenario, failure.step, cause, raw))

    def counts(self) -> tuple[FailureCount, ...]:
        return tuple(FailureCount(*kind, n) for kind, n in self._counts.most_common())


def _domain(field: str, domain: str) -> str:
    """Name a domain together with its field: names are unique only within a field."""
    return f"{field} / {domain}"
