"""distilabel: a pipeline of tasks, in two ways that its own tasks show.

`loop` is one task whose `process` asks the model turn by turn for the whole batch, as Magpie does.
`chain` is a task for each of the eleven stages, each in its own process, connected by `>>`. A batch
is as large as the allowed number in flight. A task's LLM gathers the calls of a batch.

The log level is WARNING, because at the default level the HTTP client writes a line for each call.
It has no telemetry. `requests` is installed with it, which it imports without declaring.

Resume: `pipeline.run(use_cache=True)`, its default, with the cache in the given directory.
"""

# No postponed annotations here: distilabel reads `StepInput` in the signatures as it stands.

import os
from collections.abc import Iterator
from typing import Any

os.environ["DISTILABEL_LOG_LEVEL"] = "WARNING"

import measure
from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts, StepInput
from distilabel.steps.tasks import Task
from workload import MODEL, STAGES, Row, Stage, due, messages, new_row, put

BY_NAME = {stage.name: stage for stage in STAGES}


class DialogueTask(Task):
    """What both ways share: the column `dialogue` goes in and comes out with another turn."""

    @property
    def inputs(self) -> list[str]:
        return ["dialogue"]

    @property
    def outputs(self) -> list[str]:
        return ["dialogue", "model_name"]

    def format_input(self, input: dict[str, Any]) -> Any:  # noqa: A002
        return input["messages"]

    def format_output(self, output: str | None, input: dict[str, Any] | None = None) -> Any:  # noqa: A002
        return {"generation": output}

    def asked(self, stage: Stage, rows: list[Row]) -> list[Row]:
        """Return the rows after a stage; those in which it is due are requested in one batch."""
        asking = [k for k, row in enumerate(rows) if due(stage, row)]
        if not asking:
            return rows
        replies = self.llm.generate_outputs(
            inputs=[messages(stage, rows[k]) for k in asking],
            max_new_tokens=stage.max_tokens,
            temperature=stage.temperature,
        )
        rows = list(rows)
        for k, reply in zip(asking, replies, strict=True):
            rows[k] = put(stage, rows[k], reply["generations"][0] or "")
        return rows


class HoldDialogue(DialogueTask):
    """All stages, one after the other, for the whole batch."""

    def process(self, inputs: StepInput) -> Iterator[list[dict[str, Any]]]:
        rows = [line["dialogue"] for line in inputs]
        for stage in STAGES:
            rows = self.asked(stage, rows)
        yield [{"dialogue": row, "model_name": self.llm.model_name} for row in rows]


class OneStage(DialogueTask):
    """One stage for the whole batch."""

    stage: str

    def process(self, inputs: StepInput) -> Iterator[list[dict[str, Any]]]:
        rows = self.asked(BY_NAME[self.stage], [line["dialogue"] for line in inputs])
        yield [{"dialogue": row, "model_name": self.llm.model_name} for row in rows]


def pipeline(job: measure.Job) -> Pipeline:

    def llm() -> OpenAILLM:
        return OpenAILLM(model=MODEL, base_url=job.url, api_key="none", timeout=600)

    with Pipeline(name="dialogues", cache_dir=job.state) as made:
        rows = [{"dialogue": new_row(index)} for index in range(job.n)]
        last: Any = LoadDataFromDicts(name="load", data=rows, batch_size=job.open)
        if job.variant == "loop":
            last >> HoldDialogue(name="hold", llm=llm(), input_batch_size=job.open)
        else:
            for stage in STAGES:
                step = OneStage(
                    name=stage.name, stage=stage.name, llm=llm(), input_batch_size=job.open
                )
                last >> step
                last = step
    return made


def main() -> None:
    job = measure.job("loop", "chain")
    made = pipeline(job)
    clock = measure.Clock()
    distiset = made.run(use_cache=True)
    clock.stop(job, "distilabel", distiset["default"]["train"]["dialogue"])


if __name__ == "__main__":
    main()
