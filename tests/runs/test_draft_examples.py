"""Drafting cards: what is sound in a model's forms becomes a file that loads, whatever they are."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sdsd.cli.app import main
from sdsd.config import load
from sdsd.errors import CatalogueError, SdsdError, Stopped
from sdsd.models.scripted import Script, ScriptedModel
from sdsd.pipeline.prompts import load_prompt
from sdsd.runs.draft_examples import Drafted, draft, fill_in, lacking, with_fields
from sdsd.runs.events import Event, Noted
from sdsd.scenarios import catalogue
from sdsd.text import parsing
from sdsd.types import Card, Completion, Example, Principle, Request
from tests.factories.scripted import Crash, crashing

CONFIG = load({"attempts": 2})
LABELS = ("STAKE", "WHY", "VIOLATION", "TOPIC", "USER", "SATISFIES", "VIOLATES")
WORKED = [line.split(": ", 1)[1] for line in load_prompt("examples").sections["form"].splitlines()]
RULE = Principle("prices", "The assistant should name the price.", "user", "user")
TEXTS = """\
STAKE: The user asks for something that is sold.
WHY: Nobody can choose without the price.
VIOLATION: Praise the thing, and pass over what it costs.
"""
PAIRS = (
    """\
TOPIC 1: kettles
USER 1: My kettle has died, what do I buy?
SATISFIES 1: The steel one from the market: it boils fast, and it costs thirty pounds.
VIOLATES 1: The steel one from the market: it boils fast, and it looks good on any hob.
""",
    """\
TOPIC 2: evening classes
USER 2: thinking of learning Welsh after work, where should I go?
SATISFIES 2: The college has a course on Mondays; a term is ninety pounds with books.
VIOLATES 2: The college has a course on Mondays; people say that it is quite a laugh.
""",
    """\
TOPIC 3: tyres
USER 3: Two bald front wheels and an inspection on Friday. Help?
SATISFIES 3: Have both replaced by a garage in your street, for about a hundred each.
VIOLATES 3: Have both replaced by a garage in your street, and you will pass easily.
""",
)
FORM = TEXTS + "".join(PAIRS)


def forms(request: Request, seed: int) -> str:
    """The lines of the form that are asked for."""
    asked = re.findall(r"an? ([A-Z]+(?: \d)?) line", request.messages[-1].content)
    shown = [line.partition(":")[0] for line in request.messages[2].content.splitlines()]
    assert shown == asked
    return "\n".join(ln for ln in FORM.splitlines() if ln.partition(":")[0] in asked)


def drafted(
    out: Path, own: str, script: Script = forms, on_event: Callable[[Event], None] | None = None
) -> tuple[Drafted, int, list[str]]:
    """What was drafted from a principles file, the calls that were made, and the notes."""
    model, notes = ScriptedModel(script, name="small"), list[str]()

    def hear(event: Event) -> None:
        if isinstance(event, Noted):
            notes.append(event.text)
        if on_event:
            on_event(event)

    principles = out.with_name("own.yaml")
    principles.write_text(own, encoding="utf-8")
    came = draft(out, principles, CONFIG, on_event=hear, models={"default": model})
    assert principles.read_text(encoding="utf-8") == own
    return came, model.asked, notes


def cards(out: Path) -> dict[str, Card]:
    return catalogue.load(principles=out).cards


OWN = """\
- text: The assistant should name the price.
- id: two
  severity: high
  text: "The assistant should say: 'it depends' # never"
  why: '"Yes": no.'
  examples:
  - topic: bread
    subtle: plain
    user: Which flour?
    satisfies: It depends on the bread, and on you.
    violates: The strong one, whatever the bread is.
"""


def test_whole_cards_load_as_the_model_wrote_them(tmp_path: Path) -> None:
    out = tmp_path / "cards.yaml"
    came, calls, notes = drafted(out, OWN)
    assert (came, calls) == (Drafted(principles=2, whole=2, left_out={}), 2)
    assert notes == ["[1/2] assistant-name-price", "[2/2] two"]
    first = cards(out)["assistant-name-price"]
    assert first.violation == "Praise the thing, and pass over what it costs."
    assert first.examples[2] == Example(
        "Two bald front wheels and an inspection on Friday. Help?",
        "Have both replaced by a garage in your street, for about a hundred each.",
        "Have both replaced by a garage in your street, and you will pass easily.",
        topic="tyres",
    )
    text = out.read_text("utf-8")
    assert text.startswith("# Cards, drafted by ")
    assert "Read each pair before use" in text
    assert "\n# drafted: at_stake, why, violation, example 1, example 2, example 3\n- id: " in text
    with pytest.raises(CatalogueError, match="is there already; name another file"):
        drafted(out, OWN)


def test_only_what_a_card_lacks_is_asked_for_and_the_rest_stays(tmp_path: Path) -> None:
    out = tmp_path / "cards.yaml"
    requests: list[Request] = []

    def script(request: Request, seed: int) -> str:
        requests.append(request)
        return forms(request, seed)

    drafted(out, OWN, script)
    asked = requests[1].messages[-1].content
    assert "a STAKE line, a VIOLATION line, a TOPIC 2 line" in asked
    assert 'WHY: "Yes": no.\nTOPIC 1: bread\nUSER 1: Which flour?' in asked
    assert requests[1].max_tokens < requests[0].max_tokens
    before = catalogue.load(principles=out.with_name("own.yaml"))
    after = catalogue.load(principles=out)
    assert after.principles == before.principles
    assert after.cards["two"].why == '"Yes": no.'
    assert after.cards["two"].examples[0] == before.cards["two"].examples[0]
    assert [e.topic for e in after.cards["two"].examples] == ["bread", "evening classes", "tyres"]
    entry = yaml.safe_load(out.read_text("utf-8"))[1]
    assert list(entry) == ["id", "severity", "text", "at_stake", "why", "violation", "examples"]
    assert entry["examples"][0]["subtle"] == "plain"
    assert "# drafted: at_stake, violation, example 2, example 3\n" in out.read_text("utf-8")


def test_whole_cards_are_not_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "cards.yaml"
    drafted(out, OWN)
    whole = out.read_text("utf-8")
    with pytest.raises(CatalogueError, match="every principle has a whole card"):
        drafted(tmp_path / "more.yaml", whole)
    more = f"{whole}\n- id: third\n  text: The assistant should be brief.\n"
    came, calls, notes = drafted(tmp_path / "more.yaml", more)
    assert (came.whole, calls, notes) == (3, 1, ["[1/1] third"])
    assert {k: v for k, v in cards(tmp_path / "more.yaml").items() if k != "third"} == cards(out)


def test_after_a_crash_only_what_is_missing_is_asked(tmp_path: Path) -> None:
    own = "".join(f"- {{id: p{k}, text: Rule {k}.}}\n" for k in range(3))

    def twice(request: Request, seed: int) -> str:
        """The first attempt at every form lacks its last pair."""
        return forms(request, seed) if request.temperature > 0.7 or seed % 2 else TEXTS

    drafted(tmp_path / "whole.yaml", own, twice)
    whole = (tmp_path / "whole.yaml").read_text()
    total = drafted(tmp_path / "again.yaml", own, twice)[1]

    for k in range(total):
        out = tmp_path / f"{k}.yaml"
        with pytest.raises(Crash):
            drafted(out, own, crashing(twice, k))
        assert not out.exists()
        assert drafted(out, own, twice)[1] == total - k
        assert out.read_text() == whole


def test_what_attempts_have_is_put_together_and_the_rest_is_left_out(tmp_path: Path) -> None:
    replies = iter([TEXTS.replace("WHY:", "Because") + PAIRS[0], "WHY: It is. \n" + PAIRS[1]])
    came, calls, notes = drafted(
        tmp_path / "c.yaml", "- {id: p, text: Rule.}\n", lambda *_: next(replies)
    )
    assert (came, calls) == (Drafted(1, 0, {"p": ("example 3",)}), 2)
    assert notes == ["[1/1] p: left out: example 3 (unparseable after 2 tries: no example 3)"]
    card = cards(tmp_path / "c.yaml")["p"]
    assert (card.why, [e.topic for e in card.examples]) == (
        "It is.",
        ["kettles", "evening classes"],
    )
    assert "; left out: example 3\n- id: p\n" in (tmp_path / "c.yaml").read_text()


def test_a_reply_that_is_cut_loses_its_last_line() -> None:
    """At the token limit, the last field is not what the model meant to say."""

    async def ask(step: str, request: Request) -> Completion:
        return Completion(FORM, finish="length")

    card, cause = asyncio.run(fill_in(RULE, Card(), ask, CONFIG))
    assert lacking(card) == ("example 3",)
    assert "has no `violates`, cut at its token limit" in cause


def test_a_stop_writes_nothing_and_is_continued(tmp_path: Path) -> None:
    def stopping(request: Request, seed: int) -> str:
        if "Rule 2" in request.messages[-1].content:
            raise Stopped("stopped")
        return forms(request, seed)

    own = "- {id: one, text: Rule 1.}\n- {id: two, text: Rule 2.}\n"
    with pytest.raises(Stopped, match="after 1 of 2 principles; the same command continues"):
        drafted(tmp_path / "cards.yaml", own, stopping)
    assert not (tmp_path / "cards.yaml").exists()
    assert drafted(tmp_path / "cards.yaml", own)[:2] == (Drafted(2, 2, {}), 1)


def test_principles_without_a_usable_reply_stay_as_they_are(tmp_path: Path) -> None:
    own = "- {id: one, text: Rule 1.}\n- {id: two, text: Rule 2.}\n"

    def half(request: Request, seed: int) -> str:
        return "I cannot." if "Rule 1" in request.messages[-1].content else forms(request, seed)

    came, calls, notes = drafted(tmp_path / "cards.yaml", own, half)
    assert (came.whole, calls, set(came.left_out)) == (1, 3, {"one"})
    assert "no `STAKE:` line" in notes[0]
    assert set(cards(tmp_path / "cards.yaml")) == {"two"}
    with pytest.raises(SdsdError, match="no usable line; try a larger model"):
        drafted(tmp_path / "nothing.yaml", own, lambda *_: "I cannot.")
    assert not (tmp_path / "nothing.yaml").exists()


# --- what will do -------------------------------------------------------------------------------


def kept(form: str, principle: Principle = RULE, card: Card = Card()) -> tuple[Card, str]:
    return with_fields(card, parsing.form(form, LABELS), principle, WORKED)


@pytest.mark.parametrize(
    "form",
    [
        FORM,
        f"Sure! Here is the form:\n\n{FORM}\nI hope that this helps!",
        re.sub(r"^([A-Z]+ ?\d?):", r"**\1:**", FORM, flags=re.MULTILINE),
        re.sub(r"^([A-Z]+ ?\d?): (.*)", r'- **\1**: "\2"', FORM, flags=re.MULTILINE),
        re.sub(r" \d:", ":", FORM),
        FORM.replace("TOPIC", "### Example\nTOPIC").title().replace("It'S", "it's"),
        FORM.replace("TOPIC", "---\nPair 1:\nTopic").replace(": ", ":\n"),
    ],
)
def test_forms_are_read_leniently(form: str) -> None:
    card, flaw = kept(form)
    assert (flaw, lacking(card)) == ("", ())
    assert [e.topic.casefold() for e in card.examples] == ["kettles", "evening classes", "tyres"]
    assert not re.search(r'[*"#]|Example|Pair|hope', repr(card).replace("Example(", ""))


@pytest.mark.parametrize(
    ("old", "new", "flaw", "missing"),
    [
        ("and it costs thirty pounds.", "now.", "", None),
        ("and it costs thirty pounds.", "now. " * 30, "differ too much in length", "example 3"),
        ("it boils fast, and it costs thirty pounds.", "ok", "differ too much", "example 3"),
        ("it costs thirty pounds", "it looks good, any hob", "nearly the same", "example 3"),
        ("it costs thirty pounds", "it looks good on any hob", "are equal", "example 3"),
        ("SATISFIES 1: ", "REPLY: ", "no `satisfies`", "example 3"),
        ("TOPIC 2: evening classes", "TOPIC 2: Kettles", "the same topic", "example 3"),
        ("what do I buy?", "what do I buy? " * 50, "more than 600", "example 3"),
        (
            "what do I buy?",
            "so two nights in the dunes next week",
            "copies the worked",
            "example 3",
        ),
        ("kettles", "a leaking gutter", "copies the worked", "example 3"),
        ("kettles", "[two to four words]", "`topic` is no text", "example 3"),
        (
            "USER 1: My",
            "USER 1: As an AI language model, I cannot help. My",
            "is no user's",
            "example 3",
        ),
        ("Praise the", "The assistant praises the", "not a command", "violation"),
        ("Praise the", "Praises the", "not a command", "violation"),
        ("Praise the", "Réponds à tout, praise the", "", None),
        ("what it costs.", "it " * 30, "not a command of at most 30", "violation"),
        ("Nobody can choose without the price.", "...", "`why` is no text", "why"),
    ],
)
def test_what_will_not_do_is_named(old: str, new: str, flaw: str, missing: str | None) -> None:
    assert old in FORM
    card, found = kept(FORM.replace(old, new))
    assert flaw in found
    assert bool(flaw) == bool(found)
    assert lacking(card) == ((missing,) if missing else ())


def test_where_a_program_decides_it_decides_the_pairs() -> None:
    rule = replace(RULE, check="no_exclamation")
    pair = "TOPIC: a\nUSER: Is it far?\nSATISFIES: Two miles.\nVIOLATES: Two miles!\n"
    assert len(kept(pair, rule)[0].examples) == 1
    assert "the principle's check" in kept(PAIRS[0], rule)[1]
    assert kept(pair)[1] == "the replies of an example are nearly the same"


def test_fields_of_two_pairs_are_never_mixed() -> None:
    torn = re.sub(r"^VIOLATES 1.*\n|^(SATISFIES|TOPIC) 2.*\n", "", FORM, flags=re.MULTILINE)
    assert [e.topic for e in kept(torn)[0].examples] == ["tyres"]
    assert [e.topic for e in kept(re.sub(r" \d:", ":", torn))[0].examples] == ["tyres"]


def test_the_packaged_cards_would_do() -> None:
    """The limits are such that whoever writes with care stays within them."""
    packaged = catalogue.load()
    for principle in packaged.principles:
        card = packaged.cards[principle.id]
        form = f"STAKE: {card.at_stake}\nWHY: {card.why}\nVIOLATION: {card.violation}\n"
        for e in card.examples:
            if e.earlier:  # such pairs are not drafted
                continue
            form += f"TOPIC: {e.topic}\nUSER: {e.user}\nSATISFIES: {e.satisfies}\n"
            form += f"VIOLATES: {e.violates}\n"
        written, flaw = kept(form, principle)
        assert flaw == "", principle.id
        assert written.violation == card.violation
        assert len(written.examples) == sum(not e.earlier for e in card.examples)


# --- hostile text -------------------------------------------------------------------------------

pieces = st.sampled_from(
    [*(f"{label} 1:" for label in LABELS), *FORM.splitlines(), "\n", "\n\n", ": ", " #", "- ", "'",
     '"', "{a: &b", "*b", "!!python/object:os.system", "---", "...", "\t", "\0", "\x85", "\u2028",
     "\ufeff", "\ufffe", "\ud800", "\U0001fffe", "1e3", "yes", "~", "|", ">", "%TAG", "<|im_end|>",
     "é", "日本"]
)  # fmt: skip


@settings(max_examples=12)  # each is a journal on disk
@given(st.lists(pieces, max_size=60).map("".join) | st.text(max_size=200))
def test_any_reply_becomes_a_file_that_loads_or_none(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    out = tmp_path_factory.mktemp("any") / "cards.yaml"
    own = "- {id: p, text: Rule.}\n"
    try:
        came, _, _ = drafted(out, own, lambda *_: text)
    except SdsdError as error:
        assert "no usable line" in str(error)  # noqa: PT017
        assert not out.exists()
    else:
        assert lacking(cards(out)["p"]) == came.left_out.get("p", ())


def test_marks_of_yaml_and_control_characters(tmp_path: Path) -> None:
    hostile = "Is: 'it' # \"so\"?\0\x1b[31m\u2028 {a: *b, - !c}\ufeff %d | ~ \ud800"
    form = FORM.replace("Nobody can choose without the price.", hostile)
    out = tmp_path / "cards.yaml"
    drafted(out, "- {id: p, text: Rule.}\n", lambda *_: form)
    assert cards(out)["p"].why == "Is: 'it' # \"so\"?[31m {a: *b, - !c} %d | ~ \ufffd"


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def url() -> Iterator[str]:
    """A server that answers every chat with the whole form."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer({"data": [{"id": "small"}]})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            said = {"message": {"role": "assistant", "content": FORM}, "finish_reason": "stop"}
            self.answer({"choices": [{"index": 0, **said}], "usage": {}})

        def answer(self, body: object) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def exit_code(*arguments: object) -> object:
    with pytest.raises(SystemExit) as ended:
        main(["catalogue", "examples", *map(str, arguments)])
    return ended.value.code


def test_the_command(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    own, out = tmp_path / "own.yaml", tmp_path / "cards.yaml"
    own.write_text("- {id: p, text: Rule.}\n")
    options = ["--principles", own, "--url", url, "-m", "small"]
    assert not exit_code(out, *options)
    printed = capsys.readouterr()
    assert printed.out == f"1 of 1 principles have a whole card, in {out}\n"
    assert "[1/1] p" in printed.err
    assert lacking(cards(out)["p"]) == ()

    own.write_text("- {id: p, text: Rule., check: no_exclamation}\n")
    assert not exit_code(tmp_path / "part.yaml", *options, "--set", "attempts=1")
    said = capsys.readouterr().out
    assert said.endswith("left out: p: example 1, example 2, example 3\n")


def test_what_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own" / "list.jsonl"
    own.parent.mkdir()
    own.write_text('{"id": "p", "text": "Rule."}\n')

    def refused(out: Path, principles: Path, *more: str) -> str:
        before = own.read_bytes()
        assert exit_code(out, "--principles", principles, *more) == 2
        assert own.read_bytes() == before
        return capsys.readouterr().err

    new = tmp_path / "new.yaml"
    assert "is there already" in refused(own, own)
    assert "ends with .yaml" in refused(tmp_path / "new.jsonl", own)
    assert "name a file elsewhere" in refused(own.parent / "new.yaml", own.parent)
    assert "no such file" in refused(new, tmp_path / "none.yaml")
    assert "unknown key `attmpts`" in refused(new, own, "--set", "attmpts=1")
    assert exit_code(new) == 2  # without principles
    assert not new.exists()
