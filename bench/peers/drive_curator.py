"""bespokelabs-curator: a round for each stage, one `curator.LLM` over a data set of dialogues.

Its own simulation of two agents runs one dialogue per object and does not scale to many. Rate
limits are set out of reach, and `max_concurrent_requests` to the allowed number in flight. Replies
cut at their length limit are accepted, as everywhere here (by default it would repeat them). Each
round begins with one empty request that looks for rate limits; it is not counted.

Telemetry is off (TELEMETRY_ENABLED=false); the hosted viewer is off by default. The tokenizer
vocabulary that it would download is replaced by the copy in its dependency litellm.

Resume: its cache, which is on by default, in the given directory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import measure

os.environ["TELEMETRY_ENABLED"] = "false"  # all are read when it is imported
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "true"

import litellm
from bespokelabs import curator
from datasets import Dataset
from workload import MODEL, STAGES, Messages, Row, Stage, due, messages, new_row, put

_VOCABULARIES = Path(litellm.__file__).parent / "litellm_core_utils" / "tokenizers"
_UNLIMITED = 10**9


class OneStage(curator.LLM):
    """One stage of all dialogues."""

    stage: Stage

    def prompt(self, row: Row) -> Messages:
        """Return the messages for the model."""
        return messages(self.stage, row)

    def parse(self, row: Row, text: str) -> Row:
        """Return the dialogue with the reply added."""
        return put(self.stage, row, text)


def llm(job: measure.Job, stage: Stage) -> OneStage:
    backend: dict[str, Any] = {
        "base_url": job.url,
        "api_key": "none",
        "max_concurrent_requests": job.open,
        "max_requests_per_minute": _UNLIMITED,
        "max_tokens_per_minute": _UNLIMITED,
        "invalid_finish_reasons": ["content_filter"],
    }
    made = OneStage(
        model_name=MODEL,
        backend="openai",
        backend_params=backend,
        generation_params={"max_tokens": stage.max_tokens, "temperature": stage.temperature},
    )
    made.stage = stage
    return made


def main() -> None:
    job = measure.job()
    os.environ["CURATOR_CACHE_DIR"] = str(job.state)
    os.environ["TIKTOKEN_CACHE_DIR"] = str(_VOCABULARIES)
    rows = [new_row(index) for index in range(job.n)]
    clock = measure.Clock()
    for stage in STAGES:
        asking = [row for row in rows if due(stage, row)]
        if asking:
            made = llm(job, stage)(Dataset.from_list(asking)).dataset.to_list()
            rows = sorted(
                [row for row in rows if not due(stage, row)] + made, key=lambda row: row["index"]
            )
    clock.stop(job, "bespokelabs-curator", rows)


if __name__ == "__main__":
    main()
