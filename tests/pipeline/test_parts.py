"""Parts of a user's own, each named in a configuration: a run with them resumes and verifies."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from sdsd import Run, ScriptedModel, run
from sdsd.errors import ConfigError, PluginError, StageFailed
from sdsd.pipeline.local_critic import LocalCritic, ask_for_verdict
from sdsd.runs.directory import RunDir
from sdsd.runs.journal import Journal
from sdsd.runs.verify import verify
from sdsd.types import Completion, Failure, Principle, Record, Refusal, Request, Turn, Verdict

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).parents[2] / "examples" / "parts"
HONEST = Principle("honest", "The assistant should be honest.", "family", "category")
TURN = Turn((), "Just trust me.")


def records(folder: Path, yaml: str, n: int = 12) -> list[Record]:
    """Make a run in `folder` with the parts of `examples/parts`; make half of it twice."""
    for part in EXAMPLES.glob("*.py"):
        shutil.copy(part, folder)
    (folder / "my.yaml").write_text(yaml)
    models = {"default": ScriptedModel()}
    for size in (n // 2, n):
        run(folder / "my.yaml", n=size, out=folder / "run", models=models)
    replay = verify(RunDir(folder / "run"))
    assert not replay.defects
    with Journal(RunDir(folder / "run").journal, readonly=True) as journal:
        return list(journal.records())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_function_is_a_critic(folder: Path) -> None:
    use = 'critique: {critics: {trust: {use: "keyword_critic:blind_trust"}}}\n'
    made = records(folder, use)
    judged = [record for record in made if record.critique and record.dialogue]
    assert len(judged) == len(made)
    for record in judged:
        assert record.dialogue is not None
        assert record.critique is not None
        pushy = "trust me" in record.dialogue.last_reply
        for verdict in record.critique.votes:  # a program decides some principles by itself
            assert (verdict.confirmed, verdict.probability) == (pushy, 0.6 if pushy else 0.0)
    assert {record.outcome for record in made} == {"accepted", "filtered"}
    assert all(record.pairs for record in made if record.outcome == "accepted")


def test_a_function_votes_beside_a_model(folder: Path) -> None:
    panel = 'critique: {critics: {trust: {use: "keyword_critic:blind_trust"}, model: {}}}\n'
    made = records(folder, panel)
    critics = {v.critic for record in made if record.critique for v in record.critique.votes}
    assert critics == {"trust", "model"}


def test_a_protocol_is_a_function(folder: Path) -> None:
    made = records(folder, 'dialogue: {protocol: "one_question:one_question"}\n')
    dialogues = [record.dialogue for record in made if record.dialogue]
    assert len(dialogues) == len(made)
    assert {(d.protocol, d.exchanges) for d in dialogues} == {("one_question", 1)}


def test_a_pipeline_is_a_function(folder: Path) -> None:
    made = records(folder, 'pipeline: "critique_only:critique_only"\n')
    assert {record.outcome for record in made} == {"filtered"}
    assert {record.rule for record in made} == {"no_violation", "not_revised"}
    assert all(record.extra["words"] > 0 for record in made)


def test_a_part_that_has_changed_is_named(folder: Path) -> None:
    records(folder, 'critique: {critics: {trust: {use: "keyword_critic:blind_trust"}}}\n', 4)
    rundir = RunDir(folder / "run")
    manifest = rundir.manifest()
    assert manifest is not None
    assert manifest.parts.keys() == {"keyword_critic:blind_trust"}
    rundir.remember(replace(manifest, parts={"keyword_critic:blind_trust": "0123456789abcdef"}))
    (warning,) = verify(rundir).warnings
    said = "`keyword_critic:blind_trust` has changed since this run began (version 0123456789ab"
    assert warning.startswith(said)


def test_a_function_decides_a_principle(folder: Path) -> None:
    (folder / "principles.yaml").write_text(
        "- id: no-pushing\n  text: The assistant should not push.\n  check: trusting:blind_trust\n"
    )
    (folder / "trusting.py").write_text(
        "def blind_trust(conversation, reply):\n    return 'trust me' in reply and 'trust me'\n"
    )
    one = "scenarios: {principles: [1, 1]}\n"
    made = records(folder, f"catalogue: {{principles: principles.yaml}}\n{one}")
    critiques = [record.critique for record in made if record.dialogue]
    assert critiques
    for record in made:
        if record.dialogue and record.critique:
            (verdict,) = record.critique.verdicts
            assert verdict.signal == "program"
            assert verdict.violated is ("trust me" in record.dialogue.last_reply)
    manifest = RunDir(folder / "run").manifest()
    assert manifest is not None
    assert manifest.parts.keys() == {"trusting:blind_trust"}


# -- what local critics may return, and how they fail ----------------------------------------


async def verdict(critic: LocalCritic) -> Verdict:
    async def ask(step: str, request: Request) -> Completion:
        answer = await critic.complete(request, 0)
        if isinstance(answer, Refusal):
            raise StageFailed(step, answer.cause, answer.raw, answer.kind)
        return answer

    return await ask_for_verdict(TURN, HONEST, ask, "critique/1/x", "x")


def critic(folder: Path, body: str, name: str) -> LocalCritic:
    (folder / f"{name}.py").write_text(f"from sdsd.types import Verdict\n{body}\n")
    return LocalCritic(f"{name}:critic")


async def test_a_critic_may_return_a_verdict_whose_quotation_is_checked(folder: Path) -> None:
    said = "def critic(turn, principle): return Verdict('', True, 'pushy', {!r}, 'high')"
    for name, quote, grounded in (("v1", "trust me", True), ("v2", "see nobody", False)):
        found = await verdict(critic(folder, said.format(quote), name))
        assert found == Verdict("honest", True, "pushy", quote, "high", grounded, critic="x")


async def test_a_critic_may_be_async_or_a_class(folder: Path) -> None:
    asynchronous = "async def critic(turn, principle): return 0.9"
    assert (await verdict(critic(folder, asynchronous, "c1"))).confirmed
    stateful = (
        "class critic:\n"
        "    def __init__(self): self.limit = 0.2\n"
        "    def __call__(self, turn, principle): return self.limit"
    )
    assert (await verdict(critic(folder, stateful, "c2"))).probability == 0.2
    awaitable = "async def later(): return 0.9\ndef critic(turn, principle): return later()"
    assert (await verdict(critic(folder, awaitable, "c3"))).confirmed


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def critic(turn, principle): return 1 / 0", "raised ZeroDivisionError: division by zero"),
        ("def critic(turn, principle): return 7", "a probability is between 0 and 1, not 7"),
        ("def critic(turn, principle): return 'yes'", "returned 'yes'; return a probability"),
        (
            "def critic(turn, principle): return None",
            "returned None; return a probability or a `Verdict`",
        ),
        ("def critic(turn, principle): raise SystemExit(3)", "raised SystemExit: 3"),
        (
            "import asyncio\nasync def critic(turn, principle): raise asyncio.CancelledError",
            "raised CancelledError",
        ),
        ("def critic(t, p): return Verdict('', True, '\\ud800')", "surrogates not allowed"),
        ("def critic(t, p): return Verdict('', True, object())", "type object is unsupported"),
    ],
)
async def test_a_critic_that_fails_fails_the_dialogue(folder: Path, body: str, said: str) -> None:
    with pytest.raises(StageFailed, match="critic `bad") as failed:
        await verdict(critic(folder, body, f"bad{abs(hash(body))}"))
    assert said in str(failed.value)


BAD_PARTS = """
from sdsd.errors import StageFailed
from sdsd.types import Dialogue, Message

async def raising(task):
    raise KeyError("oh")

async def nothing(task):
    return None

async def one_sided(task):
    return Dialogue((Message("user", "Hello?"),), "one_sided", "completed", self_flagged=False)

async def asking_twice(task):
    for _ in range(2):
        await task.ask("turn/1/agent", task.request("agent", "agent_turn", []))

async def pipeline_raising(scenario, ask, method, start):
    return 1 / 0

async def pipeline_without_a_record(scenario, ask, method, start):
    return scenario

async def failing(scenario, ask, method, start):
    raise StageFailed("answer", "the model refused", "no")
"""


@pytest.fixture
def bad_parts(folder: Path) -> Path:
    (folder / "bad_parts.py").write_text(BAD_PARTS)
    return folder


@pytest.mark.parametrize(
    ("key", "name", "said"),
    [
        ("dialogue.protocol", "raising", "failed on 00000.*KeyError: 'oh' .bad_parts.py, line 6"),
        ("dialogue.protocol", "nothing", "returned a value of type `NoneType`; return a `Dialogue"),
        ("dialogue.protocol", "one_sided", "roles user; they have to alternate, begin with"),
        ("dialogue.protocol", "asking_twice", "step `turn/1/agent` asked twice"),
        ("pipeline", "pipeline_raising", "failed on 00000.*ZeroDivisionError"),
        ("pipeline", "pipeline_without_a_record", "`Scenario`; return a `Record`"),
    ],
)
def test_a_part_that_breaks_its_contract_stops_the_run_by_its_name(
    bad_parts: Path, key: str, name: str, said: str
) -> None:
    keys: dict[str, Any] = {"n": 2, key: f"bad_parts:{name}"}
    with pytest.raises(PluginError, match=f"`bad_parts:{name}` .*{said}"):
        run(out=bad_parts / "run", models={"default": ScriptedModel()}, **keys)


def test_a_stage_that_fails_in_a_pipeline_fails_its_dialogue(bad_parts: Path) -> None:
    keys: dict[str, Any] = {"n": 2, "pipeline": "bad_parts:failing"}
    made = run(out=bad_parts / "run", models={"default": ScriptedModel()}, **keys)
    failures = [record.failure for record in made]
    assert failures == [Failure("answer", "the model refused", "no")] * 2
    assert made.verify().defects == ()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"dialogue.protocol": "duet"},
            "`dialogue.protocol`: `duet` is not one of the protocols: auto,",
        ),
        ({"pipeline": "nowhere:x"}, "`pipeline`: `nowhere:x` cannot be imported"),
        (
            {"critique.critics": {"a": {"use": "json:no"}}},
            "`critique.critics.a.use`: `json:no` cannot be",
        ),
        (
            {"critique.critics": {"a": {"use": "json:dumps", "model": "default"}}},
            "has both `use` and `model`",
        ),
    ],
)
def test_a_part_that_is_not_there_is_an_error_before_anything_is_made(
    folder: Path, keys: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        run(out=folder / "run", models={"default": ScriptedModel()}, **keys)
    assert not (folder / "run").exists()


def test_a_finished_run_can_be_read_where_its_parts_are_missing(folder: Path) -> None:
    part = folder / "gone_tomorrow.py"
    part.write_text("def critic(turn, principle): return 0.9\n")
    keys: dict[str, Any] = {"n": 4, "critique.critics": {"a": {"use": "gone_tomorrow:critic"}}}
    own = folder / "principles.yaml"  # the critic's alone: a program decides some packaged ones
    own.write_text("[{text: The assistant should be honest., id: honest}]")
    keys |= {"catalogue.principles": str(own), "scenarios.principles": [1, 1]}
    made = run(out=folder / "run", models={"default": ScriptedModel()}, **keys)
    part.unlink()
    del sys.modules["gone_tomorrow"]
    opened = Run.open(made.path)
    assert (opened.status().done, opened[0].rule) == (4, "not_repaired")
    with pytest.raises(ConfigError, match="`gone_tomorrow:critic` cannot be imported"):
        run(made.path, n=6, models={"default": ScriptedModel()})


def test_a_pipeline_that_is_missing_is_one_defect(folder: Path) -> None:
    body = "return Record(given[0], 'filtered', 'rule')"
    made = made_by(folder, "pipeline", "gone_pipeline", body)
    (folder / "gone_pipeline.py").unlink()
    del sys.modules["gone_pipeline"]
    (defect,) = made.verify().defects
    assert defect.startswith("`gone_pipeline:make` cannot be imported: ModuleNotFoundError")


def test_something_that_cannot_be_called_is_no_critic(folder: Path) -> None:
    (folder / "value.py").write_text("critic = 3\n")
    with pytest.raises(PluginError, match="is not callable"):
        LocalCritic("value:critic")
    with pytest.raises(PluginError, match=r"failed on creation: TypeError: .* 'limit'"):
        critic(folder, "class critic:\n    def __init__(self, limit): ...", "needy")


# -- pipelines and protocols that break their contract ------------------------------------------

MAKING = (
    "import asyncio\nfrom msgspec.structs import replace\nfrom sdsd.errors import StageFailed\n"
    "from sdsd.types import *\n"
)


def made_by(folder: Path, key: str, name: str, body: str) -> Run:
    (folder / f"{name}.py").write_text(f"{MAKING}async def make(*given): {body}\n")
    keys: dict[str, Any] = {"n": 2, key: f"{name}:make"}
    return run(out=folder / "run", models={"default": ScriptedModel()}, **keys)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('boo')", "ValueError: boo"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("raise asyncio.CancelledError", "CancelledError"),
        ("return None", "returned a value of type `NoneType`; return a `Record`"),
        ("return Record(replace(given[0], id='x'), 'filtered', 'r')", "must have the scenario"),
        ("return Record(given[0], 'filtered', 'r', extra={'a': {1, 2}})", "written as JSON"),
        ("return Record(given[0], 'filtered', 'r', extra={'a': float('nan')})", "written as JSON"),
        ("return Record(given[0], 'great')", "Invalid enum value 'great'"),
        ("return Record(given[0], 'accepted')", "an accepted record needs a dialogue"),
        ("return Record(given[0], 'filtered')", "a filtered record needs a `rule`"),
        ("return Record(given[0], 'failed')", "a failed record needs a `failure`"),
    ],
)
def test_a_pipeline_that_breaks_its_contract_is_named(folder: Path, body: str, said: str) -> None:
    name = f"pipe{abs(hash(body))}"
    with pytest.raises(PluginError, match=f"pipeline `{name}:make` (failed|returned)") as caught:
        made_by(folder, "pipeline", name, body)
    assert said in str(caught.value)
    assert not (folder / "run").exists()


def test_a_stage_that_fails_in_a_pipeline_fails_the_dialogue(folder: Path) -> None:
    made = made_by(folder, "pipeline", "refused", "raise StageFailed('answer', 'refused', 'raw')")
    assert made.status().outcomes == {"failed": 2}
    assert made[0].failure == Failure("answer", "refused", "raw")
    assert not made.verify().defects


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('boo')", "ValueError: boo"),
        ("return None", "returned a value of type `NoneType`"),
        ("return Dialogue((), 'x', 'completed', False)", "returned messages with the roles none"),
        (
            "return Dialogue((Message('user', 'a'), Message('assistant', 5)), 'x', 'completed', 0)",
            "cannot be written as JSON",
        ),
    ],
)
def test_a_protocol_that_breaks_its_contract_is_named(folder: Path, body: str, said: str) -> None:
    name = f"proto{abs(hash(body))}"
    with pytest.raises(PluginError, match=f"protocol `{name}:make` (failed|returned)") as caught:
        made_by(folder, "dialogue.protocol", name, body)
    assert said in str(caught.value)


@pytest.mark.parametrize("key", ["pipeline", "dialogue.protocol"])
@pytest.mark.parametrize("body", ["make = 3", "class make: ..."])
def test_what_cannot_be_called_is_no_part(folder: Path, key: str, body: str) -> None:
    name = f"uncallable{abs(hash(body))}"
    (folder / f"{name}.py").write_text(body)
    keys: dict[str, Any] = {key: f"{name}:make"}
    with pytest.raises(ConfigError, match=f"`{key}`: `{name}:make` is of type .* cannot be called"):
        run(out=folder / "run", models={"default": ScriptedModel()}, **keys)
