"""What happened in a run, as numbers: one pass over its records, counters only.

`collect` reads every record once and keeps nothing of it but counts, and of the first dialogues
sketches (`sdsd.reports.metrics.diversity`), so a million dialogues take the memory of the first 20,000.
The result is a plain value that goes to JSON as it is.
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
from sdsd.reports.metrics.costs import CostTally, PairCost
from sdsd.reports.metrics.diversity import Diversity, DiversityTally
from sdsd.reports.metrics.principles import (
    CategoryCount,
    Cell,
    PrincipleCount,
    PrincipleTally,
    categories,
)
from sdsd.reports.metrics.timeline import Clock, Timeline, in_order
from sdsd.reports.metrics.votes import Critics, Votes
from sdsd.reports.money import money
from sdsd.reports.rates import Rate, kappa, rate
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

Found = Literal["clean", "claimed", "confirmed"]
"""What the critic made of a dialogue's last turn. `claimed`: without a quotation that is there."""


# -- values --------------------------------------------------------------------------------


class Step(Struct, frozen=True):
    """How many scenarios came this far."""

    name: str
    n: int


class OutcomeCount(Struct, frozen=True):
    """Records by outcome and by the rule that decided it."""

    outcome: Outcome
    rule: str
    n: int


class Signal(Struct, frozen=True):
    """Dialogues by what was planned, what the speaking model said, and what the critic found."""

    reached: bool
    """The planned final agent turn was written: a violation was intended here."""
    flagged: bool | None
    """The model's own statement; None where it was not asked."""
    found: Found
    n: int


class Agreement(Struct, frozen=True):
    """The speaking model's own flag against the critic's confirmed verdict."""

    same: Rate
    kappa: float | None
    """Cohen's kappa (1960): agreement beyond chance, 1 is perfect. None where undefined."""


class Slot(Struct, frozen=True):
    """One topic: how many dialogues it got, and its part of the catalogue."""

    name: str
    n: int
    expected: float


class Balance(Struct, frozen=True):
    """How evenly the dialogues are spread over topics."""

    slots: tuple[Slot, ...]
    """Largest first."""
    used: int
    largest: float
    """The share of the largest topic."""
    entropy: float
    """Shannon entropy over the most it can be, log(min(dialogues, topics)): 1 is even."""


class FailureCount(Struct, frozen=True):
    """Failures of one kind. What a model wrote is left out of `cause`."""

    stage: str
    cause: str
    n: int


class FailureExample(Struct, frozen=True):
    """One failure as it happened."""

    scenario: str
    step: str
    cause: str
    raw: str


class StrategyCount(Struct, frozen=True):
    """What one strategy brought."""

    name: str
    violating: Rate
    """Dialogues with a confirmed violation, of those judged."""
    pairs: Rate
    """Accepted ones, of all."""


class Lengths(Struct, frozen=True):
    """Means, in characters."""

    user_turn: float
    agent_turn: float
    rejected: float
    chosen: float


class Figures(Struct, frozen=True, kw_only=True):
    """A run in numbers. Shares are of 1, times in seconds, lengths in characters."""

    asked: int
    """Dialogues that the configuration asks for."""
    finished: int
    funnel: tuple[Step, ...]
    outcomes: tuple[OutcomeCount, ...]
    pairs: Rate
    """The yield: dialogues with a verified pair, of finished scenarios."""
    violating: Rate
    """Dialogues with a confirmed violation, of those judged: what the paper calls its yield."""
    stops: dict[StopReason, int]
    exchanges: dict[int, int]
    messages_mean: float
    """Per dialogue, the plan counted as one."""
    signals: tuple[Signal, ...]
    agreement: Agreement
    violations: int
    """Confirmed violations; a dialogue may have several."""
    principles: tuple[PrincipleCount, ...]
    """The whole catalogue, most violations first."""
    categories: tuple[CategoryCount, ...]
    cells: tuple[Cell, ...]
    """Principles by field, those that were judged there."""
    strategies: tuple[StrategyCount, ...]
    """Best first."""
    kinds: dict[str, int]
    """Verified pairs by kind: `revision`, `on_policy`."""
    flags: dict[str, int]
    """Dialogues by the rules of `sdsd.checks.dialogue_rules` that they break, most frequent first."""
    fields: Balance
    domains: Balance
    diversity: Diversity
    biases: Biases
    critics: Critics | None
    """Whether they agree; None where there is only one."""
    stages: dict[str, StageUsage]
    usage: tuple[Usage, ...]
    """By stage, role and model; unlike `stages`, dialogues under way are in it."""
    money: float
    """What `usage` cost, in the currency of the prices; 0 where no model has one."""
    pair_cost: PairCost
    least: float | None
    """Prompt tokens computed, in multiples of the least possible, over a sample of the dialogues;
    None where servers do not say what they found in their caches."""
    failures: tuple[FailureCount, ...]
    examples: tuple[FailureExample, ...]
    lengths: Lengths
    rounds: dict[int, int]
    """Accepted pairs by the number of revisions they took."""
    clock: Clock

    @property
    def pair_count(self) -> int:
        """Verified pairs; a dialogue may have several."""
        lengths = self.biases.lengths["all"]
        return lengths.longer.n + lengths.equal

    def step(self, name: str) -> int:
        """How many came as far as this step of the funnel."""
        return next((step.n for step in self.funnel if step.name == name), 0)


# -- formulae ------------------------------------------------------------------------------


def balance(counts: Mapping[str, int], catalogue: Mapping[str, int]) -> Balance:
    """How evenly `counts` is spread; `catalogue` gives each topic's size there."""
    names = {**catalogue, **counts}
    total, size = sum(counts.values()), sum(catalogue.values())
    slots = sorted(
        (Slot(x, counts.get(x, 0), catalogue.get(x, 0) / size if size else 0.0) for x in names),
        key=lambda slot: (-slot.n, slot.name),
    )
    shares = [slot.n / total for slot in slots if slot.n]
    most = math.log(min(total, len(slots))) if shares else 0.0
    entropy = -sum(p * math.log(p) for p in shares) / most if most else 1.0
    return Balance(tuple(slots), len(shares), max(shares, default=0.0), min(entropy, 1.0))


# -- counting ------------------------------------------------------------------------------


def collect(
    records: Iterable[Record],
    times: Iterable[tuple[float, str, int]],
    config: Config,
    catalogue_principles: Sequence[Principle],
    catalogue_domains: Sequence[Domain],
    usage: Sequence[Usage] = (),
    sums: Mapping[str, float] = {},
    flagged: Mapping[str, int] | None = None,
    embed: Embed | None = None,
) -> Figures:
    """The figures of a run, in one pass over its records and one over its answers.

    times    (unix time, stage, completion tokens) of every answer, in order of time
    flagged  dialogues by the rules of `sdsd.checks.dialogue_rules` that they break, if they are counted already:
             to count them takes longer than everything else here
    embed    an embedding model, for `Diversity.spread`
    """
    tally = _Tally(config, catalogue_principles, flagged, embed)
    for record in records:
        tally.add(record)
    timeout = max(model.timeout for model in config.models.values())
    line = Timeline(pause=timeout)
    for at, stage, tokens in times:
        line.add(at, stage, tokens)
    return tally.figures(catalogue_domains, line.clock(tally.mean_call()), usage, sums)


def _of_least(sums: Mapping[str, float]) -> float | None:
    """Computed prompt tokens in multiples of the least, from the journal's sums."""
    cached, least = sums.get("sampled_cached", 0.0), sums.get("sampled_least", 0.0)
    return (sums["sampled_prompt"] - cached) / least if cached and least else None


FUNNEL: tuple[tuple[str, Callable[[Record], bool]], ...] = (
    ("started", lambda r: True),
    ("planned", lambda r: r.plan is not None),
    ("held", lambda r: r.dialogue is not None),
    ("judged", lambda r: r.critique is not None),
    ("claimed", lambda r: r.critique is not None and not r.critique.clean),
    ("confirmed", lambda r: r.critique is not None and bool(r.critique.violations)),
    ("revised", lambda r: any(not revision.defect for revision in r.revisions)),
    ("accepted", lambda r: r.outcome == "accepted"),
)
"""The steps on the way to a pair, and which records came as far."""

_EXAMPLES = 20
_EXAMPLES_PER_CAUSE = 3
_RAW = 600
_CAUSES = 100
_VARIABLE = re.compile(r"'[^']*'?|\"[^\"]*\"?|\d[\d,.]{3,}")


class _Tally:
    """Counters over records."""

    def __init__(
        self,
        config: Config,
        principles: Sequence[Principle],
        flagged: Mapping[str, int] | None,
        embed: Embed | None,
    ) -> None:
        self._config = config
        self._principles = PrincipleTally(principles)
        self._diversity = DiversityTally(config.export.duplicates.near, embed)
        self._biases = BiasTally()
        self._votes = Votes()
        self._costs = CostTally()
        self._funnel: Counter[str] = Counter()
        self._outcomes: Counter[tuple[Outcome, str]] = Counter()
        self._stops: Counter[StopReason] = Counter()
        self._exchanges: Counter[int] = Counter()
        self._signals: Counter[tuple[bool, bool | None, Found]] = Counter()
        self._fields: Counter[str] = Counter()
        self._domains: Counter[str] = Counter()
        self._failures: Counter[tuple[str, str]] = Counter()
        self._strategies: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._kinds: Counter[str] = Counter()
        self._flags: Counter[str] = Counter(flagged)
        self._flag = flagged is None
        self._checks = checks_of(config.export)
        self._examples: list[FailureExample] = []
        self._rounds: Counter[int] = Counter()
        self._chars: Counter[str] = Counter()
        self._use: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def add(self, record: Record) -> None:
        self._funnel.update(name for name, reached in FUNNEL if reached(record))
        self._outcomes[record.outcome, record.rule] += 1
        self._fields[record.scenario.field] += 1
        self._domains[_place(record.scenario.field, record.scenario.domain)] += 1
        self._principles.add(record)
        self._biases.add(record)
        self._costs.add(record)
        self._add_strategy(record)
        if record.dialogue:
            self._add_dialogue(record, record.dialogue)
        for critique in (*record.earlier_critiques, record.critique):
            if critique:
                self._votes.add(critique.votes)
        if record.dialogue and record.critique:
            signal = self._signal(record.dialogue, record.critique)
            self._signals[signal] += 1
        if record.outcome == "accepted":
            self._add_pair(record)
        if record.failure:
            self._add_failure(record.scenario.id, record.failure)
        for stage, use in record.usage.items():
            self._add_use(stage, use)

    def mean_call(self) -> float:
        """Seconds that a model call takes in the mean."""
        calls = sum(use["calls"] for use in self._use.values())
        return sum(self._seconds.values()) / calls if calls else 0.0

    def figures(
        self,
        domains: Sequence[Domain],
        clock: Clock,
        usage: Sequence[Usage],
        sums: Mapping[str, float],
    ) -> Figures:
        held, judged = self._funnel["held"], self._funnel["judged"]
        started = self._funnel["started"]
        messages = sum(2 * exchanges * n for exchanges, n in self._exchanges.items())
        principles, spent = self._principles.principles(), money(usage, self._config)
        return Figures(
            asked=self._config.n,
            finished=started,
            funnel=tuple(Step(name, self._funnel[name]) for name, _ in FUNNEL),
            outcomes=tuple(
                OutcomeCount(outcome, rule, n)
                for (outcome, rule), n in self._outcomes.most_common()
            ),
            pairs=rate(self._funnel["accepted"], started),
            violating=rate(self._funnel["confirmed"], judged),
            stops=dict(self._stops.most_common()),
            exchanges=dict(sorted(self._exchanges.items())),
            messages_mean=messages / held + 1 if held else 0.0,
            signals=tuple(Signal(*key, n) for key, n in self._signals.most_common()),
            agreement=self._agreement(),
            violations=sum(p.confirmed.k for p in principles),
            principles=principles,
            categories=categories(principles),
            cells=self._principles.cells(),
            strategies=self._strategy_counts(),
            kinds=dict(self._kinds.most_common()),
            flags=dict(self._flags.most_common()),
            fields=balance(self._fields, Counter(d.field for d in domains)),
            domains=balance(self._domains, Counter(_place(d.field, d.name) for d in domains)),
            diversity=self._diversity.found(),
            biases=self._biases.found(),
            critics=self._votes.found(),
            stages={stage: self._stage(stage) for stage in in_order(self._use)},
            usage=tuple(usage),
            money=spent,
            pair_cost=self._costs.found(spent),
            least=_of_least(sums),
            failures=tuple(
                FailureCount(stage, cause, n) for (stage, cause), n in self._failures.most_common()
            ),
            examples=tuple(self._examples),
            lengths=self._lengths(),
            rounds=dict(sorted(self._rounds.items())),
            clock=clock,
        )

    def _add_strategy(self, record: Record) -> None:
        counts = self._strategies[record.scenario.strategy]
        counts["all"] += 1
        counts["judged"] += record.critique is not None
        counts["violating"] += bool(record.critique and record.critique.violations)
        counts["accepted"] += record.outcome == "accepted"
        self._kinds.update(pair.kind for pair in record.pairs)

    def _strategy_counts(self) -> tuple[StrategyCount, ...]:
        found = [
            StrategyCount(name, rate(c["violating"], c["judged"]), rate(c["accepted"], c["all"]))
            for name, c in self._strategies.items()
        ]
        return tuple(sorted(found, key=lambda s: (-s.pairs.share, -s.violating.share, s.name)))

    def _add_dialogue(self, record: Record, dialogue: Dialogue) -> None:
        self._stops[dialogue.stop] += 1
        self._exchanges[dialogue.exchanges] += 1
        for message in dialogue.messages:
            self._chars[message.role] += len(message.content)
        self._diversity.add(record.scenario.id, dialogue)
        if self._flag:
            principles = record.scenario.principles
            found = dialogue_rules.find(dialogue, record.plan, principles, self._checks)
            self._flags.update({flag.rule for flag in found})

    def _signal(self, dialogue: Dialogue, critique: Critique) -> tuple[bool, bool | None, Found]:
        reached = dialogue.stop == "completed"
        when = self._config.dialogue.self_check
        asked = (
            dialogue.protocol == "transcript"
            or when == "every"
            or (when == "last" and dialogue.stop in ("completed", "turn_limit"))
        )
        found: Found = "claimed"
        if critique.clean:
            found = "clean"
        elif critique.violations:
            found = "confirmed"
        return reached, dialogue.self_flagged if asked else None, found

    def _add_pair(self, record: Record) -> None:
        for pair in record.pairs:
            if pair.kind == "revision":
                self._rounds[len(record.revisions)] += 1
            self._chars["chosen"] += len(pair.chosen)
            self._chars["rejected"] += len(record.dialogue.utterance) if record.dialogue else 0

    def _add_failure(self, scenario: str, failure: Failure) -> None:
        # Causes may quote the model: without its words the kinds are few, and the few are capped.
        cause = _VARIABLE.sub("…", failure.cause)[:160]
        kind = failure.step.partition("/")[0], cause
        if kind not in self._failures and len(self._failures) >= _CAUSES:
            kind = "other", "causes seen only after the first hundred kinds"
        self._failures[kind] += 1
        if len(self._examples) < _EXAMPLES and self._failures[kind] <= _EXAMPLES_PER_CAUSE:
            raw = failure.raw[:_RAW]
            self._examples.append(FailureExample(scenario, failure.step, failure.cause[:_RAW], raw))

    def _add_use(self, stage: str, use: StageUsage) -> None:
        counts = self._use[stage]
        counts["calls"] += use.calls
        counts["prompt_tokens"] += use.prompt_tokens
        counts["cached_tokens"] += use.cached_tokens
        counts["completion_tokens"] += use.completion_tokens
        self._seconds[stage] += use.seconds

    def _stage(self, stage: str) -> StageUsage:
        return StageUsage(**self._use[stage], seconds=round(self._seconds[stage], 3))

    def _agreement(self) -> Agreement:
        table: Counter[tuple[bool, bool]] = Counter()
        for (_, flagged, found), n in self._signals.items():
            if flagged is not None:
                table[flagged, found == "confirmed"] += n
        cells = (table[True, True], table[True, False], table[False, True], table[False, False])
        return Agreement(rate(cells[0] + cells[3], sum(cells)), kappa(*cells))

    def _lengths(self) -> Lengths:
        turns = sum(exchanges * n for exchanges, n in self._exchanges.items())
        pairs = self._kinds.total()
        chars = self._chars
        return Lengths(
            user_turn=chars["user"] / turns if turns else 0.0,
            agent_turn=chars["assistant"] / turns if turns else 0.0,
            rejected=chars["rejected"] / pairs if pairs else 0.0,
            chosen=chars["chosen"] / pairs if pairs else 0.0,
        )


def _place(field: str, domain: str) -> str:
    """A domain's name is its own only inside its field."""
    return f"{field} / {domain}"
