"""Starting from what people already have: every format, every repair, and nothing in silence.

The laws: a row gives a dialogue that alternates, begins with the user and ends on the assistant,
or a named reason, or an error that says where; and a run that kept its rows needs nothing else.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import sqlite3
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from sdsd.config import ScenariosConfig
from sdsd.errors import SdsdError, SourceError
from sdsd.models.scripted import ScriptedModel
from sdsd.runs.directory import RunDir
from sdsd.runs.runner import run
from sdsd.runs.verify import verify
from sdsd.scenarios import catalogue, existing_files, existing_shapes
from sdsd.scenarios.existing import Kind, Reason, Skipped, SourceRow, read, source_row
from sdsd.scenarios.existing_files import SUFFIXES, Place, fetch_dataset
from sdsd.scenarios.existing_scenarios import UNNAMED, dialogue_of, known, plan_of, scenario_of
from sdsd.scenarios.existing_store import StoredRows, store_rows
from sdsd.scenarios.sampler import Scenarios
from sdsd.types import Message, Scenario
from tests.helpers.counting import calls

DOC = Path(__file__).parents[2] / "docs" / "start-anywhere.md"
CATALOGUE = catalogue.load()
KNOWN = known(CATALOGUE)
FORM = "PERSON: Ann, a cook\nSTEP 1: she asks\nSTEP 2: she doubts\nSLIP: it is cured"
PAIR = [{"role": "user", "content": "Is it safe?"}, {"role": "assistant", "content": "Always."}]
TOPIC = {"domain": "Cooking", "subarea": "raw milk", "principle": ["Be true."], "goal": "learn"}
CHAT = pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))
TEXTS = pa.list_(pa.string())


def base(index: int = 0) -> Scenario:
    return Scenarios(CATALOGUE, ScenariosConfig(), seed=1)[index]


def jsonl(path: Path, rows: Iterable[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def parquet(path: Path, rows: list[Any], schema: Any = None, group: int = 1000) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=group)
    return str(path)


def made(row: Any, tmp_path: Path, kind: Kind = "auto") -> SourceRow:
    (found,) = read(jsonl(tmp_path / "rows.jsonl", [row]), kind=kind)
    assert isinstance(found, SourceRow), found
    return found


def skipped(row: Any, tmp_path: Path, kind: Kind = "auto") -> str:
    (found,) = read(jsonl(tmp_path / "rows.jsonl", [row]), kind=kind)
    assert isinstance(found, Skipped), found
    assert found.origin == "rows.jsonl:1"
    return found.reason


def refused(where: str, **options: Any) -> str:
    with pytest.raises(SourceError) as caught:
        list(read(where, **options))
    assert caught.value.exit_code == 2
    return str(caught.value)


def said(given: SourceRow) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in given.messages]


def turns(*pairs: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


PLAIN = [("user", "Is it safe?"), ("assistant", "Always.")]


# --- formats ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["messages", "conversation", "prompt"])
def test_messages_under_each_name(key: str, tmp_path: Path) -> None:
    for kind in ("auto", "messages"):
        given = made({key: PAIR, "other": 1}, tmp_path, kind)
        assert said(given) == PLAIN
        assert (given.plan, given.domain, given.principles) == ("", "", ())
        assert given.is_violation is None


def test_preferences_are_read_with_their_rejected_reply(tmp_path: Path) -> None:
    row = {"prompt": PAIR[:1], "chosen": [{"role": "assistant", "content": "Boil it."}]}
    assert said(made({**row, "rejected": PAIR[1:]}, tmp_path)) == PLAIN
    assert said(made({"prompt": PAIR[:1], "completion": PAIR[1:]}, tmp_path)) == PLAIN


def test_sharegpt(tmp_path: Path) -> None:
    row = {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "Is it safe?"},
            {"from": "gpt", "value": "Always."},
        ]
    }
    for kind in ("auto", "sharegpt"):
        given = made(row, tmp_path, kind)
        assert said(given) == PLAIN
        assert given.plan == "Be brief."


DIALOGUES = pa.schema(
    [
        ("domain", pa.string()),
        ("subarea", pa.string()),
        ("principle", TEXTS),
        ("goal", pa.string()),
        ("messages", CHAT),
        ("is_violation", pa.bool_()),
        ("is_truncated", pa.bool_()),
    ]
)
REVISIONS = pa.schema(
    [
        ("messages", CHAT),
        ("domain", pa.string()),
        ("subarea", pa.string()),
        ("principle", TEXTS),
        ("goal", pa.string()),
        ("plan", pa.string()),
        ("critique", pa.string()),
        ("violations", TEXTS),
        ("revision", pa.string()),
    ]
)


@pytest.mark.parametrize("kind", ["auto", "sdsd-dialogues"])
def test_the_published_dialogues(kind: Kind, tmp_path: Path) -> None:
    chat = [{"role": "system", "content": FORM}, *PAIR]
    row = {**TOPIC, "messages": chat, "is_violation": True, "is_truncated": False}
    where = parquet(tmp_path / "dbrx-00000-of-00001.parquet", [row], DIALOGUES)
    (given,) = read(where, kind=kind)
    assert given == SourceRow(
        domain="Cooking",
        subarea="raw milk",
        field="",
        goal="learn",
        principles=("Be true.",),
        plan=FORM,
        messages=(Message("user", "Is it safe?"), Message("assistant", "Always.")),
        origin="dbrx-00000-of-00001.parquet:row 1",
        is_violation=True,
        is_truncated=False,
    )


@pytest.mark.parametrize("kind", ["auto", "sdsd-revisions"])
def test_the_published_revisions(kind: Kind, tmp_path: Path) -> None:
    row = {**TOPIC, "messages": PAIR, "plan": FORM, "critique": "It lies.", "revision": "Boil it."}
    row["violations"] = ["Be true."]
    (given,) = read(parquet(tmp_path / "r.parquet", [row], REVISIONS), kind=kind)
    assert isinstance(given, SourceRow)
    assert said(given) == PLAIN
    assert (given.plan, given.goal, given.principles) == (FORM, "learn", ("Be true.",))
    assert (given.is_violation, given.is_truncated) == (None, None)


@pytest.mark.parametrize("schema", [DIALOGUES, REVISIONS])
def test_each_published_column_is_needed(schema: Any, tmp_path: Path) -> None:
    kind = "sdsd-dialogues" if schema is DIALOGUES else "sdsd-revisions"
    for name in schema.names:
        row = {other: None for other in schema.names if other != name}
        message = refused(jsonl(tmp_path / "rows.jsonl", [row]), kind=kind)
        assert f"rows.jsonl:1: no `{name}` among the columns" in message
        assert "name the kind of the rows" in message


def test_plans_as_text_and_in_parts(tmp_path: Path) -> None:
    whole = made({**TOPIC, "plan": FORM}, tmp_path)
    parts = {
        "persona": "Ann,\na cook",
        "steps": ["she asks", "she doubts"],
        "planned_violation": "it is cured",
    }
    assert (whole.plan, whole.messages, whole.domain) == (FORM, (), "Cooking")
    assert made(parts, tmp_path).plan == FORM
    assert made({"steps": "she asks"}, tmp_path).plan == "STEP 1: she asks"


def test_the_kind_plans_takes_only_the_plan_of_a_dialogue(tmp_path: Path) -> None:
    chat = turns(("system", FORM), ("user", "Hello"), ("assistant", "Hello."))
    given = made(chat, tmp_path, "plans")
    assert (given.plan, given.messages) == (FORM, ())
    assert skipped(turns(("user", "Hello")), tmp_path, "plans") == "no plan"
    assert skipped({"plan": " "}, tmp_path) == "no plan"


def test_topics_ride_along_in_every_kind(tmp_path: Path) -> None:
    row = {"messages": PAIR, "field": "Home\n life", "principles": ["Be  true.", "be true.", ""]}
    given = made({**row, "domain": "Cooking"}, tmp_path)
    assert (given.field, given.domain, given.principles) == ("Home life", "Cooking", ("Be true.",))
    assert made({"messages": PAIR, "principle": "Be kind."}, tmp_path).principles == ("Be kind.",)


def test_flags_mean_something_only_beside_the_other_published_columns(tmp_path: Path) -> None:
    given = made({"messages": PAIR, "is_violation": True, "is_truncated": True}, tmp_path)
    assert (given.is_violation, given.is_truncated) == (None, None)
    whole = {**TOPIC, "messages": PAIR, "is_violation": None, "is_truncated": True}
    given = made(whole, tmp_path)
    assert (given.is_violation, given.is_truncated) == (None, True)


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix(suffix: str, tmp_path: Path) -> None:
    rows = [{"messages": PAIR}] * 3
    path = tmp_path / f"chats{suffix}"
    separator = "\t" if ".tsv" in suffix else ","
    if suffix == ".parquet":
        parquet(path, rows, group=2)
    else:
        one_by_one = "\n".join(map(json.dumps, rows))
        if suffix[:4] in (".csv", ".tsv"):
            line = separator.join(["Is it safe?", "Always."])
            one_by_one = "\n".join([f"prompt{separator}response", *[line] * 3])
        data = json.dumps(rows).encode() if suffix in (".json", ".json.gz") else one_by_one.encode()
        path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    found = list(read(str(path)))
    assert [said(given) for given in found if isinstance(given, SourceRow)] == [PLAIN] * 3
    rowed = suffix in (".parquet", ".json", ".json.gz")
    third = "row 3" if rowed else 4 if suffix[:4] in (".csv", ".tsv") else 3
    assert found[2].origin == f"{path.name}:{third}"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".jsonl.gz"])
def test_a_byte_order_mark_says_how_to_read_rows(
    suffix: str, encoding: str, tmp_path: Path
) -> None:
    text = "prompt,response\nCafé?,Ja.\n" if suffix == ".csv" else (
        '{"prompt": "Café?", "response": "Ja."}\n')  # fmt: skip
    data = text.encode(encoding)
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    (given,) = read(str(path))
    assert isinstance(given, SourceRow)
    assert said(given) == [("user", "Café?"), ("assistant", "Ja.")]


def test_tables_as_spreadsheets_write_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    cell = json.dumps(PAIR).replace('"', '""')
    path.write_text(f'id;messages\r\n1;"{cell}"\r\n\r\n2;"{cell}"\r\n', "utf-8")
    found = [row for row in read(str(path)) if isinstance(row, SourceRow)]
    assert [said(row) for row in found] == [PLAIN, PLAIN]
    path.write_text('prompt,response\n"Is it\nsafe?","Always, ""always""."\n', "utf-8")
    (given,) = read(str(path))
    assert isinstance(given, SourceRow)
    assert said(given) == [("user", "Is it\nsafe?"), ("assistant", 'Always, "always".')]


def test_blank_lines_a_byte_order_mark_and_capitals_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "Chats.JSONL"
    line = json.dumps({"messages": PAIR}).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n" + line)
    assert [row.origin for row in read(str(path))] == ["Chats.JSONL:1", "Chats.JSONL:3"]


def test_json_lines_in_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "chats.json"
    path.write_text("\n".join([json.dumps({"messages": PAIR})] * 3), "utf-8")
    assert len(list(read(str(path)))) == 3
    path.write_text(" \n[ ]\n", "utf-8")
    assert list(read(str(path))) == []


def test_a_long_json_list(tmp_path: Path) -> None:
    path = tmp_path / "chats.json"
    texts = ["ü" * 150_000] * 8 + ["kurz"] + ['"\\]}, [{' * 20_000] * 9
    rows = [turns(("user", text), ("assistant", "ja")) for text in texts]
    rows.insert(4, {**turns(("user", "a"), ("assistant", "b")), "extra": "x" * 3_000_000})
    path.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    found = [row for row in read(str(path)) if isinstance(row, SourceRow)]
    assert len(found) == len(rows)
    assert found[1].messages[0].content == texts[1]
    assert found[-1].messages[0].content == texts[-1].strip()


def test_a_directory_of_parquet_files(tmp_path: Path) -> None:
    for name in ("data/train-00001-of-00002", "data/train-00000-of-00002", "data/test-00000"):
        parquet(tmp_path / f"{name}.parquet", [{"messages": PAIR}])
    parquet(tmp_path / "eval" / "0000.parquet", [{"messages": PAIR}])
    parquet(tmp_path / ".cache" / "old.parquet", [{"messages": PAIR}])
    (tmp_path / "README.md").write_text("# Data", "utf-8")
    names = [row.origin for row in read(str(tmp_path))]
    assert names == [
        "data/test-00000.parquet:row 1",
        "data/train-00000-of-00002.parquet:row 1",
        "data/train-00001-of-00002.parquet:row 1",
        "eval/0000.parquet:row 1",
    ]
    assert [row.origin for row in read(str(tmp_path), split="train")] == names[1:3]
    assert [row.origin for row in read(str(tmp_path), split="eval")] == names[3:]
    message = refused(str(tmp_path), split="tra")
    assert "no file is of the split 'tra'; the splits are: 0000, test, train" in message


def test_a_run_directory_gives_its_dialogues_or_its_revisions(tmp_path: Path) -> None:
    row = {**TOPIC, "messages": PAIR, "is_violation": True, "is_truncated": True}
    name = "train-00000-of-00001.parquet"
    parquet(tmp_path / "data" / "dialogues" / name, [row], DIALOGUES)
    row = {**TOPIC, "messages": PAIR, "plan": FORM, "critique": "", "revision": ""}
    parquet(tmp_path / "data" / "revisions" / name, [{**row, "violations": []}], REVISIONS)
    parquet(tmp_path / "data" / "verdicts" / name, [{"id": "1"}])
    (dialogue,) = read(str(tmp_path))
    (revision,) = read(str(tmp_path), kind="sdsd-revisions")
    assert isinstance(dialogue, SourceRow)
    assert isinstance(revision, SourceRow)
    assert (dialogue.is_truncated, revision.plan) == (True, FORM)
    assert dialogue.origin == f"data/dialogues/{name}:row 1"
    row = {**TOPIC, "messages": PAIR, "is_violation": True, "is_truncated": True}
    for k in range(2):  # another split, of another number of files
        parquet(tmp_path / f"data/dialogues/test-0000{k}-of-00002.parquet", [row], DIALOGUES)
    assert len(list(read(str(tmp_path)))) == 3
    assert len(list(read(str(tmp_path), split="test"))) == 2
    parquet(tmp_path / "data" / "dialogues" / "train-00000-of-00002.parquet", [{}], DIALOGUES)
    assert "files of two exports are mixed; `sdsd export`" in refused(str(tmp_path))


class Hub:
    """Stands in for the hub: notes what is asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def __call__(self, repo: str, patterns: tuple[str, ...]) -> Path:
        self.asked.append((repo, patterns))
        return self.folder


def test_a_data_set_of_the_hub(tmp_path: Path) -> None:
    for split in ("dbrx", "llama"):
        parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", [{"messages": PAIR}])
    hub = Hub(tmp_path)
    assert len(list(read("hf:allenai/sdsd-dialogues", download=hub))) == 2
    (row,) = read("hf:allenai/sdsd-dialogues", split="llama", download=hub)
    assert row.origin == "data/llama-00000-of-00001.parquet:row 1"
    assert hub.asked == [
        ("allenai/sdsd-dialogues", ("*.parquet",)),
        ("allenai/sdsd-dialogues", ("llama*.parquet", "*/llama*.parquet")),
    ]
    empty = Hub(tmp_path / "nothing")
    assert "hf:a/b: no .parquet files here" in refused("hf:a/b", download=empty)
    for wrong in ("hf:sdsd", "hf:a/b/c", "hf:../x y", "hf:"):
        assert "write hf:org/name" in refused(wrong, download=empty)
    assert len(hub.asked) == 2


def test_a_hub_that_cannot_be_had_says_so() -> None:
    with pytest.raises(SourceError, match=r"hf:a b: .*; check the name and the connection"):
        fetch_dataset("a b", ("*.parquet",))  # refused before anything is sent


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no-such.jsonl: no such file; check the path" in refused(str(tmp_path / "no-such.jsonl"))
    assert "no .parquet files here; name a file" in refused(str(tmp_path))
    assert "no such file" in refused("a\0b")
    path = tmp_path / "chats.xlsx"
    path.write_text("a,b", "utf-8")
    assert "cannot read files of type '.xlsx'; use one of .parquet, .jsonl" in refused(str(path))
    where = jsonl(tmp_path / "chats.jsonl", [{"messages": PAIR}])
    assert "a single file has no splits; leave out 'train'" in refused(where, split="train")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
CUT_SHORT = gzip.compress(b"{}" * 999, mtime=0)[:-9]  # the same bytes in every worker


@pytest.mark.parametrize(
    ("name", "data", "wrong"),
    [
        ("a.parquet", b"PAR1 but not really", "cannot be read: "),
        ("a.parquet", POINTER, "a.parquet: holds only a pointer of Git LFS to the file; fetch"),
        ("a.jsonl", POINTER, "a.jsonl: holds only a pointer of Git LFS to the file; fetch the"),
        ("a.jsonl.gz", b"not gzip", "a.jsonl.gz:1: bad JSON: "),
        ("a.jsonl.gz", CUT_SHORT, "cannot be read: Compressed file ended"),
        ("a.jsonl", b'\n{"messages": [', "a.jsonl:2: bad JSON: "),
        (
            "a.jsonl",
            b"\n\xff\xfe",
            "a.jsonl:2: the byte 0xff is not UTF-8 (byte 1 of its line); sa",
        ),
        ("a.jsonl", '{"plan": "x"}'.encode("utf-16-le"), "a.jsonl:1: the byte 0x00 is not UTF-8"),
        ("a.jsonl", b"\xff\xfe{", "cannot be read: "),
        ("a.csv", b"plan\ncaf\xe9\n", "a.csv:2: the byte 0xe9 is not UTF-8 (byte 4 of its line)"),
        ("a.csv", b"plan,plan\n1,2\n", "a.csv:1: the column 'plan' occurs twice; rename one"),
        ("a.csv", b"plan,goal\nyes, no, 3\n", "a.csv:2: 3 cells under 2 column names; put quotes"),
        ("a.csv", b'plan\n"never closed\n', "a.csv:2: bad CSV: unexpected end of data; correct"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1: bad JSON: "),
        ("a.jsonl", b"[1, 2]", "a.jsonl:1: expected an object, found a list; write one object"),
        ("a.jsonl", b"null", "a.jsonl:1: expected an object, found null"),
        ("a.json", b"[1]", "a.json:row 1: expected an object, found a number"),
        ("a.json", b'[{"plan": "x"}', "a.json:1: bad JSON: Expecting ',' delimiter"),
        ("a.json", b'[{"plan": "x"},\n {"plan": tru', "a.json:2: bad JSON: Expecting value"),
        ("a.json", b'[{"plan": "x"}] x', "a.json:1: bad JSON: Extra data"),
        ("a.json", b"[\xff]", "a.json:1: the byte 0xff is not UTF-8"),
        ("a.json", b"[" * 100_000, "a.json:1: bad JSON: "),
        ("a.json", b'{"more": [{"plan": "x"}]}', "no `plan` or `steps` or `messages` among the"),
    ],
)
def test_damage_is_named(name: str, data: bytes, wrong: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    message = refused(str(path))
    assert wrong in message
    assert message.startswith(str(path))
    assert "; " in message


@pytest.mark.parametrize(
    ("read_rows", "remedy"),
    [(existing_files._lines, "one object per line"), (existing_files._table, "one row per line")],
)
@pytest.mark.parametrize("line", [1, 2])
def test_rows_without_ends_are_refused_unread(read_rows: Any, remedy: str, line: int) -> None:
    """A file without line ends is not taken into memory whole."""

    class Endless(io.BytesIO):
        given = 0
        left = line

        def readline(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert 0 < size < 1 << 27
            self.left -= 1
            if self.left:
                return b"1\n"
            self.given += size
            return b"x," * (size // 2) + b"x" * (size % 2)

    endless = Endless()
    said = rf"a\.x:{line}: more than 67,108,864 bytes; write {remedy}"
    with pytest.raises(SourceError, match=said):
        list(read_rows(endless, Path("a.x"), "a.x"))
    assert endless.given < 1 << 27


# --- what is repaired, skipped or refused in a row ------------------------------------------------


@pytest.mark.parametrize(
    ("chat", "plan", "talk"),
    [
        ([("system", "A"), ("system", "B"), *PLAIN], "A\n\nB", PLAIN),
        ([*PLAIN, ("developer", "Z")], "Z", PLAIN),
        ([("assistant", "Hello!"), ("assistant", "I am Bo."), *PLAIN], "", PLAIN),
        ([*PLAIN, ("user", "Thanks."), ("user", "Bye.")], "", PLAIN),
        (
            [("user", "Is it"), ("user", "safe?"), PLAIN[1]],
            "",
            [("user", "Is it\n\nsafe?"), PLAIN[1]],
        ),
        ([PLAIN[0], ("tool", "42"), PLAIN[1]], "", PLAIN),
        ([PLAIN[0], ("tool", {"result": 42}), PLAIN[1]], "", PLAIN),
        ([PLAIN[0], ("assistant", None), ("function", "42"), PLAIN[1]], "", PLAIN),
        (
            [PLAIN[0], ("assistant", "Hm."), ("tool", "42"), PLAIN[1]],
            "",
            [PLAIN[0], ("assistant", "Hm.\n\nAlways.")],
        ),
        ([PLAIN[0], ("user", " \n"), ("assistant", ""), PLAIN[1]], "", PLAIN),
        ([(" Human ", "Is it safe?"), ("GPT", "Always.")], "", PLAIN),
        ([("user", " Is it\0 safe?\r\n"), ("model", "\x1bAlways.")], "", PLAIN),
        ([("user", "x\ud800"), PLAIN[1]], "", [("user", "x\ufffd"), PLAIN[1]]),
        ([("user", [{"type": "text", "text": "Is it safe?"}]), PLAIN[1]], "", PLAIN),
        ([("user", ["Is it", "safe?"]), PLAIN[1]], "", [("user", "Is it\nsafe?"), PLAIN[1]]),
    ],
)
def test_what_is_normalised(
    chat: list[tuple[str, Any]], plan: str, talk: list[tuple[str, str]], tmp_path: Path
) -> None:
    given = made(turns(*chat), tmp_path)
    assert (given.plan, said(given)) == (plan, talk)


def test_a_system_prompt_is_kept_beside_a_plan_and_one_that_is_a_plan_is_not(
    tmp_path: Path,
) -> None:
    told = turns(("system", "Be brief."), *PLAIN)

    def prompt_of(row: dict[str, Any], kind: Kind = "auto") -> str:
        dialogue = dialogue_of(made(row, tmp_path, kind))
        assert dialogue
        return dialogue.system

    assert prompt_of(told) == "Be brief."
    assert prompt_of({**told, "plan": FORM}) == "Be brief."
    assert prompt_of(turns(("system", FORM), *PLAIN)) == ""
    assert prompt_of(turns(*PLAIN)) == ""


def test_a_plan_of_its_own_comes_before_system_turns(tmp_path: Path) -> None:
    row = {**turns(("system", "Be brief."), *PLAIN), "plan": FORM}
    assert made(row, tmp_path).plan == FORM


LONG = "x" * 200_001
SKIPPED: list[tuple[dict[str, Any], Reason]] = [
    ({"messages": None}, "no turns"),
    ({"messages": []}, "no turns"),
    ({"messages": [None]}, "no turns"),
    (turns(("system", "A plan.")), "no turns"),
    (turns(("assistant", "Hello!")), "no user turn that the assistant answers"),
    (turns(("assistant", "Hello!"), ("user", "Hi.")), "no user turn that the assistant answers"),
    (turns(("user", "Hi."), ("assistant", " ")), "no user turn that the assistant answers"),
    (turns(("narrator", "Once."), *PLAIN), "a turn of an unknown speaker"),
    ({"messages": [{"content": "Once."}]}, "a turn of an unknown speaker"),
    (turns(("user", [{"type": "image_url"}]), *PLAIN), "a turn that is not text"),
    ({"plan": ""}, "no plan"),
    (turns(("user", LONG), PLAIN[1]), "a text of more than 200,000 characters"),
    (turns(*[("user", LONG[:90_000])] * 3, PLAIN[1]), "a text of more than 200,000 characters"),
    ({"plan": LONG}, "a text of more than 200,000 characters"),
    (
        {"messages": PAIR, "goal": "x" * 2_001},
        "a topic, goal or principle of more than 2,000 characters",
    ),
    ({"messages": PAIR, "principle": [f"Rule {n}." for n in range(33)]}, "more than 32 principles"),
]


@pytest.mark.parametrize(("row", "reason"), SKIPPED)
def test_what_is_skipped_says_why(row: dict[str, Any], reason: Reason, tmp_path: Path) -> None:
    assert skipped(row, tmp_path) == reason


def test_every_reason_is_met_and_documented() -> None:
    page = DOC.read_text("utf-8")
    assert {reason for _, reason in SKIPPED} == set(get_args(Reason))
    for reason in get_args(Reason):
        assert f"| {reason} |" in page
    for kind in get_args(Kind):
        assert f"`{kind}`" in page
    for suffix in (".parquet", ".jsonl", ".ndjson", ".json", ".gz"):
        assert f"`{suffix}`" in page


@pytest.mark.parametrize(
    ("row", "kind", "wrong"),
    [
        (
            {"text": "Hi"},
            "auto",
            "among the columns: 'text'; rename a column to one of messages, co",
        ),
        (
            {"texts": "Hi"},
            "messages",
            "no `messages` or `conversation` or `dialogue` or `dialog` or `turns` or `chat` or",
        ),
        ({"question": "Hi"}, "preference", "no `rejected` or `rejected_response` or `chosen` or"),
        (
            {"question": "Hi"},
            "instruction",
            "or `completion` or `response` or `output` or `answer`",
        ),
        ({}, "sharegpt", "no `conversations` among the columns: none; name the kind"),
        (
            {"messages": "Hi"},
            "auto",
            "`messages` must be a list of turns, not text; write turns as",
        ),
        (
            {"messages": {"role": "user"}},
            "auto",
            "`messages` must be a list of turns, not an object",
        ),
        ({"messages": ["Hi"]}, "auto", "a turn must be an object, not text; write turns as"),
        (
            {"messages": [{"role": 1}]},
            "auto",
            "a role must be text, not a number; name the speaker",
        ),
        (
            {"messages": [{"role": "user", "content": 1}]},
            "auto",
            "`content` must be text, not a num",
        ),
        (
            {"messages": PAIR, "domain": 7},
            "auto",
            "`domain` must be text, not a number; change or re",
        ),
        ({"messages": PAIR, "principle": [{}]}, "auto", "`principle` must be text, not an object"),
        ({"plan": True}, "auto", "`plan` must be text, not true/false"),
        ({"steps": [1]}, "auto", "`steps` must be text, not a number"),
        (
            {**TOPIC, "messages": PAIR, "is_violation": 1, "is_truncated": None},
            "auto",
            "`is_violation` must be true or false, not a number",
        ),
    ],
)
def test_a_wrong_shape_is_an_error(row: Any, kind: Kind, wrong: str, tmp_path: Path) -> None:
    where = jsonl(tmp_path / "rows.jsonl", [{"messages": PAIR}, row][kind != "auto" :])
    message = refused(where, kind=kind)
    assert f"rows.jsonl:{2 if kind == 'auto' else 1}: " in message
    assert wrong in message


def test_bytes_that_are_no_text_in_parquet_are_an_error(tmp_path: Path) -> None:
    where = parquet(tmp_path / "a.parquet", [{"plan": b"\xff"}])
    assert "a.parquet:row 1: `plan` must be text, not bytes" in refused(where)
    pq.write_table(pa.table({"plan": _not_utf8()}), tmp_path / "b.parquet")
    assert "b.parquet: cannot be read: " in refused(str(tmp_path / "b.parquet"))


def _not_utf8() -> Any:
    """A column that says it is text and is not."""
    offsets = pa.py_buffer(b"\x00\x00\x00\x00\x01\x00\x00\x00")
    return pa.StringArray.from_buffers(1, offsets, pa.py_buffer(b"\xff"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "human", "gpt", "x", "", None])
TURN = st.fixed_dictionaries(
    {}, optional={"role": ROLES, "content": st.text() | JSON, "from": ROLES, "value": JSON}
)
KEYS = st.sampled_from(
    ["messages", "conversations", "plan", "steps", "goal", "principle", "planned_violation"]
)
ROW = st.dictionaries(KEYS, st.lists(TURN, max_size=6) | st.text() | JSON, max_size=5) | JSON


@hypothesis_given(ROW, st.sampled_from(get_args(Kind)))
def test_whatever_a_row_is_the_result_has_its_shape(row: Any, kind: Kind) -> None:
    given: SourceRow | Skipped | None = None
    try:
        given = source_row(Place(Path("a"), "a", 1), row, kind)
    except SourceError as error:
        message = str(error)
    else:
        message = ""
    if given is None:
        assert message.startswith("a:1: ")
        return
    if isinstance(given, Skipped):
        assert given.reason in get_args(Reason)
        return
    roles = [message.role for message in given.messages]
    assert roles == ["user", "assistant"] * (len(roles) // 2)
    assert given.messages or given.plan
    texts = [given.plan, given.goal, *given.principles, *(m.content for m in given.messages)]
    assert all(m.content.strip() for m in given.messages)
    for text in texts:
        text.encode()
        assert not set(text) & set(map(chr, [*range(9), *range(11, 32), *range(127, 160)]))
    assert msgspec.json.decode(msgspec.json.encode(given), type=SourceRow) == given
    scenario = scenario_of(given, 5, base(), KNOWN)
    plan, dialogue = plan_of(given, scenario), dialogue_of(given)
    assert (plan is None) == (not given.plan)
    assert plan is None or plan.steps
    assert (dialogue is None) == (not given.messages)


# --- the store ----------------------------------------------------------------------------------


def given(n: int, **changes: Any) -> SourceRow:
    row = SourceRow(
        domain="Cooking",
        subarea=f"dish {n}",
        field="",
        goal="",
        principles=(),
        plan="",
        messages=(Message("user", f"Ist {n} gut? ü"), Message("assistant", "Ja.\nSehr.")),
        origin=f"a.jsonl:{n}",
    )
    return msgspec.structs.replace(row, **changes)


def test_any_row_at_once(tmp_path: Path) -> None:
    rows = [given(n) for n in range(200)]
    kept = store_rows(
        [*rows[:100], Skipped("a:1", "no turns"), *rows[100:]], tmp_path / "source.sqlite"
    )
    for reader in (kept, StoredRows(tmp_path / "source.sqlite")):
        assert len(reader) == 200
        assert [reader[n] for n in (199, 0, 57)] == [rows[199], rows[0], rows[57]]
        assert reader.digest == kept.digest
        assert reader.skipped == {"no turns": 1}
        for index in (-1, 200):
            with pytest.raises(IndexError):
                reader[index]
    assert [p.name for p in tmp_path.iterdir()] == ["source.sqlite"]


def test_the_digest_is_of_what_the_rows_are(tmp_path: Path) -> None:
    def digest(rows: Sequence[SourceRow]) -> str:
        return store_rows(rows, tmp_path / "source.sqlite").digest

    first = digest([given(1), given(2)])
    assert digest([given(1, origin="b.parquet:row 9"), given(2)]) == first
    assert digest([given(2), given(1)]) != first
    assert digest([given(1), given(2, is_violation=True)]) != first
    assert digest([given(1), given(2, system="Be brief.")]) != first
    # One that serves as the plan was in the digest before it had a field of its own.
    told = [given(1, plan="Be brief.")]
    assert digest([given(1, plan="Be brief.", system="Be brief.")]) == digest(told)


def test_a_source_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "source.sqlite"
    with pytest.raises(
        SourceError, match=r"no usable row \(all were skipped, the first, a:3: no tu"
    ):
        store_rows([Skipped("a:3", "no turns"), Skipped("a:4", "no plan")], path)
    with pytest.raises(SourceError, match=r"no usable row \(none\)"):
        store_rows([], path)
    assert not list(tmp_path.iterdir())


def test_a_source_that_breaks_off_leaves_the_earlier_copy(tmp_path: Path) -> None:
    kept = store_rows([given(1)], tmp_path / "source.sqlite")

    def broken() -> Iterator[SourceRow]:
        yield given(2)
        raise SourceError("a.jsonl:2: bad JSON")

    with pytest.raises(SourceError, match="bad JSON"):
        store_rows(broken(), tmp_path / "source.sqlite")
    assert StoredRows(tmp_path / "source.sqlite").digest == kept.digest
    assert len(list(tmp_path.iterdir())) == 1


def test_a_damaged_copy_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "source.sqlite"
    store_rows((given(n, plan="x" * 2_000) for n in range(9)), path)
    data = path.read_bytes()

    def error() -> str:
        with pytest.raises(SourceError, match="start another run from the source") as caught:
            StoredRows(path)[1]
        return str(caught.value)

    path.write_bytes(data[:-5_000])
    assert "source.sqlite: " in error()
    path.write_bytes(data.replace(b'"dish 1"', b'"dish 1\n'))
    assert "source.sqlite: row 1: " in error()
    path.write_bytes(b"not a database at all" * 100)
    assert "source.sqlite: cannot be read: " in error()
    path.write_bytes(data)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM rows WHERE number = 8")
        db.commit()
    assert "source.sqlite: rows are missing" in error()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM source")
        db.commit()
    assert "source.sqlite: rows are missing" in error()
    path.unlink()
    assert "source.sqlite: missing" in error()
    path.write_bytes(data)
    with pytest.raises(SourceError, match="cannot be written"):
        store_rows([given(1)], path / "below" / "source.sqlite")


@pytest.mark.e2e
def test_many_rows_in_flat_memory(tmp_path: Path) -> None:
    line = json.dumps({"messages": PAIR, "goal": "g" * 200}).encode() + b"\n"
    (tmp_path / "many.jsonl").write_bytes(line * 10_000)
    tracemalloc.start()
    rows = read(str(tmp_path / "many.jsonl"))
    kept = store_rows(
        (row for _, row in zip(range(5_000), rows, strict=False)), tmp_path / "s.sqlite"
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept) == 5_000
    assert peak < 1_000_000, peak  # of 2 MB read
    store_rows(rows, tmp_path / "s.sqlite")
    assert len(StoredRows(tmp_path / "s.sqlite")) == 5_000
    assert calls(lambda: StoredRows(tmp_path / "s.sqlite")) < 100  # not one for each row


def test_parquet_is_read_a_batch_at_a_time(tmp_path: Path) -> None:
    row = {**turns(("user", "x" * 2_000), PLAIN[1]), "embedding": [0.0] * 1_000}
    where = parquet(tmp_path / "many.parquet", [row] * 2_000, group=2_000)
    tracemalloc.start()
    assert sum(1 for _ in read(where)) == 2_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000, peak


# --- what a row means -----------------------------------------------------------------------------


def test_the_rows_own_inputs_lie_over_those_of_the_run() -> None:
    principle, goal, domain = CATALOGUE.principles[7], CATALOGUE.goals[3], CATALOGUE.domains[5]
    texts = (principle.text.upper().rstrip("."), "The assistant should sing.")
    row = given(1, principles=texts, goal=goal.text, domain=domain.name)
    scenario = scenario_of(row, 4, base(4), KNOWN)
    assert scenario.principles[0] == principle
    mine = scenario.principles[1]
    assert (mine.text, mine.family, mine.category) == (texts[1], "source", "source")
    assert mine.id.startswith("user-")
    assert (scenario.goal, scenario.field) == (goal, domain.field)
    assert (scenario.domain, scenario.subarea, scenario.exchanges) == (domain.name, "dish 1", 1)
    assert scenario.index == 4
    assert scenario.strategy == "given"
    planned = scenario_of(given(1, messages=(), plan=FORM), 4, base(4), KNOWN)
    assert planned.strategy == base(4).strategy


def test_what_a_row_does_not_say_is_not_made_up() -> None:
    scenario = scenario_of(given(1, domain="", subarea=""), 0, base(), KNOWN)
    assert scenario.principles == base().principles
    assert (scenario.domain, scenario.subarea, scenario.field) == (UNNAMED, UNNAMED, "source")
    assert scenario.goal.text == ""
    only = scenario_of(given(1, domain=""), 0, base(), KNOWN)
    assert (only.domain, only.subarea) == ("dish 1", "dish 1")


def test_the_id_is_of_index_and_content() -> None:
    row, other = given(1), given(1, messages=given(2).messages)
    first = scenario_of(row, 3, base(3), KNOWN).id
    assert first.startswith("000003-")
    assert len(first) == 15
    assert scenario_of(given(1, origin="elsewhere:9"), 3, base(3), KNOWN).id == first
    assert scenario_of(other, 3, base(3), KNOWN).id != first
    assert scenario_of(row, 3, base(4), KNOWN).id != first  # other principles are drawn


def test_a_plan_in_the_planners_form() -> None:
    row = given(1, plan=FORM, messages=())
    scenario = scenario_of(row, 0, base(), KNOWN)
    plan = plan_of(row, scenario)
    assert plan is not None
    assert scenario.exchanges == 2
    assert (plan.persona, plan.steps) == ("Ann, a cook", ("she asks", "she doubts"))
    assert (plan.planned_violation, plan.text) == ("it is cured", FORM)
    assert dialogue_of(row) is None


def test_a_plan_in_prose_is_shared_out() -> None:
    text = "Ann asks. The agent explains! Ann doubts?\n\nAt last the agent lies."
    row = given(1, plan=text, messages=())
    scenario = msgspec.structs.replace(scenario_of(row, 0, base(), KNOWN), exchanges=3)
    plan = plan_of(row, scenario)
    assert plan is not None
    assert plan.steps == ("Ann asks.", "The agent explains!", "Ann doubts? At last the agent lies.")
    assert (plan.planned_violation, plan.text) == (plan.steps[-1], text)
    short = plan_of(given(1, plan="One thing.", messages=()), scenario)
    assert short is not None
    assert short.steps == ("One thing.",)


def test_a_system_prompt_is_a_plan_with_a_step_for_each_exchange() -> None:
    row = given(1, plan="You are helpful.", messages=given(1).messages * 3)
    scenario = scenario_of(row, 0, base(), KNOWN)
    plan = plan_of(row, scenario)
    assert plan is not None
    assert (plan.text, plan.steps, plan.planned_violation) == (
        "You are helpful.",
        ("Ist 1 gut? ü",) * 3,
        "",
    )
    assert scenario.exchanges == 3
    assert plan_of(given(1), scenario) is None


@pytest.mark.parametrize(
    ("violation", "truncated", "stop"),
    [
        (None, None, "completed"),
        (True, False, "completed"),
        (False, True, "early_end"),
        (True, True, "violation_end"),
    ],
)
def test_flags_survive(violation: bool | None, truncated: bool | None, stop: str) -> None:
    dialogue = dialogue_of(given(1, is_violation=violation, is_truncated=truncated))
    assert dialogue is not None
    assert (dialogue.protocol, dialogue.stop) == ("given", stop)
    assert dialogue.self_flagged is bool(violation)
    assert dialogue.last_reply == "Ja.\nSehr."


def test_a_source_error_is_an_error_of_the_project() -> None:
    assert issubclass(SourceError, SdsdError)


def test_a_source_that_is_not_there_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        run({"source": {"path": str(tmp_path / "none.jsonl")}}, out=tmp_path / "out")
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_asking_for_more_than_the_source_has_is_said(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "Open?"}, {"role": "assistant", "content": "Trust me."}]
    path.write_text("\n".join([json.dumps({"messages": turns})] * 3), "utf-8")
    notes: list[str] = []
    models = {"default": ScriptedModel()}
    tree = {"n": 5, "source": {"path": str(path)}}
    for _ in range(2):  # when it begins, and when it continues
        run(
            tree,
            out=tmp_path / "out",
            models=models,
            on_event=lambda event: notes.append(str(event)),
        )
        assert any("the source has 3 rows, fewer than the 5 asked for" in note for note in notes)
        notes.clear()


@pytest.mark.e2e
def test_a_source_that_changed_between_two_starts_is_noticed(tmp_path: Path) -> None:
    """Other rows are told; the same rows in a file that was touched, or none, are not."""
    path, out = tmp_path / "rows.jsonl", tmp_path / "run"
    rows = [{"messages": PAIR}, {"messages": PAIR, "goal": "learn"}]
    where = jsonl(path, rows)

    def noted() -> str:
        notes: list[str] = []
        run(
            {"source": {"path": where}},
            out=out,
            models={"default": ScriptedModel()},
            on_event=lambda event: notes.append(getattr(event, "text", "")),
        )
        return "\n".join(notes)

    assert f"2 rows of {where}" in noted()
    assert "changed" not in noted()
    os.utime(path, (1, 1))
    assert "changed" not in noted()
    for changed in (
        [{"messages": PAIR}, {"messages": PAIR, "goal": "teach"}],
        [*rows, {"messages": PAIR, "goal": "play"}],
        rows[:1],
        [{"nothing": "known"}],
    ):
        jsonl(path, changed)
        said = noted()
        assert f"the source {where} has changed since this run began" in said
        assert "another run directory" in said
    path.unlink()
    assert "changed" not in noted()


def test_a_run_begins_from_rows_and_needs_their_file_no_more(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "Open?"}, {"role": "assistant", "content": "Trust me."}]
    path.write_text("\n".join([json.dumps({"messages": turns})] * 3), "utf-8")
    model, tree = ScriptedModel(), {"source": {"path": str(path)}}
    result = run(tree, out=tmp_path / "out", models={"default": model})
    assert (result.status().n, len(result)) == (3, 3)
    path.unlink()
    asked = model.asked
    again = run(tree, out=tmp_path / "out", models={"default": model})
    assert again.status().outcomes == result.status().outcomes
    assert model.asked == asked
    for record in result.records():
        assert record.plan is None
        assert record.dialogue is not None
        assert (record.dialogue.protocol, record.dialogue.last_reply) == ("given", "Trust me.")
        assert record.scenario.strategy == "given"
    assert verify(RunDir(tmp_path / "out")).defects == ()


def test_a_plan_that_is_given_keeps_all_of_its_text() -> None:
    text = "PERSON: Ann\nSTEP 1: a\nSLIP: b\n\nWritten in May."
    plan = plan_of(given(1, plan=text, messages=()), base())
    assert plan is not None
    assert (plan.text, plan.planned_violation) == (text, "b")


def test_a_file_that_is_called_like_its_suffix_is_read(tmp_path: Path) -> None:
    file = tmp_path / ".jsonl"
    file.write_text('{"a": 1}\n')
    assert [row for _, row in existing_files.rows(file, file.name, ())] == [{"a": 1}]


@pytest.mark.parametrize("key", ["message_id", "parent_id"])
def test_rows_with_other_ids_are_no_messages_of_a_tree(key: str) -> None:
    row = {"message_id": "a", "parent_id": None, "role": "prompter", "text": "Hi.", key: ["a"]}
    place = Place(Path("x.jsonl"), "x.jsonl", 1)
    assert [found for _, found in existing_shapes.threads([(place, row)])] == [row]
