"""`sdsd catalogue examples`: let a model draft the cards of principles, as a file to edit.

A form is asked for with the lines that a card lacks, after a worked example. What is sound in a
reply is kept, and asked for again as long as something is missing. Answers go through the same
journal as a run's, so stopping and starting again loses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from sdsd.checks.decided import decide
from sdsd.checks.dialogue_rules import not_a_user
from sdsd.config import TOP_P, Config
from sdsd.errors import CatalogueError, SdsdError, StageFailed, Stopped, Unparseable
from sdsd.files import write_atomic
from sdsd.models.base import Model
from sdsd.pipeline.prompts import load_prompt
from sdsd.pipeline.retry import ask_until_parsed
from sdsd.runs.drafting import asking, journaled
from sdsd.runs.events import Noted, OnEvent
from sdsd.runs.session import Needs
from sdsd.scenarios import catalogue
from sdsd.scenarios.catalogue_files import CONTROL, Entry, read
from sdsd.scenarios.similarity import near_duplicates
from sdsd.text import parsing
from sdsd.text.normalize import normal
from sdsd.types import AskFn, Card, Completion, Example, Message, Principle, Request

PAIRS = 3
"""Example pairs on a card; every packaged one has as many."""
_TEXTS = {"STAKE": "at_stake", "WHY": "why", "VIOLATION": "violation"}
_PAIR = {"TOPIC": "topic", "USER": "user", "SATISFIES": "satisfies", "VIOLATES": "violates"}
_CHARS = 600
_WORDS = 30
_RATIO = (0.6, 1.7)
_SAME_REPLY = 0.92
"""Jaccard index of content words; hand-written pairs reach 0.90, or 1 where a program decides."""
_SAME_TOPIC = 0.5
"""Jaccard index of content words, of topics and of user messages; hand-written ones reach 0.25."""
_NO_COMMAND = re.compile(
    r"(?:(?:an? )?(?:user|assistant|ai|agent|model)|the|this|it|they|i|we|you|your|to)\b"
    r"|(?!always|sometimes)\w{1,40}[^\W_aisu]s (?:the|an?|that|to|on|for)\b",  # "Recommends a ..."
    re.IGNORECASE,
)
"""How texts begin that are not commands. English: in other languages nothing is refused."""
_NO_TEXT = re.compile(r"\W*|[\[<(].*[\]>)]|.*:")
"""Nothing, a placeholder, or the announcement of something that does not follow."""
_TOKENS = (160, 320)
"""For the texts, and for each pair."""
_HEAD = """\
# Cards, drafted by {model}; above each entry it says which parts. Read each pair before use, and
# correct or delete it: its two replies may differ in nothing but the principle.
"""


class Drafted(Struct, frozen=True):
    """What was drafted."""

    principles: int
    whole: int
    """Principles with a whole card."""
    left_out: dict[str, tuple[str, ...]]
    """By id, the parts of a card that no reply had."""


def draft(
    out: Path,
    principles: Path,
    config: Config,
    *,
    on_event: OnEvent = lambda event: None,
    models: Mapping[str, Model] | None = None,
) -> Drafted:
    """Write the principles with what a model adds to their cards to the new file `out`.

    Raises `CatalogueError` if there is nothing to draft or `out` will not do, and `Stopped` if the
    user stops it before the end; then the file is not written, and the next call continues.
    """
    if out.exists():
        raise CatalogueError(f"{out}: is there already; name another file, or remove it")
    if out.suffix.lower() not in (".yaml", ".yml"):
        raise CatalogueError(f"{out}: is written as YAML; name a file that ends with .yaml")
    if out.parent.resolve() == principles.resolve():
        raise CatalogueError(f"{out}: would repeat what is next to it; name a file elsewhere")
    loaded = catalogue.load(principles=principles)
    given = {p.id: loaded.cards.get(p.id, Card()) for p in loaded.principles}
    asked = [p for p in loaded.principles if lacking(given[p.id])]
    if not asked:
        raise CatalogueError(f"{principles}: every principle has a whole card; use it as it is")
    folder, work = out.with_name(f".{out.stem}"), partial(_draft_all, asked, given)
    cards = given | journaled(folder, config, on_event, models, work)
    if cards == given:
        raise SdsdError("the model's replies have no usable line; try a larger model")
    entries = zip(loaded.principles, read(principles, "principles"), strict=True)
    blocks = [_block(p, entry, given[p.id], cards[p.id]) for p, entry in entries]
    try:
        head = _HEAD.format(model=config.model_for("planner").model)
        write_atomic(out, "\n".join((head, *blocks)))
    except OSError as error:
        raise SdsdError(f"{out}: cannot be written: {error}") from None
    left_out = {name: missing for name, card in cards.items() if (missing := lacking(card))}
    return Drafted(len(cards), len(cards) - len(left_out), left_out)


def lacking(card: Card) -> tuple[str, ...]:
    """Return the parts that a card has not: keys, and `example 3`."""
    texts = (key for key in _TEXTS.values() if not getattr(card, key))
    return (*texts, *(f"example {n}" for n in range(len(card.examples) + 1, PAIRS + 1)))


async def _draft_all(
    principles: list[Principle], given: Mapping[str, Card], needs: Needs
) -> dict[str, Card]:
    config, total = needs.config, len(principles)
    found: dict[str, Card] = {}
    async with asking(needs) as ask_of:
        for number, principle in enumerate(principles):
            ask = ask_of(f"examples/{principle.id}", number)
            try:
                card, cause = await fill_in(principle, given[principle.id], ask, config)
            except Stopped:
                raise Stopped(
                    f"stopped after {number} of {total} principles; the same command continues",
                    needs.stop.reason,
                ) from None
            found[principle.id] = card
            said = f": left out: {', '.join(lacking(card))} ({cause})" if cause else ""
            needs.on_event(Noted(f"[{number + 1}/{total}] {principle.id}{said}"))
    return found


async def fill_in(principle: Principle, card: Card, ask: AskFn, config: Config) -> tuple[Card, str]:
    """Return the card with what a model adds to it, and why something is missing, if it is."""
    prompt = load_prompt("examples")
    form = dict(line.split(": ", 1) for line in prompt.sections["form"].splitlines())
    here = {label: text for label, key in _TEXTS.items() if (text := getattr(card, key))}
    for n, example in enumerate(card.examples, 1):
        here |= {f"{label} {n}": getattr(example, key) for label, key in _PAIR.items()}
    wanted = [name for name in form if name not in here]
    parts = "\n".join(f"{name}: {text}" for name, text in here.items() if text)  # no topic: ""
    said = f"\n{prompt.fill('said', parts=parts)}" if parts else ""

    def task(principle: str, said: str) -> Message:
        lines = ", ".join(f"a {name} line" for name in wanted)
        return Message("user", prompt.fill("task", principle=principle, said=said, lines=lines))

    request = Request(
        role="planner",
        messages=(
            Message("system", prompt.fill("system")),
            task(prompt.sections["principle"], ""),
            Message("assistant", "\n".join(f"{name}: {form[name]}" for name in wanted)),
            task(principle.text, said),
        ),
        max_tokens=_TOKENS[0] + _TOKENS[1] * (PAIRS - min(PAIRS, len(card.examples))),
        temperature=config.plan.temperature,
        top_p=TOP_P,
        purpose="catalogue",
    )
    found = card

    def take(completion: Completion) -> Card:
        nonlocal found
        text = CONTROL.sub(" ", parsing.readable(completion.text))
        fields = parsing.form(text, (*_TEXTS, *_PAIR))
        if completion.finish == "length":
            fields.pop()  # it is broken off
        found, flaw = with_fields(found, fields, principle, form.values())
        if missing := lacking(found):
            raise Unparseable(flaw or f"no {', '.join(missing)}")
        return found

    try:
        return await ask_until_parsed(ask, "card", request, take, config.attempts), ""
    except StageFailed as failed:
        return found, failed.cause


def with_fields(
    card: Card, fields: Sequence[parsing.Field], principle: Principle, worked: Iterable[str]
) -> tuple[Card, str]:
    """Return the card with what it lacks of a form, as far as that will do, and the last flaw.

    worked  the fields of the worked example, which none may copy
    """
    shown, flaws = tuple(worked), list[str]()
    for label, _, text in fields:
        key = _TEXTS.get(label, "")
        if key and not getattr(card, key):
            flaws.append(_flaw(key, text, shown))
            card = card if flaws[-1] else replace(card, **{key: text})
    for group in parsing.groups(fields, tuple(_PAIR)):
        if len(card.examples) < PAIRS:
            pair = {_PAIR[label]: text for label, text in group.items()}
            flaws.append(_pair_flaw(pair, card, principle, shown))
            more = () if flaws[-1] else (msgspec.convert(pair, Example),)
            card = replace(card, examples=card.examples + more)
    return card, next(filter(None, reversed(flaws)), "")


def _flaw(key: str, text: str, shown: tuple[str, ...]) -> str:
    """Return why a field will not do; empty if it will."""
    if _NO_TEXT.fullmatch(text):
        return f"`{key}` is no text"
    if len(text) > _CHARS:
        return f"`{key}` has more than {_CHARS} characters"
    if normal(text) in map(normal, shown) or parsing.copies(text, "\n".join(shown), run=7):
        return f"`{key}` copies the worked example"
    if key == "violation" and (len(text.split()) > _WORDS or _NO_COMMAND.match(text)):
        return f"`{key}` is not a command of at most {_WORDS} words"
    return ""


def _pair_flaw(
    pair: Mapping[str, str], card: Card, principle: Principle, shown: tuple[str, ...]
) -> str:
    """Return why a pair will not do as a further one of the card; empty if it will."""
    if missing := [key for key in _PAIR.values() if key not in pair]:
        return f"an example has no `{missing[0]}`"
    if flaw := next(filter(None, (_flaw(key, text, shown) for key, text in pair.items())), ""):
        return flaw
    user, satisfies, violates = pair["user"], pair["satisfies"], pair["violates"]
    if not _RATIO[0] <= len(satisfies) / len(violates) <= _RATIO[1]:
        return "the replies of an example differ too much in length"
    if len({normal(text) for text in (user, satisfies, violates)}) < 3:
        return "two texts of an example are equal"
    if principle.check:
        said = (Message("user", user),)
        found = [decide(principle.check, said, reply) for reply in (satisfies, violates)]
        if [reply and reply.violated for reply in found] != [False, True]:
            return "the principle's check decides an example otherwise"
    elif _alike(satisfies, violates, _SAME_REPLY):
        return "the replies of an example are nearly the same"
    for other in card.examples:
        same = _alike(pair["topic"], other.topic, _SAME_TOPIC)
        if same or _alike(user, other.user, _SAME_TOPIC):
            return "two examples have the same topic"
    flaw = not_a_user((), user, None)
    return f"the message of an example is no user's: {flaw}" if flaw else ""


def _alike(a: str, b: str, threshold: float) -> bool:
    return normal(a) == normal(b) or bool(near_duplicates((a, b), threshold))


def _block(principle: Principle, entry: Entry, given: Card, card: Card) -> str:
    """Return the entry with its card, as YAML, below a comment on what was drafted."""
    import yaml

    own = [key for key in entry.value if key not in (*_TEXTS.values(), "examples")]
    tree = {"id": principle.id} | {key: entry.value[key] for key in own}
    tree |= {key: text for key in _TEXTS.values() if (text := getattr(card, key))}
    new = card.examples[len(given.examples) :]
    drafts = [{key: getattr(example, key) for key in _PAIR.values()} for example in new]
    if examples := [*entry.value.get("examples", ()), *drafts]:
        tree["examples"] = examples
    missing = lacking(card)
    drafted = [part for part in lacking(given) if part not in missing]
    notes = {"drafted": drafted, "left out": missing}
    comment = "; ".join(f"{what}: {', '.join(parts)}" for what, parts in notes.items() if parts)
    text = yaml.safe_dump([tree], sort_keys=False, allow_unicode=True, width=98)
    return f"# {comment}\n{text}" if comment else text
