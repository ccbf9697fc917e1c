"""The hand-written pairs: alike in form, never twice, and those of the exam in no prompt at all."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from sdsd.checks.decided import decide
from sdsd.hashing import hash64
from sdsd.models.base import Capabilities
from sdsd.models.scripted import CHATML, ScriptedModel
from sdsd.pipeline import prompts
from sdsd.reports.metrics.calibration_fit import Answer
from sdsd.reports.metrics.exam import figures
from sdsd.runs.runner import run
from sdsd.scenarios import exam_items
from sdsd.scenarios.catalogue import PACKAGED, Catalogue, load
from sdsd.scenarios.exam_items import Item
from sdsd.types import Answer as ModelAnswer
from sdsd.types import Completion, Example, Message, Request

RUN = 6
"""Words in a row that two texts on one principle may not share."""
Labelled = tuple[str, Example]
"""A principle's id and one of its pairs."""


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load()


@pytest.fixture(scope="module")
def items(catalogue: Catalogue) -> tuple[Item, ...]:
    return exam_items.load(None, catalogue)


@pytest.fixture(scope="module")
def shown(catalogue: Catalogue) -> list[Labelled]:
    return [(name, pair) for name, card in catalogue.cards.items() for pair in card.examples]


@pytest.fixture(scope="module")
def hidden(items: tuple[Item, ...]) -> list[Labelled]:
    return [(item.principle.id, item.pair) for item in items]


def texts(pair: Example) -> tuple[str, ...]:
    return (pair.user, pair.satisfies, pair.violates, *(m.content for m in pair.earlier))


def bag(text: str) -> set[str]:
    return set(re.findall(r"\w+|[^\w\s]", text.casefold()))


def runs_of(text: str) -> Iterator[tuple[str, ...]]:
    found = re.findall(r"\w+(?:['’]\w+)*", text.casefold())
    yield from (tuple(found[k : k + RUN]) for k in range(len(found) - RUN + 1))


# -- form ----------------------------------------------------------------------------------


def test_the_two_replies_of_a_pair_are_about_equally_long(
    shown: list[Labelled], hidden: list[Labelled]
) -> None:
    ratios = {
        (principle, pair.user): len(pair.satisfies) / len(pair.violates)
        for principle, pair in (*shown, *hidden)
    }
    assert {at: round(r, 2) for at, r in ratios.items() if not 0.7 <= r <= 1.4} == {}


def test_neither_label_has_the_longer_replies(
    shown: list[Labelled], hidden: list[Labelled]
) -> None:
    for pairs in (shown, hidden):
        longer = sum(len(pair.violates) > len(pair.satisfies) for _, pair in pairs)
        assert 0.4 < longer / len(pairs) < 0.6


def test_no_text_occurs_twice(shown: list[Labelled], hidden: list[Labelled]) -> None:
    counts = Counter(" ".join(text.casefold().split())
                     for _, pair in (*shown, *hidden) for text in texts(pair))  # fmt: skip
    assert [text for text, n in counts.items() if n > 1] == []


def test_no_pair_serves_two_principles(shown: list[Labelled], hidden: list[Labelled]) -> None:
    """A long run of words in replies on two principles would be the same reply, reworded."""
    owners: dict[tuple[str, ...], set[str]] = {}
    for principle, pair in (*shown, *hidden):
        for text in (pair.satisfies, pair.violates):
            for run_ in runs_of(text):
                owners.setdefault(run_, set()).add(principle)
    shared = Counter(frozenset(found) for found in owners.values() if len(found) > 1)
    assert {names: n for names, n in shared.items() if n > 3} == {}


def test_a_judge_that_counts_words_and_sees_no_principle_is_near_chance(
    shown: list[Labelled], hidden: list[Labelled]
) -> None:
    for pairs in (shown, hidden):
        found = figures(by_bag_of_words(pairs), None)
        assert found.auc is not None
        assert 0.35 < found.auc.value < 0.65


def by_bag_of_words(pairs: Sequence[Labelled]) -> list[Answer]:
    """What naive Bayes says of each pair, after reading the pairs of four fifths of the other
    principles."""
    names = sorted({name for name, _ in pairs}, key=lambda name: hash64("bag", name))
    fold = {name: k % 5 for k, name in enumerate(names)}
    found = []
    for k in range(5):
        counts = Counter[str](), Counter[str]()
        for name, pair in pairs:
            if fold[name] != k:
                counts[0].update(bag(pair.satisfies))
                counts[1].update(bag(pair.violates))

        def evidence(text: str, counts: tuple[Counter[str], Counter[str]] = counts) -> float:
            return sum(math.log((counts[1][w] + 1) / (counts[0][w] + 1)) for w in bag(text))

        found += [
            Answer(pair.user, name, "", "", evidence(pair.satisfies), evidence(pair.violates))
            for name, pair in pairs
            if fold[name] == k
        ]
    return found


# -- how to violate a principle -----------------------------------------------------------------


def test_every_card_says_what_to_do_and_not_what_to_break(catalogue: Catalogue) -> None:
    """A principle that forbids and is to be broken is a double negative, which models miss."""
    told = {name: card.violation for name, card in catalogue.cards.items()}
    assert all(told.values())
    assert len(set(told.values())) == len(told)
    assert max(len(text.split()) for text in told.values()) <= 30
    for name, text in told.items():
        assert not re.search(r"\b(break|breaks|violate|violates|principle)\b", text), name


def test_where_a_program_decides_the_card_says_how_to_satisfy_it_too(catalogue: Catalogue) -> None:
    decided = [p.id for p in catalogue.principles if p.check]
    told = {name: catalogue.cards[name].satisfaction for name in decided}
    assert all(told.values())
    assert len(set(told.values())) == len(told)
    assert max(len(text.split()) for text in told.values()) <= 20
    assert not any(text.startswith(("Do not", "Don't", "Never")) for text in told.values())


MESSAGES = (
    "My neighbour says that snow melts faster under ash.",
    "We are going to paint the old boat in May!",
    "I never know what to say to the plumber.",
)


def test_a_request_puts_its_principle_at_stake_whatever_was_said(catalogue: Catalogue) -> None:
    asking = [p for p in catalogue.principles if catalogue.cards[p.id].request]
    assert len(asking) >= 5
    for principle, message in itertools.product(asking, MESSAGES):
        card = catalogue.cards[principle.id]
        replies = [reply for e in card.examples for reply in (e.satisfies, e.violates)]
        for text, applies in ((message, False), (f"{message} {card.request}", True)):
            told = (Message("user", text),)
            found = [decide(principle.check, told, reply) is not None for reply in replies]
            assert any(found) == applies, (principle.id, text)


def test_what_to_do_gives_away_no_example_of_its_card(catalogue: Catalogue) -> None:
    for name, card in catalogue.cards.items():
        told = {*runs_of(card.violation), *runs_of(card.satisfaction)}
        for example in card.examples:
            assert told.isdisjoint(run_ for text in texts(example) for run_ in runs_of(text)), name


# -- the exam is a secret --------------------------------------------------------------------


def test_every_principle_with_examples_has_two_exam_items(
    catalogue: Catalogue, items: tuple[Item, ...]
) -> None:
    counts = Counter(item.principle.id for item in items)
    assert dict(counts) == dict.fromkeys(catalogue.cards, 2)


def test_no_exam_item_resembles_what_critics_are_shown_for_its_principle(
    catalogue: Catalogue, items: tuple[Item, ...]
) -> None:
    for item in items:
        asked = {run_ for text in texts(item.pair) for run_ in runs_of(text)}
        card = catalogue.cards[item.principle.id]
        said = (
            card.at_stake,
            card.request,
            card.why,
            card.violation,
            card.satisfaction,
            *(text for e in card.examples for text in texts(e)),
        )
        assert asked.isdisjoint(run_ for text in said for run_ in runs_of(text)), item.id


def test_no_file_that_prompts_are_made_from_contains_an_exam_item(items: tuple[Item, ...]) -> None:
    folders = [prompts.PACKAGED, *(p for p in PACKAGED.iterdir() if p.name[:4] != "exam")]
    files = [
        file for place in folders for file in (place.rglob("*") if place.is_dir() else [place])
    ]
    read = {f: f.read_text("utf-8") for f in files if f.suffix in (".md", ".yaml", ".py", ".json")}
    assert len(read) > 60
    assert found_in(read.values(), items) == []


class Overheard(ScriptedModel):
    """A scripted model that can score text, and keeps all that it was asked."""

    def __init__(self) -> None:
        super().__init__(
            capabilities=Capabilities(
                completions=True, template=CHATML, scoring="prompt_logprobs", logprobs=True
            )
        )
        self.heard: set[str] = set()

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> ModelAnswer:
        self.heard.update(message.content for message in request.messages)
        self.heard.update((request.prompt, request.given, str(request.schema)))
        if request.given:
            key = hash64(request.given, request.messages[0].content)
            return Completion("", logprob=-(key % 997) / 10)
        return await super().complete(request, seed, dialogue)


@pytest.mark.e2e
@pytest.mark.parametrize(
    "config",
    [
        {"pairs": ["contrast", "revision", "on_policy"], "critique": {"method": "contrast"}},
        {
            "pairs": ["revision", "on_policy"],
            "critique": {"method": "verdict", "turns": "every", "adherence": True, "examples": 8},
            "dialogue": {"protocol": "roleplay", "candidates": 3},
        },
        {"dialogue": {"protocol": "chat"}, "revise": {"style": "principle"}},
        {"dialogue": {"protocol": "transcript"}, "critique": {"critics": {
            "a": {"method": "contrast", "examples": 8}, "b": {"wording": "defend"}}}},
    ],
)  # fmt: skip
def test_no_request_of_a_run_contains_an_exam_item(
    tmp_path: Path, config: dict[str, object], items: tuple[Item, ...]
) -> None:
    model = Overheard()
    tree = {"n": 44, "scenarios": {"strategies": ["all"]}, **config}
    made = run(tree, out=tmp_path, models={"default": model})
    assert made.status().done == 44
    assert len(model.heard) > 200
    assert found_in(model.heard, items) == []


def test_the_test_would_find_an_item(items: tuple[Item, ...]) -> None:
    said = f"So: {items[7].pair.violates} And so on."
    assert found_in([said], items) == [items[7].pair.violates]


def found_in(heard: Iterable[str], items: Sequence[Item]) -> list[str]:
    """The exam's texts that occur in what was heard, whatever the white space."""
    blob = "\n".join(" ".join(text.split()) for text in heard)
    secret = {" ".join(text.split()) for item in items for text in texts(item.pair)}
    return sorted(text for text in secret if text in blob)


def test_an_exam_item_is_written_as_it_is_read(items: tuple[Item, ...]) -> None:
    assert msgspec.json.decode(msgspec.json.encode(items), type=tuple[Item, ...]) == items
