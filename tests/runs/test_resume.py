"""Resume is replay: wherever a run was cut, going on gives the data set of a run that never was.

And no answer is asked for twice: after a crash the model is called exactly as often as there are
answers missing.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import sdsd
from sdsd.dataset.export import read
from sdsd.dataset.views import VIEWS
from sdsd.errors import Divergence, ModelError, RunDirError
from sdsd.models.base import Capabilities
from sdsd.models.scripted import ScriptedModel, small_world
from sdsd.pipeline.prompts import load_prompt
from sdsd.runs import publication
from sdsd.runs.directory import RunDir
from sdsd.runs.events import Called, Event, Noted, Recorded
from sdsd.runs.journal import Journal
from sdsd.runs.run import Run
from sdsd.runs.verify import verify
from sdsd.types import Answer, Refusal, Request

pytestmark = pytest.mark.e2e

TIMES = ("seconds",)
"""Columns that say how long something took; they may differ."""
CAN = {
    "continuation": None,
    "chat": Capabilities(schema=True),
    "roleplay": Capabilities(schema=True),
    "transcript": Capabilities(),
}


LISTS = {
    "topics": [
        {"field": f, "domains": [{"name": f"{f} {d}", "subareas": [f"{d} {k}" for k in "xyz"]}
                                 for d in ("trade", "history", "craft")]}
        for f in ("bread", "roofs")
    ],
    "principles": [{"text": f"The assistant should not {v}."} for v in ("lie", "boast", "scorn")],
    "goals": [{"text": f"The user wants {what}."} for what in ("advice", "a fight", "comfort")],
}  # fmt: skip
CATALOGUE: dict[str, Any] = {}
"""Keys that name files of these lists: a small catalogue, because it is read at every start."""


@pytest.fixture(scope="module", autouse=True)
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("catalogue")
    for name, entries in LISTS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(entries))
        CATALOGUE[f"catalogue.{name}"] = str(folder / f"{name}.yaml")


class Crash(BaseException):
    """The end of the process, as far as the run can tell: nothing catches it."""


def views(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The content of a run's data set, without times."""
    return {
        view: [
            {k: v for k, v in row.items() if k not in TIMES} for row in read(path / "data", view)
        ]
        for view in VIEWS
    }


class World(ScriptedModel):
    """The packaged small world, with now and then a refusal and a reply that cannot be read."""

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        answer = await super().complete(request, seed)
        return Refusal("HTTP 400", "no") if seed % 41 == 0 else answer


def script(request: Request, seed: int) -> str:
    return "Hm." if seed % 11 == 0 else small_world(request, seed)


def make(
    out: Path,
    n: int,
    *,
    open: int = 1,  # noqa: A002  (the key's name)
    protocol: str = "continuation",
    on_event: Callable[[Event], None] | None = None,
    **changes: Any,
) -> tuple[Run, int]:
    """Start or continue a run; what came of it, and how many calls were made."""
    model = World(script, capabilities=CAN[protocol])
    keys = CATALOGUE | {"n": n, "max_open_dialogues": open, "dialogue.protocol": protocol} | changes
    result = sdsd.run(out=out, models={"default": model}, on_event=on_event, **keys)
    return result, model.asked


def crash_after(k: int) -> Callable[[Event], None]:
    """Ends the process right after the k-th commit of an answer or a record."""
    seen = 0

    def hear(event: Event) -> None:
        nonlocal seen
        seen += isinstance(event, Called | Recorded)
        if seen == k and isinstance(event, Called | Recorded):
            raise Crash

    return hear


def crashed(out: Path, n: int, k: int, **options: Any) -> bool:
    """Make a run that crashes after the k-th commit; False if it ended before."""
    try:
        make(out, n, on_event=crash_after(k), **options)
    except BaseExceptionGroup as group:
        if group.subgroup(Crash) is None:
            raise
        return True
    return False


def answers(out: Path) -> int:
    with Journal(RunDir(out).journal, readonly=True) as journal:
        return journal.answers()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], Path]:
    """Runs that nothing happened to, by size and protocol, each made once."""
    root = tmp_path_factory.mktemp("undisturbed")

    @cache
    def made(n: int, protocol: str = "continuation") -> Path:
        out = root / f"{n}-{protocol}"
        make(out, n, protocol=protocol, open=3)
        return out

    return made


Undisturbed = Callable[..., Path]


# -- the law -------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["transcript", "continuation", "chat", "roleplay"])
def test_a_crash_after_every_single_commit_repeats_nothing(
    tmp_path: Path, undisturbed: Undisturbed, protocol: str
) -> None:
    """Every life of this run makes one commit and dies: the worst there can be."""
    out, lives = tmp_path / "run", 0
    while crashed(out, 3, 1, protocol=protocol):
        lives += 1
        assert lives < 200
    total = answers(undisturbed(3, protocol))
    assert answers(out) == total
    assert lives >= total  # each answer that was given, and each record, ended a life
    assert views(out) == views(undisturbed(3, protocol))
    assert verify(RunDir(out)).defects == ()


@settings(max_examples=15)
@given(st.data(), st.sampled_from(list(CAN)), st.integers(1, 8))
def test_after_a_crash_anywhere_only_what_is_missing_is_asked(
    tmp_path_factory: pytest.TempPathFactory,
    undisturbed: Undisturbed,
    data: st.DataObject,
    protocol: str,
    width: int,
) -> None:
    """With several dialogues under way, and a second crash while the first is mended."""
    whole = undisturbed(5, protocol)
    total = answers(whole)
    out = tmp_path_factory.mktemp("run") / "out"
    for k in data.draw(st.lists(st.integers(1, total), min_size=1, max_size=2)):
        crashed(out, 5, k, protocol=protocol, open=width)
    recorded = answers(out)
    result, calls = make(out, 5, protocol=protocol, open=width)
    assert calls == total - recorded
    assert len(result) == 5
    assert views(out) == views(whole)


def test_what_a_power_cut_leaves_on_disk_is_enough(
    tmp_path: Path, undisturbed: Undisturbed
) -> None:
    """Copies of the directory, taken before each call, are each a run that can be continued."""
    out, total = tmp_path / "run", answers(undisturbed(2))
    copies: list[Path] = []

    class Watched(World):
        async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
            copies.append(tmp_path / f"copy-{self.asked}")
            shutil.copytree(out, copies[-1])
            return await super().complete(request, seed)

    keys = CATALOGUE | {"max_open_dialogues": 1, "dialogue.protocol": "continuation"}
    model = Watched(script)
    model.capabilities = replace(model.capabilities, slots=1)  # one request at a time
    sdsd.run(n=2, out=out, models={"default": model}, **keys)
    assert len(copies) == total
    for k, copy in enumerate(copies):
        assert answers(copy) == k
        if k % 3 == 0:
            assert make(copy, 2)[1] == total - k
            assert views(copy) == views(undisturbed(2))


def test_the_order_of_completion_does_not_matter(tmp_path: Path, undisturbed: Undisturbed) -> None:
    """Answers that arrive in any order give the same data set."""

    class Late(World):
        async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
            await asyncio.sleep(seed % 5 / 1000)
            return await super().complete(request, seed)

    keys = CATALOGUE | {"max_open_dialogues": 8, "dialogue.protocol": "continuation"}
    sdsd.run(n=8, out=tmp_path / "run", models={"default": Late(script)}, **keys)
    assert views(tmp_path / "run") == views(undisturbed(8))


# -- going on ------------------------------------------------------------------------------


def test_a_run_that_is_complete_asks_nothing(tmp_path: Path, undisturbed: Undisturbed) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed(8), out)
    result, calls = make(out, 8)
    assert (calls, len(result), result.stopped) == (0, 8, "")
    assert views(out) == views(undisturbed(8))


def test_growing_n_continues(tmp_path: Path, undisturbed: Undisturbed) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed(3), out)
    result, calls = make(out, 8, open=4)
    assert calls == answers(undisturbed(8)) - answers(undisturbed(3))
    assert len(result) == 8
    assert views(out) == views(undisturbed(8))


def test_a_model_that_is_gone_stops_the_run_and_the_same_command_goes_on(
    tmp_path: Path, undisturbed: Undisturbed
) -> None:
    class Dying(World):
        async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
            if self.asked == 20:
                raise ModelError("the key has run out")
            return await super().complete(request, seed)

    out = tmp_path / "run"
    keys = CATALOGUE | {"max_open_dialogues": 3, "dialogue.protocol": "continuation"}
    with pytest.raises(ModelError, match="the key has run out"):
        sdsd.run(n=8, out=out, models={"default": Dying(script)}, **keys)
    recorded = answers(out)
    assert recorded == 20
    assert make(out, 8)[1] == answers(undisturbed(8)) - recorded
    assert views(out) == views(undisturbed(8))


def test_a_kill_before_the_configuration_was_written_leaves_the_directory_usable(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "lock").touch()
    (out / ".config.yaml.4711").write_text("n: ")
    assert len(make(out, 1)[0]) == 1


# -- what is refused -----------------------------------------------------------------------


def content(out: Path) -> dict[str, bytes]:
    """Every file of a run but the lock and SQLite's own bookkeeping."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != "lock" and not path.name.endswith(("-shm", "-wal"))
    }


def refused(out: Path, *said: str, n: int = 3, **changes: Any) -> None:
    """The run is refused in these words, no model is asked, and no byte is touched."""
    before = content(out)
    model = World(script)
    keys = CATALOGUE | {"n": n, "dialogue.protocol": "continuation"} | changes
    with pytest.raises(RunDirError) as caught:
        sdsd.run(out=out, models={"default": model}, **keys)
    for words in (str(out), "--out", *said):
        assert words in str(caught.value)
    assert model.asked == 0
    assert content(out) == before


def test_another_configuration_is_refused_by_the_names_of_its_keys(
    tmp_path: Path, undisturbed: Undisturbed
) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed(3), out)
    refused(out, "seed: 0 -> 1", seed=1)
    refused(out, "seed: 0 -> 1", "dialogue.max_tokens: 160 -> 99", "Restore these values",
            seed=1, n=9, **{"dialogue.max_tokens": 99})  # fmt: skip


OWN_GOALS = "- text: The user wants advice.\n"


@pytest.mark.parametrize("grown", [0, 4])
@pytest.mark.parametrize("key", ["prompts.plan", "catalogue.goals"])
@pytest.mark.parametrize("change", ["edited", "removed"])
def test_a_run_continues_with_its_own_copies(
    tmp_path: Path, key: str, grown: int, change: str
) -> None:
    """Whatever became of a user's file: the run says so by name, and is what it would have been."""
    is_prompt = key == "prompts.plan"
    own = tmp_path / ("plan.md" if is_prompt else "goals.yaml")
    text = Path(load_prompt("plan").source).read_text("utf-8") if is_prompt else OWN_GOALS
    own.write_text(text, "utf-8")
    keys: dict[str, Any] = {key: str(own)}
    make(tmp_path / "undisturbed", 2 + grown, **keys)
    out, notes = tmp_path / "run", list[str]()
    make(out, 2, **keys)
    if change == "edited":
        own.write_text(text.rstrip() + " And more.\n", "utf-8")
        said = f"{key} has changed since this run began; it continues with its own copy in inputs/"
    else:
        own.unlink()
        named = key if is_prompt else "the catalogue"
        said = f"{named} is gone or cannot be read; the run continues with its own copy in inputs/"

    def hear(event: Event) -> None:
        if isinstance(event, Noted):
            notes.append(event.text)

    assert len(make(out, 2 + grown, on_event=hear, **keys)[0]) == 2 + grown
    assert any(said in note for note in notes)
    assert views(out) == views(tmp_path / "undisturbed")
    found = verify(RunDir(out))
    assert found.defects == ()
    assert any(said in warning for warning in found.warnings)


def test_a_copy_that_was_altered_is_refused(tmp_path: Path, undisturbed: Undisturbed) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed(2), out)
    manifest = RunDir(out).manifest()
    assert manifest is not None
    copy = out / "inputs" / f"{manifest.prompts['plan']}.md"
    copy.write_text(copy.read_text() + "More.\n")
    with pytest.raises(RunDirError, match="its content does not match the SHA-256 in its name"):
        make(out, 3)
    copy.unlink()
    with pytest.raises(RunDirError, match="cannot be read"):
        verify(RunDir(out))


def test_another_model_under_the_same_name_is_noticed(
    tmp_path: Path, undisturbed: Undisturbed
) -> None:
    out = tmp_path / "run"
    crashed(out, 2, 5)
    other = World(script, name="another")
    keys = CATALOGUE | {"dialogue.protocol": "continuation"}
    with pytest.raises(Divergence, match="what changed: model"):
        sdsd.run(n=2, out=out, models={"default": other}, **keys)
    assert other.asked == 0


def test_a_second_process_is_refused(tmp_path: Path, undisturbed: Undisturbed) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed(2), out)
    with RunDir(out).lock():
        refused(out, "another process (pid ", n=2)
        assert RunDir(out).locked()
    assert not RunDir(out).locked()
    assert make(out, 2)[1] == 0


def test_a_directory_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("almost done")
    refused(tmp_path, "holds files but no run")
    refused(tmp_path / "thesis.txt", "is a file")


# -- verify --------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path: Path, undisturbed: Undisturbed) -> RunDir:
    """A complete run that may be damaged."""
    shutil.copytree(undisturbed(8), tmp_path / "run")
    return RunDir(tmp_path / "run")


def damage(rundir: RunDir, sql: str, *values: object) -> None:
    """Alter a journal, and remove the digests that would say so: a replay must notice, too."""
    with closing(sqlite3.connect(rundir.journal)) as connection:
        assert connection.execute(sql, values).rowcount > 0
        for table in ("answer", "record"):
            connection.execute(f"UPDATE {table} SET digest = NULL")
        connection.commit()


def test_a_run_that_is_whole_is_verified(finished: RunDir) -> None:
    replay = verify(finished)
    assert (replay.records, replay.answers, replay.defects) == (8, answers(finished.path), ())


def test_a_run_that_was_cut_is_verified_as_far_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "run"
    crashed(out, 8, 30, open=2)
    Run.open(out).export()
    replay = verify(RunDir(out))
    assert 0 < replay.records < 8
    assert replay.defects == ()


PLAN = "scenario LIKE '000001-%' AND step = 'plan'"


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (f"DELETE FROM answer WHERE {PLAN}", "plan: not in the journal"),
        (
            f"UPDATE answer SET body = replace(body, 'question', 'query') WHERE {PLAN}",
            "recorded for another request; what changed: ",
        ),
        (
            "UPDATE answer SET body = replace(body, 'Turn', 'Tour') WHERE scenario LIKE '000001-%' "
            "AND step = (SELECT max(step) FROM answer WHERE step LIKE 'turn/%/agent' "
            "AND scenario LIKE '000001-%')",
            "000001-",
        ),
        (f"UPDATE answer SET request = '{{}}' WHERE {PLAN}", "what changed: v, model, role"),
        (f"UPDATE answer SET body = x'00' WHERE {PLAN}", "the answer to plan of 000001-"),
        (
            "INSERT INTO answer SELECT scenario, 'turn/77/user', request, body, at, NULL "
            f"FROM answer WHERE {PLAN}",
            "recorded but never asked: turn/77/user",
        ),
        (
            "UPDATE record SET body = replace(body, 'Turn', 'Tour') WHERE number = 1",
            "replays differently",
        ),
        (
            "UPDATE record SET body = replace(body, '\"exchanges\":', '\"exchanges\":1') "
            "WHERE number = 1",
            "its scenario is not the one that the catalogue gives",
        ),
    ],
)
def test_a_journal_that_was_altered_is_found_out(finished: RunDir, sql: str, said: str) -> None:
    damage(finished, sql.replace("replace(body", "replace(CAST(body AS TEXT)"))
    assert any(said in defect for defect in verify(finished).defects)


def test_a_record_that_is_gone_leaves_the_data_set_ahead_of_the_journal(finished: RunDir) -> None:
    damage(finished, "DELETE FROM record WHERE number = 7")
    defects = verify(finished).defects
    assert any("data: has 8 of 7 dialogues; `sdsd export`" in defect for defect in defects)


def test_a_record_that_cannot_be_read_is_named(finished: RunDir) -> None:
    damage(finished, "UPDATE record SET body = '' WHERE number = 3")
    defects = verify(finished).defects
    assert any(defect.startswith("dialogue 3: ") and "damaged" in defect for defect in defects)


def published_as_it_is(rundir: RunDir) -> None:
    """Write the digests that the files have now: the rows themselves must be compared, too."""
    found = publication.read(rundir)
    assert found
    with Journal(rundir.journal, readonly=True) as journal:
        publication.write(rundir, journal, [rundir.path / name for name in found.files])


def rewritten(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The rows of a view, each time tampered with in another way."""
    key = next(
        k
        for k in ("chosen", "completion", "messages", "revision", "reason", "outcome")
        if k in rows[0]
    )
    yield rows[:-1]
    yield [*rows, rows[-1]]
    if len(rows) > 1:
        yield rows[::-1]
    yield [*rows[:-1], {**rows[-1], key: rows[0][key] * 2}]


@pytest.mark.parametrize("view", VIEWS)
def test_a_data_set_that_was_tampered_with_is_found_out(finished: RunDir, view: str) -> None:
    file = finished.data / view / "train-00000-of-00001.parquet"
    original, schema = file.read_bytes(), pq.read_schema(file)
    written = list(read(finished.data, view))
    assert written or view == "removed"  # there is nothing to tamper with in that one
    for rows in rewritten(written) if written else ():
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)
        (defect,) = verify(finished).defects
        assert defect == f"{file}: is not what was published; `sdsd export` rewrites it"
        published_as_it_is(finished)
        (defect,) = verify(finished).defects
        assert f"{finished.data / view}: differs from the journal; `sdsd export`" in defect
    file.write_bytes(original[:-7])
    published_as_it_is(finished)
    (defect,) = verify(finished).defects
    assert f"{file}: cannot be read" in defect
    file.unlink()
    (defect,) = verify(finished).defects
    assert defect == f"{file}: is not what was published; `sdsd export` rewrites it"
    Run.open(finished.path).export()
    assert verify(finished).defects == ()


def test_a_data_set_that_is_missing_is_noticed(finished: RunDir) -> None:
    shutil.rmtree(finished.data)
    assert verify(finished).defects == (f"{finished.data}: missing; `sdsd export` writes it",)


def test_nothing_to_verify_yet(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="not a run directory"):
        verify(RunDir(tmp_path))
