"""The journal: what was committed is on disk before anybody is told, and comes back as it was."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdsd.errors import JournalError
from sdsd.runs.journal import (
    Entry,
    Journal,
    Ledger,
    Round,
    fingerprint,
    stage_of,
)
from sdsd.runs.journal_file import VERSION
from sdsd.types import Answer, Completion, Goal, Message, Record, Refusal, Request, Scenario, Usage

REQUEST = Request("agent", 64, (Message("user", "Hello?"),))
ASKED = fingerprint(REQUEST, "model")


def record(index: int, outcome: str = "accepted", rule: str = "") -> Record:
    scenario = Scenario(
        id=f"{index:06d}-0abc",
        index=index,
        field="Food",
        domain="Baking",
        subarea="Sourdough",
        goal=Goal("steelman", "argue", "Argue."),
        principles=(),
        exchanges=2,
    )
    return Record(scenario, outcome, rule)  # type: ignore[arg-type]


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    """What a second connection sees."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def transactions(path: Path) -> int:
    """Commits in a write-ahead log: frames whose header carries the size of the database."""
    data = path.with_name(f"{path.name}-wal").read_bytes()
    page = int.from_bytes(data[8:12], "big")
    heads = range(32, len(data), 24 + page)
    return sum(int.from_bytes(data[at + 4 : at + 8], "big") > 0 for at in heads)


# -- writing -------------------------------------------------------------------------------


async def test_a_commit_is_on_disk_when_it_returns(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        for k in range(5):
            await journal.commit("s", f"turn/{k}", ASKED, Completion(f"text {k}"))
            assert rows(tmp_path / "j", "SELECT count(*) FROM answer") == [(k + 1,)]
        await journal.finish(record(0))
        assert rows(tmp_path / "j", "SELECT number, outcome FROM record") == [(0, "accepted")]


async def test_commits_that_wait_together_share_a_transaction(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        before = transactions(tmp_path / "j")
        commits = [journal.commit("s", str(k), ASKED, Completion("text")) for k in range(400)]
        await asyncio.gather(*commits)
        assert journal.answers() == 400
        assert transactions(tmp_path / "j") - before < 40


@settings(max_examples=25)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.builds(
            Completion,
            text=st.text(st.characters(exclude_categories=["Cs"])),
            finish=st.sampled_from(["stop", "length"]),
            prompt_tokens=st.integers(0, 2**31),
            seconds=st.floats(0, 1e6),
        )
        | st.builds(Refusal, st.text(st.characters(exclude_categories=["Cs"]))),
    )
)
def test_every_answer_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, answers: dict[str, Answer]
) -> None:
    """Also with NULs, line separators and whatever else UTF-8 can hold, in texts and names."""
    path = tmp_path_factory.mktemp("journal") / "j"

    async def write(journal: Journal) -> None:
        for step, answer in answers.items():
            await journal.commit("s", step, ASKED, answer)

    with Journal(path) as journal:
        asyncio.run(write(journal))
    with Journal(path, readonly=True) as again:
        assert again.load("s") == {step: Entry(ASKED, answer) for step, answer in answers.items()}
        assert again.load("another") == {}


async def test_a_step_recorded_twice_is_an_error(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        await journal.commit("s", "plan", ASKED, Completion("first"))
        with pytest.raises(JournalError, match=r"recorded already.*its own name"):
            await journal.commit("s", "plan", ASKED, Completion("second"))
        assert journal.load("s")["plan"].answer == Completion("first")


async def test_after_a_failed_write_every_later_one_fails(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        await journal.commit("s", "plan", ASKED, Completion("first"))
        for step in ("plan", "another", "and another"):
            with pytest.raises(JournalError):
                await journal.commit("s", step, ASKED, Completion("second"))
        with pytest.raises(JournalError):
            await journal.finish(record(0))
    assert rows(tmp_path / "j", "SELECT step FROM answer") == [("plan",)]


async def test_what_cannot_be_stored_is_refused_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal, pytest.raises(JournalError, match="surrogates"):
        await asyncio.wait_for(journal.commit("s", "half \ud800", ASKED, Completion("")), 10)


async def test_a_closed_journal_and_a_readonly_one_refuse_to_write(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        await journal.commit("s", "plan", ASKED, Completion(""))
    journal = Journal(tmp_path / "j", readonly=True)
    with journal, pytest.raises(JournalError, match="reading only"):
        await journal.commit("s", "plan", ASKED, Completion(""))


async def test_closing_writes_what_waits(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    waiting = [journal.commit("s", str(k), ASKED, Completion("")) for k in range(50)]
    journal.close()
    assert rows(tmp_path / "j", "SELECT count(*) FROM answer") == [(50,)]
    await asyncio.gather(*waiting)


FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from sdsd.errors import JournalError
from sdsd.runs.journal import Journal
from sdsd.types import Completion

async def fill(journal):
    done = 0
    try:
        while done < 1000:
            await journal.commit("s", f"{done:04d}", {}, Completion("x" * 2000))
            done += 1
    except JournalError as error:
        print(done, error)
    try:
        await journal.commit("s", "later", {}, Completion(""))
    except JournalError as error:
        print("later:", error)

with Journal(Path(sys.argv[1])) as journal:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    asyncio.run(fill(journal))
"""


def test_a_full_disk_stops_the_writing_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=True
    )
    first, later = done.stdout.splitlines()
    count, _, message = first.partition(" ")
    assert 0 < int(count) < 1000
    assert message.startswith(f"{path}: cannot be written: ")
    assert "free some space" in message
    assert later == f"later: {message}"
    with Journal(path) as journal:  # once there is room again
        assert sorted(journal.load("s")) == [f"{k:04d}" for k in range(int(count))]


# -- reading -------------------------------------------------------------------------------


async def test_records_come_in_the_order_of_their_index(tmp_path: Path) -> None:
    """Whatever order they were finished in, over more of them than are read at once."""
    order = sorted(range(600), key=lambda k: k * 7919 % 601)
    with Journal(tmp_path / "j") as journal:
        await asyncio.gather(*(journal.finish(record(k)) for k in order))
        assert [r.scenario.index for r in journal.records()] == list(range(600))
        assert [r.scenario.index for r in journal.records(300)] == list(range(300))
        assert journal.record(599) == record(599)
        assert journal.record(600) is None


@settings(max_examples=20)
@given(st.sets(st.integers(0, 40)), st.integers(0, 45), st.integers(1, 12))
def test_unfinished_are_the_indexes_without_a_record(
    tmp_path_factory: pytest.TempPathFactory, finished: set[int], n: int, chunk: int
) -> None:
    async def write(journal: Journal) -> None:
        for k in finished:
            await journal.finish(record(k))

    with Journal(tmp_path_factory.mktemp("journal") / "j") as journal:
        asyncio.run(write(journal))
        missing = [k for k in range(n) if k not in finished]
        assert list(journal.unfinished(n, chunk=chunk)) == missing


async def test_what_is_finished_while_the_indexes_are_walked_is_not_met_again(
    tmp_path: Path,
) -> None:
    with Journal(tmp_path / "j") as journal:
        seen = []
        for k in journal.unfinished(10, chunk=3):
            seen.append(k)
            await journal.finish(record(k))
        assert seen == list(range(10))
        assert list(journal.unfinished(10, chunk=3)) == []


async def test_counts_and_times(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        await journal.commit("s", "plan", ASKED, Completion("", completion_tokens=7))
        await journal.commit("s", "turn/1/user", ASKED, Refusal("HTTP 400"))
        for k, (outcome, rule) in enumerate([("accepted", ""), ("filtered", "no_violation")] * 2):
            await journal.finish(record(k, outcome, rule))
        assert journal.answers() == 2
        assert journal.outcomes() == {"accepted": 2, "filtered/no_violation": 2}
        assert journal.finished() == 4
        times = list(journal.times())
        assert [(stage, tokens) for _, stage, tokens in times] == [("plan", 7), ("turn", 0)]
        assert times[0][0] <= times[1][0]


def test_the_stage_of_a_step_is_its_first_word() -> None:
    assert [stage_of(s) for s in ("plan", "turn/3/user", "recheck/1/2/retry/1")] == [
        "plan",
        "turn",
        "recheck",
    ]


# -- what is no journal --------------------------------------------------------------------


def test_reading_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"j: missing; .*needs it back from a copy"):
        Journal(tmp_path / "j", readonly=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("readonly", [False, True])
def test_a_file_that_is_no_database(tmp_path: Path, readonly: bool) -> None:
    (tmp_path / "j").write_text("Dear diary, " * 100)
    with pytest.raises(JournalError, match=r"j: cannot be opened as a journal"):
        Journal(tmp_path / "j", readonly=readonly)
    assert (tmp_path / "j").read_text() == "Dear diary, " * 100


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("version", [VERSION - 2, VERSION + 1])
def test_a_journal_of_another_version(tmp_path: Path, readonly: bool, version: int) -> None:
    with closing(sqlite3.connect(tmp_path / "j")) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()
    with pytest.raises(JournalError, match=rf"version {version}, but this program reads {VERSION}"):
        Journal(tmp_path / "j", readonly=readonly)


def test_a_journal_that_was_killed_before_its_first_table(tmp_path: Path) -> None:
    (tmp_path / "j").touch()
    with pytest.raises(JournalError, match="j: empty; "):
        Journal(tmp_path / "j", readonly=True)
    with Journal(tmp_path / "j") as journal:
        assert journal.finished() == 0


async def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        await journal.commit("s", "plan", ASKED, Completion("text"))
        await journal.finish(record(3))
        await journal.plan_round(Round(0, 0, (), Ledger()))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE answer SET body = x'7bff'")
        connection.execute("UPDATE record SET body = '{}'")
        connection.execute("UPDATE round SET slots = '[1]'")
        connection.commit()
    with Journal(path, readonly=True) as journal:
        with pytest.raises(JournalError, match="round 0 is damaged"):
            journal.round_of(0)
        with pytest.raises(JournalError, match=r"j: the answer to plan of s is damaged"):
            journal.load("s")
        with pytest.raises(JournalError, match="the record of dialogue 3 is damaged"):
            list(journal.records())
        with pytest.raises(JournalError, match="the record of dialogue 3 is damaged"):
            journal.record(3)
        with pytest.raises(JournalError, match="plan"):
            list(journal.times())


# -- fingerprints --------------------------------------------------------------------------


def test_a_fingerprint_names_the_part_that_changed() -> None:
    chat = Request(
        "critic", 64, (Message("system", "Judge."), Message("user", "This.")), schema={"a": 1}
    )

    def changed(**values: object) -> list[str]:
        other = msgspec.structs.replace(chat, **values)
        ours, theirs = fingerprint(chat, "m"), fingerprint(other, "m")
        return sorted(k for k in ours | theirs if ours.get(k) != theirs.get(k))

    assert changed() == []
    assert changed(messages=(chat.messages[0], Message("user", "That."))) == ["message 1 (user)"]
    assert changed(messages=chat.messages[:1]) == ["message 1 (user)"]
    assert (
        changed(temperature=0.1) == changed(max_tokens=65) == changed(stop=("x",)) == ["sampling"]
    )
    assert changed(schema={"a": 2}) == changed(schema=None) == ["schema"]
    assert changed(prompt="Once") == ["prompt"]
    assert changed(role="agent") == ["role"]
    assert fingerprint(chat, "m")["model"] != fingerprint(chat, "other")["model"]


# -- sums -----------------------------------------------------------------------------------


def asked(role: str) -> dict[str, str]:
    return {"role": role, "model": "m"}


async def test_what_was_asked_is_summed_by_stage_and_role(tmp_path: Path) -> None:
    answer = Completion("x", prompt_tokens=10, cached_tokens=4, completion_tokens=3, seconds=0.5)
    with Journal(tmp_path / "j") as journal:
        await asyncio.gather(
            *(journal.commit(f"s{k}", f"turn/{k}/user", asked("user"), answer) for k in range(50)),
            journal.commit("s", "plan", asked("planner"), answer),
            journal.commit("s", "critique/1", asked("critic"), Refusal("HTTP 400")),
        )
        sums = [Usage("plan", "planner", "m", 1, 10, 4, 3, 0.5)]
        sums += [Usage("turn", "user", "m", 50, 500, 200, 150, 25.0)]
        assert journal.usage() == sums
        await journal.commit("t", "plan", asked("planner"), answer)
        assert journal.usage()[0] == Usage("plan", "planner", "m", 2, 20, 8, 6, 1.0)
