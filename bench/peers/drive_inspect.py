"""inspect_ai: one sample is one dialogue, run by a solver that calls `get_model().generate`.

`max_connections` and `max_samples` are set to the allowed number in flight, which switches its
adaptive concurrency off: the server's slots are known here. Everything else, its event log
included, has its default. It has no telemetry of its own.

Resume: `retry` passes the log of the run that died to `eval_retry`. `cache` evaluates again with
`generate(cache=True)`, which costs a file for each call even in a run that does not die.
"""

from __future__ import annotations

import os

import inspect_ai
import measure
from inspect_ai import Task, eval_retry, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog, list_eval_logs
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    get_model,
)
from inspect_ai.solver import Generate, Solver, TaskState, solver
from workload import MODEL, STAGES, Messages, due, messages, new_row, put

_MESSAGE: dict[str, type[ChatMessage]] = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
}


def typed(plain: Messages) -> list[ChatMessage]:
    """Return the messages as inspect_ai's classes."""
    return [_MESSAGE[message["role"]](content=message["content"]) for message in plain]


@solver
def hold(cache: bool) -> Solver:
    """Make the complete dialogue; the row stays in the sample's store."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        model = get_model()
        row = new_row(int(state.sample_id))
        for stage in STAGES:
            if due(stage, row):
                config = GenerateConfig(max_tokens=stage.max_tokens, temperature=stage.temperature)
                reply = await model.generate(
                    typed(messages(stage, row)), config=config, cache=cache
                )
                row = put(stage, row, reply.completion)
        state.store.set("row", row)
        return state

    return solve


@task
def dialogues(n: int, cache: bool) -> Task:
    samples = [Sample(input="dialogue", id=index) for index in range(n)]
    return Task(dataset=MemoryDataset(samples), solver=hold(cache))


def made(job: measure.Job) -> EvalLog:
    """Run or resume the evaluation, and return its log."""
    folder = str(job.state / "logs")
    begun = list_eval_logs(folder) if job.variant == "retry" else []
    if begun:
        (log,) = eval_retry(
            begun[0], max_samples=job.open, max_connections=job.open, display="none", log_dir=folder
        )
        return log
    (log,) = inspect_ai.eval(
        dialogues(job.n, job.variant == "cache"),
        model=f"openai-api/bench/{MODEL}",
        model_base_url=job.url,
        max_samples=job.open,
        max_connections=job.open,
        display="none",
        log_dir=folder,
    )
    return log


def main() -> None:
    job = measure.job("retry", "cache")
    os.environ["BENCH_API_KEY"] = "none"
    os.environ["BENCH_BASE_URL"] = job.url
    os.environ["INSPECT_CACHE_DIR"] = str(job.state / "cache")
    clock = measure.Clock()
    log = made(job)
    clock.stop(job, "inspect_ai", [sample.store["row"] for sample in log.samples or []])


if __name__ == "__main__":
    main()
