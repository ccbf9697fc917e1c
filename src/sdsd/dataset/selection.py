"""Decide which dialogues and pairs of a run are fit for training, and why the others are not.

Rules on dialogues come first: `malformed`, `template_mark`, the quality rules that `export.exclude`
names, the user's filters, duplicates, contamination. Then come rules on single pairs, and then the
balance among the pairs that are left. Records come in the order of their index, and every rule but
the balance decides on a record by what came before it: a growing run never changes an earlier
decision.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction

from msgspec.structs import replace

from sdsd.checks import dialogue_rules
from sdsd.checks.dialogue_rules import Finding, QualityCheck
from sdsd.config import BalanceConfig, ExportConfig, PairFilterConfig
from sdsd.dataset import measures
from sdsd.dataset.contamination import Contamination
from sdsd.dataset.decision import Decision, Removal
from sdsd.dataset.duplicates import Duplicates
from sdsd.dataset.extensions import checks_of, excluded_rules, filters_of
from sdsd.errors import ConfigError
from sdsd.hashing import hash64
from sdsd.text.near_duplicates import spoken
from sdsd.text.normalize import encodable
from sdsd.text.template_marks import template_mark
from sdsd.types import Critique, Dialogue, Message, Pair, Principle, Record


class Selection:
    """Decides on one record after another, in the order of their index."""

    def __init__(self, config: ExportConfig, seed: int) -> None:
        self.removed: Counter[str] = Counter()
        """Dialogues and pairs left out so far, by rule."""
        self.warnings: Counter[str] = Counter()
        """Dialogues that break each quality rule, left out or not."""
        self._config = config
        self._checks = checks_of(config)
        self._contamination = Contamination(config.contamination)
        self._rules = _Rules(config, self._contamination)
        self._balance = _Balance(config.balance, seed) if config.balance.by else None

    def plan(self, records: Iterable[Record]) -> None:
        """Count the pairs to be balanced. Must come first if `balance.by` is set.

        Without it the records are not read. Takes eight bytes of memory per pair until it returns.
        Raises `ConfigError` if `balance.shares` names something that the records do not have.
        """
        if self._balance:
            rules = _Rules(self._config, self._contamination)
            needed = bool(excluded_rules(self._config))  # finding takes most of the time
            self._balance.plan(
                (record, rules.decide(record, self._find(record) if needed else ()))
                for record in records
            )

    def decide(self, record: Record) -> Decision:
        findings = self._find(record)
        decision = self._rules.decide(record, findings)
        if self._balance and not decision.removed:
            surplus = self._balance.surplus(record, decision)
            decision = replace(decision, pairs=decision.pairs | surplus)
        removals = [decision.removed] if decision.removed else decision.pairs.values()
        self.removed.update(removal.rule for removal in removals)
        self.warnings.update({finding.rule for finding in findings})
        return decision

    def _find(self, record: Record) -> tuple[Finding, ...]:
        if record.dialogue is None:
            return ()
        return _findings(record, record.dialogue, self._checks)


class _Rules:
    """Every rule but the balance, over all records in their order."""

    def __init__(self, config: ExportConfig, contamination: Contamination) -> None:
        self._config = config
        self._excluded = excluded_rules(config)
        self._checks = checks_of(config)
        self._filters = filters_of(config)
        self._contamination = contamination
        self._duplicates = Duplicates(config.duplicates)

    def decide(self, record: Record, findings: tuple[Finding, ...]) -> Decision:
        if record.dialogue is None:
            return Decision()
        decision, broken = unusable(record), {finding.rule for finding in findings}
        removed, only_warned = decision.removed, False
        if not removed and (rule := next((r for r in self._excluded if r in broken), "")):
            removed = Removal(rule)
            only_warned = not any(self._unwanted(record, record.dialogue))
        removed = removed or next(self._removals(record, record.dialogue), None)
        pairs = {} if removed else self._weak_pairs(record, record.dialogue) | decision.pairs
        return Decision(removed, dict(sorted(pairs.items())), findings, only_warned)

    def _removals(self, record: Record, dialogue: Dialogue) -> Iterator[Removal]:
        yield from self._filtered(record)
        if repeat := self._duplicates.find(record.scenario.id, spoken(dialogue.messages)):
            yield Removal(repeat.rule, repeat.first)
        yield from self._contaminated(record, dialogue)

    def _unwanted(self, record: Record, dialogue: Dialogue) -> Iterator[Removal]:
        """Yield why a dialogue may be in no view, not even with a warning."""
        yield from self._filtered(record)
        yield from self._contaminated(record, dialogue)

    def _filtered(self, record: Record) -> Iterator[Removal]:
        yield from (Removal(rule) for keep in self._filters if (rule := keep(record)))

    def _contaminated(self, record: Record, dialogue: Dialogue) -> Iterator[Removal]:
        chosen = (pair.chosen for pair in record.pairs)  # evaluation sets must not be in these
        said = spoken(dialogue.messages)
        if hit := self._contamination.find("\n\n".join((said, *chosen))):
            yield Removal("contaminated", f"{hit.name}: {hit.words}")

    def _weak_pairs(self, record: Record, dialogue: Dialogue) -> dict[int, Removal]:
        """Return the pairs whose chosen turn breaks an excluded rule, or that a filter leaves
        out."""
        pairs = dict(_weak(record, self._config.pairs))
        for number, pair in enumerate(record.pairs if self._excluded else ()):
            with_chosen = replace(
                dialogue, messages=(*dialogue.messages[:-1], Message("assistant", pair.chosen))
            )
            found = _findings(record, with_chosen, self._checks)
            last = {finding.rule for finding in found if finding.turn == len(dialogue.messages) - 1}
            if rule := next((rule for rule in self._excluded if rule in last), ""):
                pairs[number] = Removal(rule, "chosen")
        return pairs


def _findings(
    record: Record, dialogue: Dialogue, checks: Mapping[str, QualityCheck]
) -> tuple[Finding, ...]:
    scenario = record.scenario
    about = (scenario.domain, scenario.subarea)
    return dialogue_rules.find(dialogue, record.plan, scenario.principles, checks, about)


def unusable(record: Record) -> Decision:
    """Leave out what no training can use.

    That is `malformed` dialogues, pairs that are `empty`, `unchanged` or `repeated`, and either if
    they hold a `template_mark`: a trainer's tokenizer would take it for the end of a turn.
    """
    dialogue = record.dialogue
    if dialogue is None:
        return Decision()
    if defect := _defect(dialogue):
        return Decision(Removal("malformed", defect))
    if mark := _mark(_texts(record, dialogue)):
        return Decision(Removal("template_mark", mark))
    removed: dict[int, Removal] = {}
    seen = {_visible(dialogue.last_reply): "unchanged"}
    for number, pair in enumerate(record.pairs):
        text = _visible(pair.chosen)
        rule = seen.get(text, "") if text else "empty"
        if rule:
            removed[number] = Removal(rule)
        elif mark := _mark((pair.chosen, *_reasons(pair.critique))):
            removed[number] = Removal("template_mark", mark)
        seen.setdefault(text, "repeated")
    return Decision(pairs=removed)


def _texts(record: Record, dialogue: Dialogue) -> Iterator[str]:
    """Yield everything that a model wrote into the rows of a dialogue."""
    yield from (message.content for message in dialogue.messages)
    yield dialogue.system
    yield from _reasons(record.critique)
    if record.plan is not None:
        yield record.plan.text


def _reasons(critique: Critique | None) -> Iterator[str]:
    yield from (verdict.reason for verdict in (critique.verdicts if critique else ()))


def _mark(texts: Iterable[str]) -> str:
    """Return the first mark of a chat template in `texts`; empty if there is none."""
    return next(filter(None, map(template_mark, texts)), "")


def _defect(dialogue: Dialogue) -> str:
    """Say why a chat template would refuse the dialogue's turns; empty if it would not."""
    roles = [m.role for m in dialogue.messages]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        return "user and assistant turns do not alternate"
    if not all(_visible(m.content) for m in dialogue.messages):
        return "a turn without text"
    return ""


def _visible(text: str) -> str:
    written: str = encodable(text)  # as readers of the data set get it
    return written.strip()


def _weak(record: Record, config: PairFilterConfig) -> Iterator[tuple[int, Removal]]:
    """Yield the pairs that the filters leave out, and the first reason."""
    for number, pair in enumerate(record.pairs):
        if removal := next(_weaknesses(record, pair, config), None):
            yield number, removal


def _weaknesses(record: Record, pair: Pair, config: PairFilterConfig) -> Iterator[Removal]:
    assert record.dialogue is not None  # a record with pairs is complete
    assert record.critique is not None
    rejected = record.dialogue.last_reply
    found = measures.revision_warnings(record, pair)
    yield from (Removal(f"warning_{rule}") for rule in config.exclude_warnings if rule in found)
    if config.max_similarity < 1:  # it takes time to compute
        similarity = measures.similarity(rejected, pair.chosen)
        if similarity > config.max_similarity:
            yield Removal("too_similar", f"{similarity:.3f}")
    shorter, longer = sorted((len(rejected), len(pair.chosen)))
    if 0 < config.max_length_ratio * shorter < longer:
        yield Removal("length_ratio", f"{longer / shorter:.2f}")
    margin = measures.critic_margin(record.critique, pair.critique)
    if margin is not None and margin < config.min_critic_margin:
        yield Removal("small_margin", f"{margin:.3f}")


class _Balance:
    """Chooses among the pairs of every cell at random.

    A pair's lot depends only on the seed, its dialogue and its number, and a cell keeps the pairs
    with the smallest lots. So the order of records does not matter, and a larger quota keeps every
    pair that a smaller one kept.
    """

    def __init__(self, config: BalanceConfig, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._bounds: dict[str, int] | None = None

    def plan(self, decided: Iterable[tuple[Record, Decision]]) -> None:
        """Find every cell's bound: pairs with a smaller lot stay."""
        lots: defaultdict[str, array[int]] = defaultdict(lambda: array("Q"))
        known: set[str] = set()
        for record, decision in decided:
            known.update(self._cells(record))
            for number in _left(record, decision):
                lots[self._cell(record)].append(self._lot(record, number))
        self._check(known)
        quotas = self._quotas({cell: len(each) for cell, each in lots.items()})
        self._bounds = {cell: _bound(each, quotas[cell]) for cell, each in lots.items()}

    def surplus(self, record: Record, decision: Decision) -> dict[int, Removal]:
        """Return the pairs of a record that exceed their cell's quota."""
        assert self._bounds is not None, "`plan` comes first"
        left = _left(record, decision)
        if not left:
            return {}
        cell = self._cell(record)
        bound = self._bounds.get(cell, 0)
        return {n: Removal("balance", cell) for n in left if self._lot(record, n) >= bound}

    def _lot(self, record: Record, number: int) -> int:
        return hash64(self._seed, "balance", record.scenario.id, number)

    def _cell(self, record: Record) -> str:
        if self._config.by not in ("principle", "category"):
            return self._cells(record)[0]
        assert record.critique is not None
        first = record.critique.violations[0]
        return next(self._name(p) for p in record.scenario.principles if p.id == first)

    def _cells(self, record: Record) -> list[str]:
        """Return all cells that a record could be in."""
        if self._config.by in ("principle", "category"):
            return [self._name(principle) for principle in record.scenario.principles]
        return [str(getattr(record.scenario, self._config.by))]

    def _name(self, principle: Principle) -> str:
        return principle.id if self._config.by == "principle" else principle.category

    def _share(self, cell: str) -> Fraction:
        # as it is written: 0.3 is three times 0.1, which binary fractions are not
        return Fraction(str(self._config.shares.get(cell, 1)))

    def _quotas(self, counts: Mapping[str, int]) -> dict[str, int]:
        shares = {cell: self._share(cell) for cell in counts}
        ratios = [counts[cell] / share for cell, share in shares.items() if share]
        base = Fraction(self._config.max_pairs or min(ratios, default=0))
        return {cell: int(share * base) for cell, share in shares.items()}

    def _check(self, known: set[str]) -> None:
        for cell in self._config.shares:
            if cell not in known:
                some = sorted(known)
                more = f" and {len(some) - 20} more" if len(some) > 20 else ""
                raise ConfigError(
                    f"`export.balance.shares` names `{cell}`, which is not a {self._config.by} of "
                    f"these dialogues; they have {', '.join(some[:20])}{more}"
                )


def _left(record: Record, decision: Decision) -> list[int]:
    """Return the numbers of the pairs that no other rule leaves out."""
    if decision.removed:
        return []
    return [number for number in range(len(record.pairs)) if number not in decision.pairs]


def _bound(lots: Iterable[int], quota: int) -> int:
    """Return the number below which `quota` of the lots lie."""
    ordered = sorted(lots)
    return ordered[quota] if quota < len(ordered) else 2**64
