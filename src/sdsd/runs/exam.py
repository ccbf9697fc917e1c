"""The exam: judges are put through labelled pairs of replies, before anybody relies on them.

A judge answers for each of an item's two replies as it would in a run: by the same stage, prompts
and middleware, through a journal. So an exam that was cut off resumes, and no answer is paid for
twice. What the answers are worth is worked out in `sdsd.reports.metrics.exam`.

`examine` is the exam of a run's own critics, at its first start; `sdsd.runs.take_exam` is the
command `sdsd exam`.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

import sdsd
from sdsd import plugins
from sdsd.checks.decided import decide
from sdsd.config import Config, CriticConfig, JudgeMethod
from sdsd.config.manifest import nameable
from sdsd.errors import ConfigError, PluginError, StageFailed, Stopped
from sdsd.files import now
from sdsd.models.base import Capabilities
from sdsd.models.fleet import Fleet
from sdsd.pipeline.calibration import evidence_of
from sdsd.pipeline.critique import Panel, judge
from sdsd.pipeline.pairwise import violates_more
from sdsd.pipeline.prompts import load_prompt
from sdsd.pipeline.versions import VERSIONS
from sdsd.reports.metrics.calibration_fit import Answer
from sdsd.reports.metrics.exam import (
    ExamResult,
    Judge,
    JudgeResult,
    at_precision,
    best,
    summarise,
)
from sdsd.runs.ask import Ask
from sdsd.runs.events import Examined, OnEvent
from sdsd.runs.exam_cache import ExamCache
from sdsd.runs.inputs import Inputs
from sdsd.runs.journal import Journal
from sdsd.runs.scheduler import drive, each
from sdsd.runs.session import Session
from sdsd.runs.signals import Stop
from sdsd.scenarios import exam_items
from sdsd.scenarios.exam_items import LABELS, Item, Label
from sdsd.text.prompt_files import Prompt
from sdsd.types import AskFn, Calibration, Card, Role, StageUsage, Verdict

STAGE = "exam"
DEFAULT_ITEMS = 48
ALL = "all"
PROGRAM = "program"
_BUILT_IN = ("verdict", "verdict:0", "verdict/defend", "contrast", "contrast:0", "contrast:1",
             "pairwise")  # fmt: skip
_NAME = re.compile(r"(verdict|contrast)(?:/(plain|defend|stranger))?(?::([0-8]))?")
_SURE = 1e-4


class Exam(Struct, frozen=True):
    """What is put to whom."""

    config: Config
    prompts: Mapping[str, Prompt]
    """By name: `review` and `directed` of the run, and `pairwise`."""
    judges: Mapping[str, Judge]
    """By name. A critic of the configuration has its name there; all others are the model of
    `roles.critic`, asked in different ways."""
    items: tuple[Item, ...]
    """The sample that is asked about."""
    of: int
    """How many items it was drawn from."""
    pool: str
    """Digest of those items."""

    def role(self, name: str) -> Role:
        """Return the role whose model answers for a judge."""
        return f"critic/{name}" if name in self.config.critique.critics else "critic"

    def panel(self, name: str, item: Item, schema: bool) -> Panel:
        """Return the panel that consists of one judge, who reports what it finds uncalibrated."""
        own = name if name in self.config.critique.critics else ""
        critique = replace(self.config.critique, critics={own: self.judges[name].critic})
        return Panel(
            critique,
            self.prompts["review"],
            self.config.attempts,
            schema,
            directed=self.prompts["directed"],
            cards={item.principle.id: Card(examples=item.shown)},
        )


class Sheet:
    """What one judge has answered so far."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.failures: dict[str, str] = {}


# -- asking ------------------------------------------------------------------------------------


async def sit(
    exam: Exam, session: Session, journal: Journal, stop: Stop, on_event: OnEvent
) -> dict[str, Sheet]:
    """Return what every judge answers; a judge that fails on an item is counted, not fatal.

    One item is put to all judges before another begins, as many items at once as the servers accept
    requests. Raises `Stopped` if the run is asked to stop.
    """
    sheets = {name: Sheet() for name in exam.judges}
    fleet, n = session.fleet, len(exam.items)
    done = asked = 0
    began = time.monotonic()

    async def work(index: int) -> None:
        nonlocal done, asked
        item = exam.items[index]
        scenario = f"{STAGE}/{item.id}"
        recorded = journal.load(scenario)
        new = False
        for name, sheet in sheets.items():
            if exam.judges[name].kind == "program" and not item.principle.check:
                continue
            ask = Ask(scenario, exam.config.seed, recorded, session.send, session.names, index)
            try:
                answer = await _answer(exam, name, item, ask, session)
                sheet.answers[item.id] = replace(answer, usage=ask.usage.get(STAGE, StageUsage()))
            except StageFailed as failed:
                sheet.failures[item.id] = failed.cause
            new = new or not ask.asked <= recorded.keys()
        done, asked = done + 1, asked + new
        left = (time.monotonic() - began) / asked * (n - done) if asked else 0.0
        on_event(Examined(done, n, left))

    stopping = stop.requested
    await drive(each(range(n)), work, fleet.closed, lambda: fleet.capacity, fleet.changed, stopping)
    if done < n:
        raise Stopped(
            f"stopped after {done} of {n} exam items ({stop.reason}); recorded answers are kept, "
            "and the same command continues",
            stop.reason,
        )
    return sheets


async def _answer(exam: Exam, name: str, item: Item, ask: AskFn, session: Session) -> Answer:
    """Return a judge's answer on one item. Raises `StageFailed`."""
    chosen, step = exam.judges[name], f"{STAGE}/{name}"
    if chosen.kind == "pairwise":
        replies = item.pair.satisfies, item.pair.violates
        share = await violates_more(
            item.conversation, replies, item.principle, ask, step, exam.prompts["pairwise"],
            exam.config.attempts,
        )  # fmt: skip
        share = min(max(share, _SURE), 1 - _SURE)
        half = math.log(share / (1 - share)) / 2
        return _row(item, {"satisfies": -half, "violates": half})
    if chosen.kind == "program":
        return _row(item, {label: _decided(item, label, step) for label in LABELS})
    schema = session.fleet.models["critic"].capabilities.schema
    panel = exam.panel(name, item, schema)
    principle = replace(item.principle, check="")  # a program would answer for the judge
    verdicts: dict[Label, Verdict] = {}
    for label in LABELS:
        critique = await judge(item.turn(label), (principle,), ask, f"{step}/{label}", panel, "any")
        verdicts[label] = critique.votes[0]
    evidence = {label: evidence_of(verdict) for label, verdict in verdicts.items()}
    satisfies, violates = (
        verdict.confirmed or verdict.signal == "contrast" for verdict in verdicts.values()
    )
    return _row(item, evidence, (satisfies, violates))


def _decided(item: Item, label: Label, step: str) -> float:
    """Return 1 for a reply that violates the principle by its check, and -1 for one that does not.

    Raises `StageFailed` if the check does not say.
    """
    turn = item.turn(label)
    try:
        found = decide(item.principle.check, turn.conversation, turn.reply)
    except PluginError as error:
        raise StageFailed(step, str(error)) from None
    if found is None:
        raise StageFailed(step, "undecided by the check")
    return 1.0 if found.violated else -1.0


def _row(
    item: Item, evidence: Mapping[Label, float], claims: tuple[bool, bool] = (True, True)
) -> Answer:
    return Answer(
        item=item.id,
        principle=item.principle.id,
        category=item.category,
        subtle=item.subtle,
        satisfies=round(evidence["satisfies"], 4),
        violates=round(evidence["violates"], 4),
        claims=claims,
    )


# -- judges ------------------------------------------------------------------------------------


def judges_of(
    names: Sequence[str], config: Config, fleet: Fleet, items: Sequence[Item] = ()
) -> dict[str, Judge]:
    """Return the judges with these names.

    A name is that of a critic of the configuration, or says how to ask the critic's model:
    `verdict` or `contrast`, then a wording (`/defend`) and a number of example pairs (`:0`) if they
    are not the configuration's; or `pairwise`. `program` is the check of an item's principle. `all`
    stands for everything that server and items support. Raises `ConfigError` for other names, and
    for a contrast that the server does not support.
    """
    critics, can = config.critique.critics, fleet.models["critic"].capabilities
    if ALL in names:
        able = (name for name in _BUILT_IN if can.scoring or not name.startswith("contrast"))
        names = (*critics, *(name for name in able if name not in critics))
        if PROGRAM not in critics and any(item.principle.check for item in items):
            names = (*names, PROGRAM)
    if not names:
        names = tuple(critics) or ("verdict", *(("contrast",) if can.scoring else ()))
    found = {name: _judge(name, config) for name in names}
    for name, chosen in found.items():
        role = f"critic/{name}" if name in critics else "critic"
        if chosen.critic.method == "contrast" and not (
            chosen.critic.use or fleet.models[role].capabilities.scoring
        ):
            raise ConfigError(
                f"judge `{name}`: the server of `{fleet.models[role].name}` cannot score given "
                "text, which the likelihood contrast needs; name other judges (`--judge verdict`)"
            )
    return found


def _judge(name: str, config: Config) -> Judge:
    critics = config.critique.critics
    if name in critics:
        return Judge("critic", critics[name])
    if name == PROGRAM:
        return Judge("program", CriticConfig(examples=0))
    if name == "pairwise":
        return Judge("pairwise", CriticConfig(examples=0))
    if (said := _NAME.fullmatch(name)) is None:
        raise ConfigError(
            f"unknown judge `{name}`; name a critic of the configuration"
            + (f" ({', '.join(critics)})" if critics else "")
            + f", {', '.join(_BUILT_IN)}, {PROGRAM} or {ALL}"
        )
    method, wording, examples = said.groups()
    shown = config.critique.examples if examples is None else int(examples)
    asked = {"method": method, "examples": shown, "wording": wording or "plain"}
    return Judge("critic", msgspec.convert(asked, CriticConfig))


# -- results -----------------------------------------------------------------------------------


def exam_on(items: Sequence[Item], n: int, judges: Mapping[str, Judge], inputs: Inputs) -> Exam:
    """Return the exam that puts a sample of `n` items to some judges."""
    config = inputs.config
    prompts = {name: inputs.prompts[name] for name in ("review", "directed")}
    prompts["pairwise"] = load_prompt("pairwise")
    chosen = exam_items.sample(items, n, config.seed)
    return Exam(config, prompts, judges, chosen, len(items), exam_items.digest(items))


async def results(
    exam: Exam, session: Session, journal: Journal, stop: Stop, on_event: OnEvent
) -> dict[str, JudgeResult]:
    """Put the exam, and return what it says of every judge. Raises `Stopped`."""
    sheets = await sit(exam, session, journal, stop, on_event)
    return {
        name: summarise(
            exam.judges[name],
            _answered_by(exam, name, session),
            [sheet.answers[item.id] for item in exam.items if item.id in sheet.answers],
            sheet.failures,
            precision=exam.config.critique.precision,
            noise=_noise(exam, name, session),
            key=key_of(exam, name, session),
        )
        for name, sheet in sheets.items()
    }


def exam_result(exam: Exam, judges: Mapping[str, JudgeResult], session: Session) -> ExamResult:
    """Return the result with what it was made from."""
    critic = session.names["critic"]
    return ExamResult(
        sdsd=sdsd.__version__,
        made=now(),
        model=nameable(critic),
        weights=session.fleet.weights.get(critic, ""),
        prompts=_digest(prompt.digest for prompt in exam.prompts.values()),
        items=exam.pool,
        n=len(exam.items),
        of=exam.of,
        seed=exam.config.seed,
        precision=exam.config.critique.precision,
        judges=dict(judges),
    )


def _answered_by(exam: Exam, name: str, session: Session) -> str:
    """Return the name of the model or function that answers for a judge."""
    program = exam.judges[name].kind == "program"
    return PROGRAM if program else nameable(session.names[exam.role(name)])


def _noise(exam: Exam, name: str, session: Session) -> float:
    """Return how much a judge's evidence differs between two tries: a contrast has two scores."""
    critic, role = exam.judges[name].critic, exam.role(name)
    if critic.method != "contrast" or critic.use:
        return 0.0
    return 2 * session.fleet.models[role].capabilities.noise


def key_of(exam: Exam, name: str, session: Session) -> str:
    """Return the digest of everything that a judge's answers follow from; empty if its model cannot
    be told from others of its name."""
    chosen, role, config = exam.judges[name], exam.role(name), exam.config
    if chosen.kind == "program":
        return ""
    if chosen.critic.use:
        served = plugins.version(plugins.resolve(chosen.critic.use, "critics"))
        asked: object = None
    else:
        model = config.model_for(role)
        served = session.fleet.weights.get(model.model) or next(iter(model.urls), "")
        critique, can = config.critique, session.fleet.models[role].capabilities
        answers = (critique.max_tokens, critique.temperature, config.attempts, can.schema)
        asked = [model.extra_body, None if chosen.critic.method == "contrast" else answers]
    if not served:
        return ""
    used = ("pairwise",) if chosen.kind == "pairwise" else ("review", "directed")
    if chosen.critic.method == "contrast":
        used = ("directed",)
    prompts = [exam.prompts[prompt].digest for prompt in used]
    stages = [VERSIONS["critique"], VERSIONS["parsing"]]
    spec = replace(chosen.critic, model="", weight=1.0)
    parts = (session.names[role], served, asked, prompts, stages, exam.pool, chosen.kind, spec)
    return _digest(msgspec.json.encode(part).decode() for part in parts)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


# -- the exam of a run ---------------------------------------------------------------------------


async def examine(
    session: Session,
    journal: Journal,
    inputs: Inputs,
    n: int,
    stop: Stop,
    on_event: OnEvent = lambda event: None,
    cache: ExamCache | None = None,
) -> ExamResult:
    """Return the exam of a run's critics on `n` packaged items, from the cache where it is there.

    Judges are named after the critics of the configuration, or `verdict` and `contrast` for the
    ways in which the single critic may judge. Call it before the manifest is written, and keep
    `chosen_method` and `calibrations` there. Raises `Stopped`.
    """
    can = session.fleet.models["critic"].capabilities
    exam = exam_on(exam_items.load(), n, _candidates(inputs, can), inputs)
    cache, known = cache or ExamCache(), dict[str, JudgeResult]()
    for name in exam.judges:
        found = cache.find(key_of(exam, name, session), len(exam.items))
        if found is not None:
            known[name] = at_precision(found, inputs.config.critique.precision)
    missing = {name: judge for name, judge in exam.judges.items() if name not in known}
    if missing:
        made = await results(replace(exam, judges=missing), session, journal, stop, on_event)
        for result in made.values():
            cache.keep(result)
        known |= made
    return exam_result(exam, {name: known[name] for name in exam.judges}, session)


def _candidates(inputs: Inputs, can: Capabilities) -> dict[str, Judge]:
    """Return the critics of a run, or the ways in which its single critic may judge.

    Where no principle has examples, the exam shows none either: it must be like the run.
    """
    critique = inputs.config.critique
    critics = dict(critique.critics)
    if not critics:
        able: tuple[JudgeMethod, ...] = ("verdict", "contrast") if can.scoring else ("verdict",)
        ways = able if critique.method == "auto" else (critique.method,)
        critics = {way: CriticConfig(method=way, examples=critique.examples) for way in ways}
    if not any(card.examples for card in inputs.catalogue.cards.values()):
        critics = {name: replace(critic, examples=0) for name, critic in critics.items()}
    return {name: Judge("critic", critic) for name, critic in critics.items()}


def chosen_method(result: ExamResult) -> JudgeMethod:
    """Return the way in which a run's single critic should judge: the one that did better."""
    ways = {name: r for name, r in result.judges.items() if name in ("verdict", "contrast")}
    return "contrast" if best(ways) == "contrast" else "verdict"


def calibrations(result: ExamResult, config: Config) -> dict[str, Calibration]:
    """Return how to read the critics of a run, by their names in a `Panel`."""
    critics = config.critique.critics
    names = {name: name for name in critics} or {"": chosen_method(result)}
    found = {name: result.judges[judge].calibration for name, judge in names.items()}
    return {name: calibration for name, calibration in found.items() if calibration is not None}


def summary(name: str, result: JudgeResult) -> str:
    """Return a line on how a judge did."""
    auc = result.overall.auc
    if auc is None:
        return f"exam: {name}: no answers"
    line = f"exam: {name}: AUC {auc.value:.2f} ({auc.low:.2f} to {auc.high:.2f})"
    calibration = result.calibration
    if calibration is None or calibration.can_verify:
        return line
    if calibration.trusted:
        return f"{line}: too little for the wanted precision, so its pairs are unverified"
    return f"{line}: no better than chance, so its pairs are unverified"
