"""The exam: every judge answers for both replies, nothing is paid for twice, results are cached."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from sdsd.cli import display
from sdsd.config import Config, CriticConfig, load
from sdsd.errors import CatalogueError, ConfigError, RunDirError, Stopped
from sdsd.models.base import Capabilities
from sdsd.models.scripted import ScriptedModel
from sdsd.pipeline.prompts import load_prompt
from sdsd.reports.metrics.exam import ExamResult, Judge, JudgeResult, summarise
from sdsd.runs.events import Event, Examined
from sdsd.runs.exam import calibrations, chosen_method, exam_on, examine, key_of
from sdsd.runs.exam_cache import ExamCache
from sdsd.runs.inputs import read_inputs
from sdsd.runs.journal import Journal
from sdsd.runs.progress import Screen
from sdsd.runs.runner import run
from sdsd.runs.session import Needs, Session, open_session
from sdsd.runs.signals import Stop
from sdsd.runs.take_exam import Taken, take
from sdsd.scenarios import exam_items
from sdsd.scenarios.catalogue import PACKAGED
from sdsd.types import Principle, Turn
from tests.factories.examinee import Examinee
from tests.stand_ins.model_server import read_log, spawned

pytestmark = pytest.mark.e2e
CONFIG = load({"critique": {"precision": 0.8}})
SDSD = Path(sys.executable).with_name("sdsd")


def sat(out: Path, model: Examinee, *judges: str, n: int = 24, config: Config = CONFIG) -> Taken:
    cache = ExamCache(out / "cache")
    return take(config, n=n, judges=judges, out=out, models={"default": model}, cache=cache)


# -- judges --------------------------------------------------------------------------------


def test_all_judges_of_a_server_that_can_do_everything(tmp_path: Path) -> None:
    taken = sat(tmp_path / "exam", Examinee(skill=6.0), "all")
    result = taken.result
    assert list(result.judges) == [
        "verdict", "verdict:0", "verdict/defend", "contrast", "contrast:0", "contrast:1",
        "pairwise", "program",
    ]  # fmt: skip
    assert (result.n, result.of, result.precision) == (24, len(exam_items.load()), 0.8)
    for name, judged in result.judges.items():
        if name == "program":  # few of the items, or none
            continue
        assert (judged.overall.items, judged.failures) == (24, {})
        assert judged.overall.within is not None
        assert judged.overall.within.value > 0.7
        if name == "pairwise":
            assert (judged.overall.auc, judged.calibration) == (None, None)
            continue
        assert judged.overall.auc is not None
        assert judged.overall.auc.low > 0.5
        assert judged.calibration is not None
        assert judged.calibration.trusted
        assert judged.calibration.noise == (0.5 if "contrast" in name else 0.0)
        calls = 4 if "contrast" in name else 2
        assert judged.cost.calls == calls * 24
        assert judged.cost.prompt_tokens == 100 * calls * 24
        assert judged.cost.seconds == pytest.approx(0.5 * calls * 24)
    again = msgspec.json.decode((taken.path / "exam.json").read_bytes(), type=ExamResult)
    assert again == result
    assert (taken.path / "exam.html").exists()


def test_a_model_without_skill_is_not_trusted(tmp_path: Path) -> None:
    judged = sat(tmp_path, Examinee(skill=0.0), "contrast").result.judges["contrast"]
    assert judged.calibration is not None
    assert not judged.calibration.trusted


def test_examples_and_wording_are_those_of_the_name(tmp_path: Path) -> None:
    model = Examinee()
    sat(tmp_path, model, "contrast:1", "verdict:0", "verdict/defend:2", n=3)
    scored = [r for r in model.asked if r.given]
    assert {sum(m.role == "assistant" for m in r.messages) for r in scored} <= {1, 2, 3}
    asked = [r.messages[-1].content for r in model.asked if not r.given]
    shown = [text.count("An example from another conversation.") for text in asked]
    assert sorted(shown) == [0] * 6 + [2] * 6
    assert sum("best reason" in text for text in asked) == 6
    assert {r.role for r in model.asked} == {"critic"}


def test_the_default_is_what_the_server_supports(tmp_path: Path) -> None:
    able = sat(tmp_path / "a", Examinee(), n=2).result
    unable = sat(tmp_path / "b", Examinee(capabilities=Capabilities()), n=2).result
    assert (list(able.judges), list(unable.judges)) == (["verdict", "contrast"], ["verdict"])


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ("contrast", "cannot score given text"),
        ("guess", "unknown judge `guess`; name a critic of the configuration, verdict"),
        ("verdict:9", "unknown judge `verdict:9`"),
    ],
)
def test_a_judge_that_cannot_be(tmp_path: Path, judge: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sat(tmp_path, Examinee(capabilities=Capabilities()), judge)


def alarmed(turn: Turn, principle: Principle) -> float:
    """A user-defined critic, which fails on some replies."""
    if "e" not in turn.reply[-12:]:
        raise ValueError("no")
    return 0.9


def test_critics_of_the_configuration_take_the_exam_by_their_names(tmp_path: Path) -> None:
    critics = {
        "mine": {"use": f"{__name__}:alarmed"},
        "strict": {"wording": "stranger", "examples": 1},
    }
    model = Examinee()
    result = sat(tmp_path, model, config=load({"critique": {"critics": critics}})).result
    assert list(result.judges) == ["mine", "strict"]
    mine = result.judges["mine"]
    assert 0 < len(mine.failures) < 24
    assert mine.overall.items == 24 - len(mine.failures)
    assert all("critic `tests" in cause or "raised ValueError" in cause
               for cause in mine.failures.values())  # fmt: skip
    assert {r.role for r in model.asked} == {"critic/strict"}
    assert mine.key
    assert not result.judges["strict"].key  # a model of the caller's cannot be told from others


def test_a_judge_that_fails_on_an_item_is_counted(tmp_path: Path) -> None:
    model = Examinee()
    model.refuses = exam_items.sample(exam_items.load(), 24, 0)[3].pair.violates
    result = sat(tmp_path, model, "contrast", "verdict").result
    for judged in result.judges.values():
        assert list(judged.failures.values()) == ["HTTP 400"]
        assert judged.overall.items == 23


def test_a_program_answers_for_the_principles_that_it_can_decide(tmp_path: Path) -> None:
    model = Examinee(items=[])
    taken = take(CONFIG, n=9999, judges=["program"], out=tmp_path, models={"default": model})
    judged = taken.result.judges["program"]
    decidable = [item for item in exam_items.load() if item.principle.check]
    assert len(judged.answers) == len(decidable) > 20
    assert (judged.failures, model.asked, judged.model) == ({}, [], "program")
    assert judged.overall.auc is not None
    assert judged.overall.auc.value == 1.0


def test_a_users_own_items(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    lines = [
        {
            "principle": "The assistant should not flatter.",
            "user": f"My poem number {k}?",
            "satisfies": f"Line {k} limps.",
            "violates": f"Line {k} is divine.",
        }
        for k in range(5)
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    model = Examinee(items=exam_items.load(file))
    taken = take(CONFIG, items=file, judges=["contrast"], out=tmp_path / "out",
                 models={"default": model})  # fmt: skip
    assert (taken.result.n, taken.result.of) == (5, 5)
    assert {r.given for r in model.asked} == {x for d in lines for x in (d["satisfies"],
                                              d["violates"])}  # fmt: skip
    assert taken.result.judges["contrast"].overall.violated.precision is None  # one principle
    with pytest.raises(CatalogueError, match="no such file"):
        take(CONFIG, items=tmp_path / "none.jsonl", models={"default": model})


# -- nothing is paid for twice ---------------------------------------------------------------


def test_more_items_and_judges_continue_the_same_exam(tmp_path: Path) -> None:
    first = sat(tmp_path, Examinee(), "verdict", n=10).result
    model = Examinee()
    more = sat(tmp_path, model, "contrast", "verdict", n=20).result
    assert len(model.asked) == 20 * 4 + 10 * 2
    old = {a.item: a for a in first.judges["verdict"].answers}
    new = {a.item: a for a in more.judges["verdict"].answers}
    assert old.items() <= new.items()


def test_an_exam_that_was_stopped_says_how_far_it_came_and_continues(tmp_path: Path) -> None:
    seen: list[Examined] = []
    model = Examinee()

    class Impatient(Examinee):
        async def complete(self, request, seed, dialogue=0):  # type: ignore[no-untyped-def]
            if len(self.asked) == 30:
                os.kill(os.getpid(), signal.SIGINT)
            return await super().complete(request, seed, dialogue)

    with pytest.raises(Stopped, match=r"of 24 exam items \(interrupted\)"):
        sat(tmp_path, Impatient(), "verdict")
    with Journal(tmp_path / "journal.sqlite", readonly=True) as journal:
        kept = journal.answers()

    def on_event(event: Event) -> None:
        if isinstance(event, Examined):
            seen.append(event)

    take(CONFIG, n=24, judges=["verdict"], out=tmp_path, on_event=on_event,
         models={"default": model})  # fmt: skip
    assert kept + len(model.asked) == 48
    assert [event.done for event in seen] == list(range(1, 25))
    assert seen[-1].left == 0


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    run(n=1, out=tmp_path, models={"default": ScriptedModel()})
    with pytest.raises(RunDirError, match="is a run"):
        sat(tmp_path, Examinee())


def test_kill_9_at_any_moment_loses_and_repeats_nothing(tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "exam"
    env = {**os.environ, "SDSD_CACHE": str(tmp_path / "cache")}
    with spawned(log, latency=0.02) as url:
        command = [str(SDSD), "exam", "--url", url, "--model", "stand-in", "-n", "30", "--judge",
                   "verdict:0", "--judge", "pairwise", "-o", str(out), "--set",
                   "models.default.parallel=4"]  # fmt: skip
        for pause in (0.9, 1.1, 1.3):
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(pause)
            process.kill()
            process.wait()
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert ended.returncode == 0, ended.stderr
    result = msgspec.json.decode((out / "exam.json").read_bytes(), type=ExamResult)
    assert {name: len(j.answers) + len(j.failures) for name, j in result.judges.items()} == {
        "verdict:0": 30, "pairwise": 30,
    }  # fmt: skip
    with Journal(out / "journal.sqlite", readonly=True) as journal:
        answers = journal.answers()
    asked = [line for line in read_log(log) if line.event == "asked" and not line.probe]
    assert not result.judges["pairwise"].answers  # the stand-in says neither A nor B
    assert len(list((tmp_path / "cache" / "exams").iterdir())) == 1
    assert answers <= len(asked) <= answers + 3 * 4  # what was in flight at a kill is asked again
    with contextlib.suppress(FileNotFoundError):
        assert not list(out.glob(".exam*"))


@pytest.mark.engine
def test_the_embedded_engine_takes_the_exam(tmp_path: Path) -> None:
    config, cache = load({"model": "smollm2-135m"}), ExamCache(tmp_path / "cache")
    result = take(config, n=1, judges=["contrast:0"], out=tmp_path, cache=cache).result
    judged = result.judges["contrast:0"]
    (answer,) = judged.answers
    assert answer.satisfies != answer.violates
    assert answer.usage.calls == 4
    assert result.weights
    assert cache.find(judged.key, 1) == judged


# -- the exam of a run -----------------------------------------------------------------------


@contextlib.asynccontextmanager
async def session_of(
    folder: Path, config: Config, model: Examinee
) -> AsyncIterator[tuple[Session, Journal, Stop]]:
    stop = Stop()
    with Journal(folder / "journal.sqlite") as journal:
        needs = Needs(config, journal, folder, lambda event: None, stop, models={"default": model})
        async with open_session(needs) as session:
            yield session, journal, stop


async def test_a_run_chooses_its_method_by_the_exam_and_reads_its_critic_by_it(
    tmp_path: Path,
) -> None:
    inputs = read_inputs(CONFIG)
    async with session_of(tmp_path, CONFIG, Examinee(skill=5.0)) as (session, journal, stop):
        result = await examine(session, journal, inputs, 20, stop, cache=ExamCache(tmp_path))
    assert list(result.judges) == ["verdict", "contrast"]
    found = calibrations(result, CONFIG)
    assert list(found) == [""]
    assert found[""] == result.judges[chosen_method(result)].calibration


async def test_critics_of_a_run_are_read_by_their_names(tmp_path: Path) -> None:
    config = load({"critique": {"critics": {"a": {}, "b": {"method": "contrast"}}}})
    inputs = read_inputs(config)
    async with session_of(tmp_path, config, Examinee()) as (session, journal, stop):
        result = await examine(session, journal, inputs, 12, stop, cache=ExamCache(tmp_path))
    assert list(calibrations(result, config)) == ["a", "b"]


async def test_a_run_whose_principles_have_no_examples_takes_an_exam_without(
    tmp_path: Path,
) -> None:
    inputs = read_inputs(CONFIG)
    bare = replace(inputs, catalogue=replace(inputs.catalogue, cards={}))
    model = Examinee()
    async with session_of(tmp_path, CONFIG, model) as (session, journal, stop):
        await examine(session, journal, bare, 3, stop, cache=ExamCache(tmp_path))
    assert all("An example from another" not in r.messages[-1].content for r in model.asked)


# -- the cache -------------------------------------------------------------------------------


def judged(n: int, key: str = "k", precision: float = 0.8) -> JudgeResult:
    from tests.reports.test_exam_figures import answers

    rows = answers([(0.0, 1.0), (1.0, 0.5), (-2.0, 1.5)] * (n // 3))
    return summarise(Judge(), "m", rows, {}, precision=precision, key=key)


def test_the_cache_returns_what_has_the_key_and_enough_items(tmp_path: Path) -> None:
    cache = ExamCache(tmp_path / "exams", tmp_path / "packaged")
    assert cache.find("k", 1) is None
    cache.keep(judged(30))
    assert cache.find("k", 30) == judged(30)
    assert cache.find("k", 31) is None
    assert cache.find("other", 1) is None
    cache.keep(judged(12))  # does not replace the larger one
    assert cache.find("k", 30) is not None
    cache.keep(judged(12, key=""))
    assert cache.find("", 1) is None
    assert len(list((tmp_path / "exams").iterdir())) == 1


def test_a_damaged_cache_counts_as_empty(tmp_path: Path) -> None:
    cache = ExamCache(tmp_path, tmp_path / "packaged")
    (tmp_path / "k.json").write_text("{")
    (tmp_path / "packaged").mkdir()
    (tmp_path / "packaged" / "default.json").write_text("[]")
    assert cache.find("k", 1) is None
    cache.keep(judged(12))
    assert cache.find("k", 1) is not None


def test_packaged_results_come_first(tmp_path: Path) -> None:
    taken = sat(tmp_path / "exam", Examinee(), "contrast").result
    (one,) = taken.judges.values()
    packaged = replace(taken, judges={"contrast": replace(one, key="k")})
    (tmp_path / "packaged").mkdir()
    (tmp_path / "packaged" / "default.json").write_bytes(msgspec.json.encode(packaged))
    cache = ExamCache(tmp_path / "exams", tmp_path / "packaged")
    assert cache.find("k", 24) == packaged.judges["contrast"]
    assert cache.find("k", 25) is None


async def test_a_known_model_is_asked_once_for_all_runs_and_read_at_their_precision(
    tmp_path: Path,
) -> None:
    cache = ExamCache(tmp_path / "exams", tmp_path / "none")
    served = {"models": {"default": {"model": "examinee", "base_url": "http://a/v1"}}}
    asked = []
    for number, wanted in enumerate((0.8, 0.95)):
        config = load({**served, "critique": {"precision": wanted}})
        (folder := tmp_path / str(number)).mkdir()
        model = Examinee()
        async with session_of(folder, config, model) as (session, journal, stop):
            result = await examine(session, journal, read_inputs(config), 20, stop, cache=cache)
        asked.append(len(model.asked))
        assert result.precision == wanted
        judge = result.judges["contrast"]
        assert judge == summarise(judge.judge, judge.model, judge.answers, {}, precision=wanted,
                                  noise=0.5, key=judge.key)  # fmt: skip
    assert asked == [20 * 6, 0]


async def test_a_run_looks_up_what_sdsd_exam_has_found(tmp_path: Path) -> None:
    tree = {"models": {"default": {"model": "examinee", "base_url": "http://a/v1"}}}
    config, cache = load(tree), ExamCache(tmp_path / "exams", tmp_path / "packaged")
    taken = await asyncio.to_thread(
        take, config, n=12, out=tmp_path / "exam", models={"default": Examinee()}, cache=cache
    )
    (tmp_path / "packaged").mkdir()
    (tmp_path / "packaged" / "examinee.json").write_bytes((taken.path / "exam.json").read_bytes())
    by_user = ExamCache(tmp_path / "exams", tmp_path / "none")
    by_package = ExamCache(tmp_path / "none", tmp_path / "packaged")
    for number, place in enumerate((by_user, by_package)):
        (folder := tmp_path / str(number)).mkdir()
        model = Examinee()
        async with session_of(folder, config, model) as (session, journal, stop):
            found = await examine(session, journal, read_inputs(config), 12, stop, cache=place)
        assert model.asked == []
        assert found.judges == taken.result.judges


async def test_the_key_depends_on_all_that_the_answers_follow_from(tmp_path: Path) -> None:
    base = {"model": "examinee", "base_url": "http://a/v1"}

    async def key(folder: str, tree: Mapping[str, object], judge: Judge, skip: int = 0) -> str:
        config = load(tree)
        (tmp_path / folder).mkdir()
        async with session_of(tmp_path / folder, config, Examinee()) as (session, *_):
            items = exam_items.load()[skip:]
            exam = exam_on(items, 4, {"j": judge}, read_inputs(config))
            return key_of(exam, "j", session)

    one = {"models": {"default": base}}
    contrast, verdict = Judge(critic=CriticConfig(method="contrast")), Judge()
    keys = [
        await key("a", one, contrast),
        await key("b", one, verdict),
        await key("c", one, contrast, skip=1),
        await key("d", {"models": {"default": {**base, "base_url": "http://b/v1"}}}, contrast),
        await key("e", {**one, "critique": {"max_tokens": 50}}, verdict),
        await key("f", one, Judge("pairwise", contrast.critic)),
    ]
    assert len(set(keys)) == 6
    assert await key("g", {**one, "critique": {"max_tokens": 50}}, contrast) == keys[0]
    assert await key("h", {"models": {"default": {"model": "examinee"}}}, contrast) == ""


# -- what is printed -------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_judge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = sat(tmp_path, Examinee(skill=0.0), "contrast", "pairwise")
    display.examined(taken, json=False)
    printed = " ".join(capsys.readouterr().out.split())
    for said in ("examinee: 24 of", "contrast 0.", "pairwise - 0.", "cannot verify", "exam.html"):
        assert said in printed
    display.examined(taken, json=True)
    assert msgspec.json.decode(capsys.readouterr().out, type=ExamResult) == taken.result


def test_progress_says_how_much_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(live=False)
    screen.on_event(Examined(3, 10, 75.0))
    screen.on_event(Examined(10, 10))
    assert capsys.readouterr().err.splitlines() == [
        "about 1 min 15 s left: exam: 3/10 items",
        "exam: 10/10 items",
    ]


def test_the_packaged_results_are_of_the_prompts_and_items_of_today() -> None:
    """An edit of either makes a first run wait for an exam of its own: take the exam again."""
    prompts = [load_prompt(name).digest for name in ("review", "directed", "pairwise")]
    for file in (PACKAGED / "exam_results").glob("*.json"):
        result = msgspec.json.decode(file.read_bytes(), type=ExamResult)
        assert result.prompts == hashlib.sha256("\n".join(prompts).encode()).hexdigest()
        assert result.items == exam_items.digest(exam_items.load())
