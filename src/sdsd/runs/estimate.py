"""Estimate what a run will cost, before anything is spent.

A run that has begun is extrapolated from its dialogues so far. For a new one some of its scenarios
are rehearsed: the real stages with the real prompts, and a scripted model whose replies have the
usual lengths. Tokens are counted as four characters each. A violation is found in about a third of
the dialogues, or in half of the replies that are told to violate; a real model may differ by a
factor of two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct
from msgspec.structs import replace

from sdsd.config import Config
from sdsd.models.fleet import addresses, protocols
from sdsd.models.scripted import CHATML, ScriptedModel, small_world
from sdsd.pipeline.method import Method
from sdsd.pipeline.record import make_record
from sdsd.reports.money import money
from sdsd.runs.ask import Ask
from sdsd.runs.directory import RunDir
from sdsd.runs.inputs import Inputs, inputs_of, rows_of, sourced, start_of
from sdsd.runs.journal import Journal, stage_of
from sdsd.runs.middleware import Call
from sdsd.runs.rounds import quota_of
from sdsd.runs.runner import EXAM_ITEMS, judge_method, pair_kinds
from sdsd.runs.session import in_loop
from sdsd.scenarios.existing_scenarios import SourceScenarios
from sdsd.scenarios.existing_store import store_rows
from sdsd.types import Answer, Completion, Request, Usage

SAMPLE = 30
"""Scenarios that are rehearsed, spread over the whole run."""
_EACH = 4
"""Dialogues per verified pair, roughly, where targets count pairs."""
_USUAL = {"planner": 150, "user": 45, "agent": 90, "critic": 60, "reviser": 90}
"""Tokens of a reply by role, roughly, over small and large models."""


class Estimate(Struct, frozen=True):
    """What the remaining dialogues will cost."""

    left: int
    """Dialogues."""
    basis: str
    """What the figures are derived from."""
    usage: list[Usage]
    """Calls and tokens by stage, role and model."""
    money: float
    """In the currency of the prices; 0 where no model has one."""

    @property
    def calls(self) -> int:
        return sum(u.calls for u in self.usage)

    @property
    def prompt_tokens(self) -> int:
        """Tokens that models read, including those from their caches."""
        return sum(u.prompt_tokens for u in self.usage)

    @property
    def completion_tokens(self) -> int:
        return sum(u.completion_tokens for u in self.usage)


def estimate(config: Config, path: Path) -> Estimate:
    """Estimate what is left of the run in the directory `path`, or of a new one there."""
    rundir = RunDir(path)
    done, so_far = 0, list[Usage]()
    if rundir.manifest() is not None:
        rundir.check(config)
        with Journal(rundir.journal, readonly=True) as journal:
            done, so_far = journal.finished(), journal.usage()
    inputs = inputs_of(rundir, config)
    with ExitStack() as opened:
        source = _source(inputs, rundir, opened)
        return _estimate(inputs, source, done, so_far)


def _source(inputs: Inputs, rundir: RunDir, opened: ExitStack) -> SourceScenarios | None:
    """Return the rows that the run starts from: its own copy, or a temporary one."""
    if not inputs.config.source.path:
        return None
    if rundir.source.exists():
        return sourced(inputs, rundir)
    aside = opened.enter_context(TemporaryDirectory(prefix="sdsd-"))
    kept = store_rows(rows_of(inputs.config.source), Path(aside) / rundir.source.name)
    return SourceScenarios(kept, inputs.scenarios, inputs.catalogue)


def _estimate(
    inputs: Inputs, source: SourceScenarios | None, done: int, so_far: Sequence[Usage]
) -> Estimate:
    config = inputs.config
    n = config.n if source is None else min(config.n or len(source), len(source))
    if config.targets.on:  # at most n, and about this many for each pair
        wanted = sum(quota_of(config.targets, inputs.scenarios).wanted.values())
        n = min(n or wanted * _EACH, wanted * _EACH)
    left = max(0, n - done)
    if done:
        basis = f"the {done} dialogues that this run has made"
        usage = _scaled(so_far, left / done)
    else:
        sample = [i * n // SAMPLE for i in range(SAMPLE)] if n > SAMPLE else None
        indexes = sample or range(n)
        method = _likely_method(inputs)
        rehearsed = in_loop(_rehearsed(inputs, method, indexes, source)) if indexes else []
        usage = _scaled(rehearsed, n / max(1, len(indexes)))
        given = "" if source is None else " from the source"
        basis = f"a rehearsal of {len(indexes)} dialogues{given} by `{method.protocol}`"
        if "contrast" in method.pairs:
            basis += " with `contrast` pairs"
        exam = config.critique.exam
        if items := EXAM_ITEMS if exam is None else exam:
            basis += f", without the critic's exam of {items} items, whose result may be at hand"
    return Estimate(left, basis, usage, money(usage, config))


def _scaled(usage: Iterable[Usage], factor: float) -> list[Usage]:
    return [
        replace(
            u,
            calls=round(u.calls * factor),
            prompt_tokens=round(u.prompt_tokens * factor),
            cached_tokens=round(u.cached_tokens * factor),
            completion_tokens=round(u.completion_tokens * factor),
            seconds=u.seconds * factor,
        )
        for u in usage
    ]


def _likely_method(inputs: Inputs) -> Method:
    """Return how the dialogues will be made if the servers can do what such servers usually can.

    Given text is scored by the engines that this program starts; few other servers do.
    """
    config = inputs.config
    critic = config.model_for("critic")
    scoring = bool(critic.launch) or not (critic.backend or addresses(critic))
    judge = judge_method(config, scoring=scoring)
    return Method(
        replace(config, critique=replace(config.critique, method=judge)),
        inputs.prompts,
        inputs.strategies,
        protocols(config)[0],
        CHATML,
        schema=True,
        pairs=pair_kinds(config, judge),
        cards=inputs.catalogue.cards,
    )


async def _rehearsed(
    inputs: Inputs, method: Method, indexes: Iterable[int], source: SourceScenarios | None
) -> list[Usage]:
    """Return the cost of some scenarios, assuming replies of the usual lengths."""
    config = inputs.config
    models: dict[str, str] = {role: config.model_for(role).model for role in config.role_models}
    models |= {f"critic/{name}": c.use for name, c in config.critique.critics.items() if c.use}
    model = ScriptedModel(_usual)
    sums: dict[tuple[str, str, str], Counter[str]] = {}

    async def send(call: Call) -> Answer:
        answer = await model.complete(call.request, call.seed)
        if isinstance(answer, Completion):
            role = call.request.role
            counts = sums.setdefault((stage_of(call.step), role, models[role]), Counter())
            counts["calls"] += 1
            counts["prompt_tokens"] += answer.prompt_tokens
            counts["completion_tokens"] += answer.completion_tokens
        return answer

    for index in indexes:
        scenario = (inputs.scenarios if source is None else source)[index]
        ask = Ask(scenario.id, config.seed, {}, send, models, index)
        await make_record(scenario, ask, method, start_of(scenario, source))
    return [
        Usage(*key, c["calls"], c["prompt_tokens"], 0, c["completion_tokens"], 0.0)
        for key, c in sorted(sums.items())
    ]


def _usual(request: Request, seed: int) -> str:
    """Return a reply of the small world, padded to the usual length."""
    text = small_world(request, seed)
    speaker = "user" if request.purpose == "last_message" else request.role.partition("/")[0]
    usual = min(_USUAL[speaker], request.max_tokens)
    missing = 4 * usual - len(text)
    if missing <= 0 or request.max_tokens <= 16:  # a self-check is short
        return text
    words = "".join(f" {seed + k} and so on" for k in range(missing // 10))  # in no loop
    padding = words[: missing - 2] + "."
    if request.role.startswith("critic") and text.endswith("}"):
        return text.replace('"reason": "', f'"reason": "{padding.strip()} ', 1)
    if request.role == "planner":
        lines = text.split("\n")
        each = len(padding) // len(lines)
        return "\n".join(line + padding[:each] for line in lines)
    return text + padding
