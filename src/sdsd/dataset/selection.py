"""What of a run's dialogues and pairs goes into the views for training, and why the rest does not.

Rules on dialogues come first (`malformed`, those of `sdsd.checks.dialogue_rules` that `export.exclude` names,
duplicates, contamination), then rules on single pairs, then the balance among the pairs that are
left. Records come in the order of their index, and all but the balance decide on a record by what
came before it: a run that grows never changes an earlier decision of theirs.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction

from msgspec import Struct
from msgspec.structs import replace

from sdsd.checks.dialogue_rules import Flag
from sdsd.config import BalanceConfig, ExportConfig, PairFilterConfig
from sdsd.dataset import measures
from sdsd.dataset.contamination import Contamination
from sdsd.dataset.duplicates import Duplicates
from sdsd.dataset.schema import clean
from sdsd.errors import ConfigError
from sdsd.hashing import hash64
from sdsd.text.near_duplicates import spoken
from sdsd.types import Dialogue, Pair, Principle, Record


class Removal(Struct, frozen=True):
    """Why something is left out."""

    rule: str
    detail: str = ""


class Choice(Struct, frozen=True):
    """What of one record stays."""

    gone: Removal | None = None
    """Why the dialogue as a whole is left out; None if it stays."""
    pairs: dict[int, Removal] = {}
    """The pairs that are left out, by their number in `Record.pairs`."""
    flags: tuple[Flag, ...] = ()
    """What `sdsd.checks.dialogue_rules` found in the dialogue."""


class Selection:
    """Decides for one record after another, in the order of their index, what of it stays."""

    def __init__(self, config: ExportConfig, seed: int) -> None:
        self.removed: Counter[str] = Counter()
        """How many dialogues and pairs each rule has left out so far."""
        self.flagged: Counter[str] = Counter()
        """How many dialogues break each rule of `sdsd.checks.dialogue_rules`, left out or not."""
        self._config = config
        self._contamination = Contamination(config.contamination)
        self._sieve = _Sieve(config, self._contamination)
        self._balance = _Balance(config.balance, seed) if config.balance.by else None

    def plan(self, records: Iterable[Record]) -> None:
        """Count the pairs that are to be balanced. Must come first where `balance.by` is set.

        Elsewhere the records are not read. Eight bytes of memory a pair, until it returns. Raises
        `ConfigError` if a share is given to something that the records do not have.
        """
        if self._balance:
            sieve = _Sieve(self._config, self._contamination)
            wanted = bool(self._config.exclude)  # flags are dear
            self._balance.plan(
                (record, sieve.sift(record, measures.flags(record) if wanted else ()))
                for record in records
            )

    def choose(self, record: Record) -> Choice:
        """What of the record stays."""
        flags = measures.flags(record)
        choice = self._sieve.sift(record, flags)
        if self._balance and not choice.gone:
            choice = replace(choice, pairs=choice.pairs | self._balance.surplus(record, choice))
        removals = [choice.gone] if choice.gone else choice.pairs.values()
        self.removed.update(removal.rule for removal in removals)
        self.flagged.update({flag.rule for flag in flags})
        return choice


class _Sieve:
    """Every rule but the balance, over all records in their order."""

    def __init__(self, config: ExportConfig, contamination: Contamination) -> None:
        self._config = config
        self._contamination = contamination
        self._duplicates = Duplicates(config.duplicates)

    def sift(self, record: Record, flags: tuple[Flag, ...]) -> Choice:
        dialogue = record.dialogue
        if dialogue is None:
            return Choice()
        choice = unusable(record)
        gone = choice.gone or self._excluded(flags) or self._repeated(record, dialogue)
        pairs = {} if gone else dict(_weak(record, self._config.pairs)) | choice.pairs
        return Choice(gone, dict(sorted(pairs.items())), flags)

    def _excluded(self, flags: tuple[Flag, ...]) -> Removal | None:
        broken = {flag.rule for flag in flags}
        rule = next((rule for rule in self._config.exclude if rule in broken), None)
        return Removal(rule) if rule else None

    def _repeated(self, record: Record, dialogue: Dialogue) -> Removal | None:
        """Of an earlier dialogue, or of an evaluation set; of that, chosen turns count as well."""
        said = spoken(dialogue.messages)
        if repeat := self._duplicates.find(record.scenario.id, said):
            return Removal(repeat.rule, repeat.first)
        chosen = (pair.chosen for pair in record.pairs)
        if hit := self._contamination.find("\n\n".join((said, *chosen))):
            return Removal("contaminated", f"{hit.name}: {hit.words}")
        return None


# --- what nobody can use --------------------------------------------------------------------------


def unusable(record: Record) -> Choice:
    """What no training can use: `malformed` dialogues; pairs that are `empty`, `unchanged` or
    `repeated`."""
    dialogue = record.dialogue
    if dialogue is None:
        return Choice()
    if defect := _defect(dialogue):
        return Choice(Removal("malformed", defect))
    removed: dict[int, Removal] = {}
    seen = {_said(dialogue.utterance): "unchanged"}
    for number, pair in enumerate(record.pairs):
        text = _said(pair.chosen)
        rule = seen.get(text, "") if text else "empty"
        if rule:
            removed[number] = Removal(rule)
        seen.setdefault(text, "repeated")
    return Choice(pairs=removed)


def _defect(dialogue: Dialogue) -> str:
    """Why a dialogue's turns are none that a chat template takes; empty if they are."""
    roles = [m.role for m in dialogue.messages]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        return "user and assistant do not take turns"
    if not all(_said(m.content) for m in dialogue.messages):
        return "a turn without text"
    return ""


def _said(text: str) -> str:
    """A turn as readers of the data set see it, but for the space around it."""
    said: str = clean(text)
    return said.strip()


# --- weak pairs -----------------------------------------------------------------------------------


def _weak(record: Record, config: PairFilterConfig) -> Iterator[tuple[int, Removal]]:
    """The pairs that the filters leave out, and the first reason to."""
    for number, pair in enumerate(record.pairs):
        if removal := next(_weaknesses(record, pair, config), None):
            yield number, removal


def _weaknesses(record: Record, pair: Pair, config: PairFilterConfig) -> Iterator[Removal]:
    assert record.dialogue is not None  # a record with pairs has all of it
    assert record.critique is not None
    rejected = record.dialogue.utterance
    found = measures.doubts(record, pair)
    yield from (Removal(f"doubt_{rule}") for rule in config.exclude_warnings if rule in found)
    if config.max_similarity < 1:  # it takes time to compute
        similarity = measures.similarity(rejected, pair.chosen)
        if similarity > config.max_similarity:
            yield Removal("too_similar", f"{similarity:.3f}")
    shorter, longer = sorted((len(rejected), len(pair.chosen)))
    if 0 < config.max_length_ratio * shorter < longer:
        yield Removal("length_ratio", f"{longer / shorter:.2f}")
    margin = measures.margin(record.critique, pair.critique)
    if margin is not None and margin < config.min_critic_margin:
        yield Removal("small_margin", f"{margin:.3f}")


# --- balance --------------------------------------------------------------------------------------


class _Balance:
    """A choice among the pairs of every cell, by lot.

    A pair's lot depends on the seed, its dialogue and its number alone, and a cell keeps those
    with the smallest lots: the order of records plays no part, and where a quota grows, nothing
    that was chosen before is lost.
    """

    def __init__(self, config: BalanceConfig, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._bounds: dict[str, int] | None = None

    def plan(self, sifted: Iterable[tuple[Record, Choice]]) -> None:
        """Find every cell's bound, below which lots are drawn."""
        lots: defaultdict[str, array[int]] = defaultdict(lambda: array("Q"))
        known: set[str] = set()
        for record, choice in sifted:
            known.update(self._cells(record))
            for number in _left(record, choice):
                lots[self._cell(record)].append(self._lot(record, number))
        self._check(known)
        quotas = self._quotas({cell: len(drawn) for cell, drawn in lots.items()})
        self._bounds = {cell: _bound(drawn, quotas[cell]) for cell, drawn in lots.items()}

    def surplus(self, record: Record, choice: Choice) -> dict[int, Removal]:
        """The pairs of a record that are more than their cell's quota."""
        assert self._bounds is not None, "`plan` comes first"
        left = _left(record, choice)
        if not left:
            return {}
        cell = self._cell(record)
        bound = self._bounds.get(cell, 0)
        return {n: Removal("balance", cell) for n in left if self._lot(record, n) >= bound}

    def _lot(self, record: Record, number: int) -> int:
        return hash64(self._seed, "balance", record.scenario.id, number)

    def _cell(self, record: Record) -> str:
        """The cell that the pairs of a record belong to."""
        if self._config.by not in ("principle", "category"):
            return self._cells(record)[0]
        assert record.critique is not None
        first = record.critique.violations[0]
        return next(self._name(p) for p in record.scenario.principles if p.id == first)

    def _cells(self, record: Record) -> list[str]:
        """All cells that a record can belong to."""
        if self._config.by in ("principle", "category"):
            return [self._name(principle) for principle in record.scenario.principles]
        return [str(getattr(record.scenario, self._config.by))]

    def _name(self, principle: Principle) -> str:
        return principle.id if self._config.by == "principle" else principle.category

    def _weight(self, cell: str) -> Fraction:
        """As it is written: 0.3 is three times 0.1, which binary fractions are not."""
        return Fraction(str(self._config.shares.get(cell, 1)))

    def _quotas(self, counts: Mapping[str, int]) -> dict[str, int]:
        """How many pairs each cell may have."""
        weights = {cell: self._weight(cell) for cell in counts}
        ratios = [counts[cell] / weight for cell, weight in weights.items() if weight]
        base = (
            Fraction(self._config.max_pairs)
            if self._config.max_pairs
            else min(ratios, default=Fraction())
        )
        return {cell: int(weight * base) for cell, weight in weights.items()}

    def _check(self, known: set[str]) -> None:
        for cell in self._config.shares:
            if cell not in known:
                some = sorted(known)
                more = f" and {len(some) - 20} more" if len(some) > 20 else ""
                raise ConfigError(
                    f"`export.balance.shares` names `{cell}`, which is no {self._config.by} of the "
                    f"dialogues; there are {', '.join(some[:20])}{more}"
                )


def _left(record: Record, choice: Choice) -> list[int]:
    """The numbers of the pairs that no other rule leaves out."""
    if choice.gone:
        return []
    return [number for number in range(len(record.pairs)) if number not in choice.pairs]


def _bound(lots: Iterable[int], quota: int) -> int:
    """The number below which `quota` of the lots lie."""
    drawn = sorted(lots)
    return drawn[quota] if quota < len(drawn) else 2**64
