"""Help a writer of the demonstration: show the next request that nobody has answered yet.

    python scripts/write_demo.py 7                     print it, as a model would get it
    python scripts/write_demo.py 7 --answer FILE       add the text of FILE (-: standard input) as
                                                       the answer to it, and print the one after
    python scripts/write_demo.py 7 --begin             print the scenario and begin the file

The answers go into `src/sdsd/demo/replies/07.yaml`, a file to be read and edited by hand. If an
answer cannot be parsed, the next request is the second attempt at the same step, as in any run.
After the last answer the script prints what has come of the dialogue.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import textwrap
from pathlib import Path

import yaml

from sdsd import config as configuration
from sdsd.checks import dialogue_rules
from sdsd.models import hand_written
from sdsd.models.hand_written import FOLDER, Replies
from sdsd.pipeline.method import Method
from sdsd.pipeline.record import make_record
from sdsd.runs.inputs import Inputs, read_inputs
from sdsd.types import Completion, Record, Request, Scenario, StageUsage


class UnansweredError(Exception):
    """A request that nobody has answered."""

    def __init__(self, step: str, request: Request) -> None:
        super().__init__(step)
        self.step, self.request = step, request


class Answers:
    """An `Ask` that answers from a dialogue's replies."""

    def __init__(self, replies: dict[str, str]) -> None:
        self.usage: dict[str, StageUsage] = {}
        self.asked: list[str] = []
        self._replies = replies

    async def __call__(self, step: str, request: Request) -> Completion:
        if step not in self._replies:
            raise UnansweredError(step, request)
        self.asked.append(step)
        return Completion(self._replies[step])


def method_of(inputs: Inputs) -> Method:
    """Return the method of the demonstration, as a run finds it."""
    config = inputs.config
    assert config.pairs != "auto"
    return Method(
        config,
        inputs.prompts,
        inputs.strategies,
        config.dialogue.protocol,
        pairs=config.pairs,
        cards=inputs.catalogue.cards,
        shared_chat=True,
    )


def replay(inputs: Inputs, index: int, replies: dict[str, str]) -> tuple[Record, list[str]]:
    """Make the record of one dialogue from its replies; also return the steps that were asked.

    Raises `UnansweredError` at the first request without an answer.
    """
    answers = Answers(replies)
    record = asyncio.run(make_record(inputs.scenarios[index], answers, method_of(inputs)))
    return record, answers.asked


def path_of(index: int) -> Path:
    return FOLDER / "replies" / hand_written.file_name(index)


def written(index: int) -> dict[str, str]:
    """Return the answers of a dialogue so far."""
    path = path_of(index)
    text = path.read_text("utf-8") if path.exists() else ""
    return (yaml.safe_load(text) or {}).get("replies") or {} if text else {}


def begin(scenario: Scenario) -> None:
    """Write the head of a dialogue's file."""
    path = path_of(scenario.index)
    if path.exists():
        sys.exit(f"{path}: exists already; edit it")
    path.write_text(
        f"name: {scenario.subarea}\nscenario: {scenario.id}\noutcome: accepted\npairs: []\n"
        "replies:\n",
        "utf-8",
    )


def add(index: int, step: str, text: str) -> None:
    """Append an answer to a dialogue's file."""
    with path_of(index).open("a", encoding="utf-8") as file:
        file.write(f"  {step}: {block(text.strip())}\n")


def block(text: str) -> str:
    """Return a text as a YAML block: one paragraph is folded, so that it can be read in a file."""
    if " ".join(text.split()) == text:  # no line ends, no other white space
        lines, style = textwrap.wrap(text, 94, break_long_words=False, break_on_hyphens=False), ">-"
    else:
        lines, style = text.splitlines(), "|-"
    return "\n".join([style, *(f"    {line}".rstrip() for line in lines)])


def show_scenario(scenario: Scenario) -> None:
    print(f"dialogue {scenario.index}: {scenario.subarea} ({scenario.domain})")
    for number, principle in enumerate(scenario.principles):
        print(f"  {'target' if number == 0 else 'also  '}    {principle.id}: {principle.text}")
    print(f"  goal      {scenario.goal.text}")
    print(f"  strategy  {scenario.strategy}, {scenario.exchanges} exchanges")


def show_request(step: str, request: Request) -> None:
    print(f"\n=== {step} ({request.role}, {request.purpose}, {request.max_tokens} tokens)")
    for message in request.messages:
        print(f"\n--- {message.role}\n{message.content}")


def show_record(record: Record, intended: Replies, unused: list[str]) -> None:
    scenario = record.scenario
    print(f"\nfinished: {record.outcome} {record.rule}; pairs: {[p.kind for p in record.pairs]}")
    if record.failure:
        print(f"  at {record.failure.step}: {record.failure.cause}")
    if record.dialogue:
        about = (scenario.domain, scenario.subarea)
        for found in dialogue_rules.find(
            record.dialogue, record.plan, scenario.principles, about=about
        ):
            print(f"  turn {found.turn} breaks the rule `{found.rule}`")
    for revision in record.revisions:
        print(f"  revision: defect {revision.defect or 'none'}, warnings {revision.warnings}")
    kinds = tuple(pair.kind for pair in record.pairs)
    if (record.outcome, record.rule, kinds) != (intended.outcome, intended.rule, intended.pairs):
        print("  this differs from `outcome`, `rule` and `pairs` at the head of the file")
    if unused:
        print(f"  never asked: {', '.join(unused)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("index", type=int, help="the dialogue, from 0")
    parser.add_argument("--begin", action="store_true", help="begin the file of a dialogue")
    parser.add_argument("--answer", metavar="FILE", help="the answer to the next request")
    wanted = parser.parse_args()
    inputs = read_inputs(configuration.load(FOLDER / "config.yaml"))
    scenario = inputs.scenarios[wanted.index]
    if wanted.begin:
        begin(scenario)
    if wanted.answer:
        text = sys.stdin.read() if wanted.answer == "-" else Path(wanted.answer).read_text("utf-8")
        try:
            replay(inputs, wanted.index, written(wanted.index))
            sys.exit("the dialogue is finished; edit its file by hand")
        except UnansweredError as open_request:
            add(wanted.index, open_request.step, text)
    show_scenario(scenario)
    replies = written(wanted.index)
    try:
        record, asked = replay(inputs, wanted.index, replies)
    except UnansweredError as open_request:
        show_request(open_request.step, open_request.request)
        return
    intended = hand_written.read()[wanted.index]
    show_record(record, intended, sorted(set(replies) - set(asked)))


if __name__ == "__main__":
    main()
