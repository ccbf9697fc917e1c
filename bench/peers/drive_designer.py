"""NVIDIA Data Designer: a row is a dialogue, a text column is a call.

A text column sends a system prompt and one user message, so a turn cannot be requested with the
conversation as messages; the conversation is written out in the user message, as in its recipes.
Plan, critique and revision are requested as everywhere; its templates split the plan by line and
read the verdict's JSON.

Telemetry is off (NEMO_TELEMETRY_ENABLED=false), and so is the metrics port. When a data set is done
it counts tokens, for which it would download a vocabulary; it gets one of single bytes instead.
`max_parallel_requests` is the allowed number in flight; the default is four.

Resume: `ResumeMode.ALWAYS` keeps complete row groups, of 1000 rows by default; `groups` makes
groups of 10 rows, three of which are in progress at once, as by default.
"""

from __future__ import annotations

import os

import measure

os.environ["NEMO_TELEMETRY_ENABLED"] = "false"  # read when it is imported

import data_designer.config as dd
import pandas as pd
import tiktoken
from data_designer.interface import DataDesigner, ResumeMode
from tiktoken import registry
from workload import EXCHANGES, MODEL, STAGES, Row, Stage, scenario, sections

NAME = "dialogues"
GROUP = 10
"""Rows in a group, for the variant with small groups."""

PERSON = "{{ plan.split('\\n')[0] }}"
STEPS = "\n".join(f"{k}. {{{{ plan.split('\\n')[{k}] }}}}" for k in range(1, EXCHANGES + 1))
SLIP = f"{{{{ plan.split('\\n')[{EXCHANGES + 1}] }}}}"


def byte_vocabulary() -> tiktoken.Encoding:
    """A tokenizer that needs no file."""
    ranks = {bytes([value]): value for value in range(256)}
    return tiktoken.Encoding("cl100k_base", pat_str=r"\S+|\s+", mergeable_ranks=ranks,
                             special_tokens={})  # fmt: skip


def filled(name: str, section: str, **values: str) -> str:
    """Return a section of a prompt file as a template; placeholders become columns or `values`."""
    text = sections(name)[section]
    for slot, value in values.items():
        text = text.replace("{{" + slot + "}}", value)
    return text


def spoken(turns: int) -> str:
    """Return the template of the first `turns` turns as text."""
    names = [stage.name for stage in STAGES if stage.exchange][:turns]
    return "\n\n".join(
        f"{('USER', 'AGENT')[k % 2]}: {{{{ {name} }}}}" for k, name in enumerate(names)
    )


def texts(stage: Stage) -> tuple[str, str]:
    """Return the templates of a stage: the system prompt and the user message."""
    if stage.kind == "plan":
        steps = ", ".join(f"a STEP {k} line" for k in range(1, EXCHANGES + 1))
        user = filled("plan", "user", principles="1. {{ principle }}", steps=steps)
        return filled("plan", "system"), user
    if stage.exchange:
        return turn_texts(stage)
    before, last = spoken(2 * EXCHANGES - 1), f"{{{{ agent_{EXCHANGES} }}}}"
    case = filled("review", "case", conversation=before, reply=last)
    if stage.kind == "critique":
        return filled("review", "system"), f"{case}\n\n{filled('review', 'judge_json')}"
    fault = '- "{{ principle }}" {{ critique.reason }} Offending words: "{{ critique.quote }}"'
    task = filled("review", "revise", faults=fault)
    return filled("review", "system"), f"{case}\n\n{task}"


def turn_texts(stage: Stage) -> tuple[str, str]:
    step = STEPS.split("\n")[stage.exchange - 1]
    outline = {"persona": PERSON, "steps": STEPS}
    if stage.kind == "user":
        system = filled("roleplay", "user_system", **outline)
        opening, cue = sections("roleplay")["user_start"], filled("roleplay", "user_cue", step=step)
        before = "\n\n".join(filter(None, (opening, spoken(2 * (stage.exchange - 1)))))
        return system, f"{before}\n\n{cue}"
    system = filled("roleplay", "agent_system", **outline)
    cue = filled("roleplay", "agent_cue", step=step)
    if stage.exchange == EXCHANGES:
        cue = filled("roleplay", "final_cue", planned_violation=SLIP, principles="{{ principle }}")
    return system, f"{spoken(2 * stage.exchange - 1)}\n\n{cue}"


def plan_of(job: measure.Job) -> dd.DataDesignerConfigBuilder:
    models = [
        dd.ModelConfig(
            alias=stage.name,
            model=MODEL,
            provider="bench",
            inference_parameters=dd.ChatCompletionInferenceParams(
                max_tokens=stage.max_tokens,
                temperature=stage.temperature,
                max_parallel_requests=job.open,
            ),
            skip_health_check=True,
        )
        for stage in STAGES
    ]
    builder = dd.DataDesignerConfigBuilder(model_configs=models)
    seeds = pd.DataFrame([{"index": k, **scenario(k)._asdict()} for k in range(job.n)])
    builder.with_seed_dataset(dd.DataFrameSeedSource(df=seeds))
    for stage in STAGES:
        system, user = texts(stage)
        skip = None
        if stage.kind == "revision":
            skip = dd.SkipConfig(when="{{ critique.violated != true }}", value="")
        builder.add_column(
            dd.LLMTextColumnConfig(
                name=stage.name,
                model_alias=stage.name,
                system_prompt=system,
                prompt=user,
                skip=skip,
            )
        )
    return builder


def row_of(record: Row) -> Row:
    """Return a record of the data set as a dialogue."""
    said = [record[stage.name] for stage in STAGES if stage.exchange]
    return {"index": record["index"], "plan": record["plan"], "said": said,
            "verdict": record["critique"], "revision": record["revision"]}  # fmt: skip


def main() -> None:
    job = measure.job("whole", "groups")
    registry.ENCODINGS["cl100k_base"] = byte_vocabulary()
    designer = DataDesigner(
        artifact_path=job.state,
        model_providers=[
            dd.ModelProvider(name="bench", endpoint=job.url, provider_type="openai", api_key="none")
        ],
    )
    rows = {"buffer_size": GROUP} if job.variant == "groups" else {}
    designer.set_run_config(dd.RunConfig(otel_metrics_port=None, **rows))
    builder = plan_of(job)
    begun = (job.state / NAME).exists()
    resume = ResumeMode.ALWAYS if begun else ResumeMode.NEVER
    clock = measure.Clock()
    made = designer.create(builder, num_records=job.n, dataset_name=NAME, resume=resume)
    records = made.load_dataset().to_dict("records")
    clock.stop(job, "data-designer", [row_of(record) for record in records])


if __name__ == "__main__":
    main()
