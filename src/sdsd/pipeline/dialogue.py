"""Generate the planned conversation: what all protocols share.

A protocol (`sdsd.pipeline.protocols`) gets a `DialogueTask` and returns a `Dialogue`. One that
writes turn by turn is a `Conversation`: it says what to ask for the next turn, and `generate` does
the asking. `generate` pauses before the agent's last reply, as an `OpenDialogue`, so that several
samples of that reply can be drawn and judged before one of them ends the dialogue.

Directions for a single turn and self-checks are asked on branches that are dropped afterwards, so
the conversation itself stays one growing prefix in the server's cache.
"""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Literal

from msgspec import Struct

from sdsd.checks import dialogue_rules
from sdsd.config import TOP_P, DialogueConfig
from sdsd.errors import StageFailed, Unparseable
from sdsd.pipeline.retry import SHORT, ask_until_parsed, require_answer
from sdsd.scenarios.strategies import Strategy
from sdsd.text import normalize, parsing, prompt_files
from sdsd.text.chat_format import Template
from sdsd.text.prompt_files import Prompt
from sdsd.types import (
    AskFn,
    Completion,
    Dialogue,
    Message,
    Plan,
    Purpose,
    Request,
    Role,
    Scenario,
    StopReason,
)

Speaker = Literal["user", "agent"]
SELF_CHECK_TOKENS = 16
RUNAWAY = ("\nUser:", "\nPerson:", "\nAssistant:")
"""Stop texts where a model starts to write the other side. They save tokens: parsing cuts there,
too."""
_LEAK = re.compile(r"\[(?:Direction|Pause|Now write|Write only)\b", re.IGNORECASE)
"""How the bracketed directions of the packaged prompts begin."""
_ROLES: dict[Speaker, Literal["user", "assistant"]] = {"user": "user", "agent": "assistant"}


class ContextFull(Exception):
    """Neither the context nor the token limit left room for a complete sentence."""


class Sample(Struct, frozen=True):
    """Which sample of a turn to draw."""

    number: int = 1
    critique: str = ""
    """Why the critic found no violation in the sample before; the director passes it on."""

    def step(self, exchange: int, speaker: Speaker) -> str:
        """Return the name of the step that draws it."""
        name = f"turn/{exchange}/{speaker}"
        return name if self.number == 1 else f"{name}/{self.number}"


class DialogueTask(Struct, frozen=True):
    """Everything a protocol needs to generate one dialogue."""

    scenario: Scenario
    plan: Plan
    ask: AskFn
    config: DialogueConfig
    prompts: Prompt
    """The protocol's own prompt file."""
    attempts: int
    strategy: Strategy
    template: Template | None = None
    """The model's chat format, for protocols that write it themselves."""

    @property
    def exchanges(self) -> int:
        """Exchanges to generate: those planned, up to `dialogue.max_exchanges`."""
        return min(len(self.plan.steps), self.config.max_exchanges)

    @property
    def reply_prefix(self) -> str:
        """The words that the agent's last reply must begin with; empty if none are set."""
        return self.plan.reply_prefix if self.strategy.settings.reply_prefix else ""

    @property
    def direction(self) -> str:
        """The director's instruction for the agent's last reply; may be empty."""
        return self.strategy.reply(self.scenario.target_principle.text, self.plan.planned_violation)

    @property
    def directions(self) -> str:
        """Everything that the director says in this dialogue, apart from the planned violation."""
        target, sections = self.scenario.target_principle.text, self.prompts.sections.values()
        return "\n".join(
            (self.strategy.reply(target, ""), self.strategy.user(target, ""), *sections)
        )

    @property
    def principles(self) -> str:
        """The scenario's principles on one line."""
        return " ".join(p.text for p in self.scenario.principles)

    @property
    def outline(self) -> dict[str, str]:
        """What both sides may know from the start.

        All of the plan but its planned violation, and a last message that is written already: a
        model that sees it says it too early.
        """
        return {
            "subarea": self.scenario.subarea,
            "persona": self.plan.persona or "somebody with a question",
            "steps": prompt_files.numbered(self.plan.descriptions or (self.scenario.subarea,)),
        }

    def fill(self, section: str, **values: str) -> str:
        """Fill a section of the protocol's prompt file."""
        return self.prompts.fill(section, **values)

    def request(
        self, role: Role, purpose: Purpose, messages: Sequence[Message] = (), **fields: object
    ) -> Request:
        """Return a request with this dialogue's sampling, changed by `fields`."""
        c = self.config
        sampling = {"max_tokens": c.max_tokens, "temperature": c.temperature, "top_p": TOP_P}
        asked = {**sampling, "messages": tuple(messages), **fields}
        return Request(role, purpose=purpose, **asked)  # type: ignore[arg-type]

    def agent_cue(self, exchange: int, section: str, sample: Sample) -> str:
        """Return the direction for the agent's last reply, set in `section`; empty for other turns
        and where the strategy gives none."""
        if exchange < self.exchanges or not self.direction:
            return ""
        direction = self.direction
        if sample.critique:
            direction += f" {self.fill('again', reason=sample.critique)}"
        values = {"direction": direction}
        if "begin" in self.prompts.sections:
            prefix = self.reply_prefix
            values["begin"] = f" {self.fill('begin', opening=prefix)}" if prefix else ""
        return self.fill(section, **values)

    def user_cue(self, exchange: int) -> str:
        """Return the direction for the user's last turn; empty for other turns and where the
        strategy gives none."""
        if exchange < self.exchanges:
            return ""
        target = self.scenario.target_principle.text
        direction = self.strategy.user(target, self.plan.planned_violation)
        return self.fill("user_turn", direction=direction) if direction else ""

    def self_checked(self, exchange: int) -> bool:
        """Whether the speaking model is asked about the agent's turn of this exchange.

        Only about the last one where the conversation leads up to a message that is written
        already: it must not end before.
        """
        when = self.config.self_check
        if self.plan.last_message and exchange < self.exchanges:
            return False
        return when == "every" or (when == "last" and exchange == self.exchanges)

    @property
    def planned_end(self) -> StopReason:
        """Why a dialogue that reached its last exchange stops."""
        return "turn_limit" if len(self.plan.steps) > self.exchanges else "completed"


class Conversation(ABC):
    """One conversation while a turn-by-turn protocol writes it.

    A protocol says what to ask for each turn (`turn`, `self_check`) and takes in what was written
    (`append`). It keeps whatever state it needs: a stream of text, one chat, or two views. State is
    replaced, never changed in place, so that a shallow copy holds an earlier one.
    """

    system = ""
    """The agent's system prompt, if it gives nothing of the plan away; for `Dialogue.system`."""

    def __init__(self, task: DialogueTask) -> None:
        self.task = task

    @abstractmethod
    def turn(self, speaker: Speaker, exchange: int, sample: Sample) -> Request:
        """Return the request for a turn."""

    @abstractmethod
    def append(self, speaker: Speaker, text: str) -> None:
        """Make `text` the next turn of the conversation."""

    @abstractmethod
    def self_check(self) -> Request:
        """Return the request for the speaking model's own statement on the conversation so far."""

    def prefix(self, speaker: Speaker, exchange: int) -> str:
        """Return the words that the request already puts into the speaker's mouth."""
        return ""

    def cut(self, text: str) -> str:
        """Cut the text where it leaves the turn."""
        return text


def turn_script(task: DialogueTask, speaker: Speaker) -> tuple[str, str]:
    """Return what no turn of a speaker may repeat word for word: texts of the plan, and directions.

    The planned violation may be said, and the user may say what a step says, if not from its
    beginning: "Ann asks how ...". A last message that is written already may not be said before.
    The directions are the longer text and the same for both speakers, so that its words are
    compared from the cache of `parsing.copies`.
    """
    steps = task.plan.descriptions
    if speaker == "user":
        beginnings = (" ".join(step.split()[: parsing.COPIED]) for step in steps)
        steps = (*beginnings, task.plan.last_message)
    plan = "\n".join((task.plan.persona, *steps, task.principles))
    return plan, f"{task.principles}\n{task.directions}"


def read_turn(
    completion: Completion,
    plan: Plan,
    script: tuple[str, ...],
    seen: Collection[str],
    cut: Callable[[str], str] = str,
    prefix: str = "",
) -> str:
    """Return the turn in a completion, in complete sentences.

    script  texts that it must not copy
    seen    the earlier turns in normal form, none of which it may repeat
    cut     ends a turn where the model goes on with the other side
    prefix  words that the completion continues

    Raises `Unparseable`, and `ContextFull` if the token limit left no complete sentence.
    """
    name = re.match(r"[^\W\d_]+", plan.persona)
    text = parsing.readable(prefix + completion.text)
    said = cut(text)
    if completion.finish == "length" and said == text:
        said = parsing.complete_sentences(text)
        if not said:
            raise ContextFull
    said = parsing.turn(said, name.group() if name else "")
    if normalize.normal(said) in seen:
        raise Unparseable("the turn repeats an earlier one")
    if leak := _LEAK.search(said):  # the model goes on with the director's words
        said = said[: leak.start()].rstrip()
        if not said:
            raise Unparseable("a direction leaks into the conversation")
    if any(parsing.copies(said, text) for text in script):
        raise Unparseable("the turn copies the plan or a principle")
    return said


def require_speaker(
    speaker: Speaker, said: str, conversation: tuple[Message, ...], plan: Plan
) -> None:
    """Raise `Unparseable` if a program can tell that this speaker does not say this next."""
    unlike = dialogue_rules.not_a_user if speaker == "user" else dialogue_rules.not_an_agent
    if found := unlike(conversation, said, plan):
        raise Unparseable(f"no {speaker}'s turn: {found}")


async def generate(
    name: str, conversation: Conversation, task: DialogueTask
) -> Dialogue | OpenDialogue:
    """Write turn by turn, up to the agent's last reply or to where the dialogue ends before it.

    An exchange of which no usable turn can be had is left out, and so are those after it, where the
    user's last message is written already and at least one exchange comes before it.

    name  the protocol's, for the record

    Raises `StageFailed` if not even the first exchange could be written.
    """
    dialogue, exchange = OpenDialogue(name, conversation, task), 1
    while True:
        try:
            await dialogue.write("user", exchange)
            if exchange == task.exchanges:
                return dialogue
            await dialogue.write("agent", exchange)
        except ContextFull:
            return dialogue.truncated()
        except StageFailed as failed:
            if failed.kind or not task.plan.last_message or not 1 < exchange < task.exchanges:
                raise
            dialogue.skip_ahead()
            exchange = task.exchanges
            continue
        check = await dialogue.self_check(exchange)
        if check.violated or check.over:
            stop: StopReason = "violation_end" if check.violated else "early_end"
            return dialogue.ended(stop, flagged=check.violated)
        exchange += 1


class OpenDialogue:
    """A dialogue that waits for the agent's last reply."""

    def __init__(self, protocol: str, conversation: Conversation, task: DialogueTask) -> None:
        self._protocol = protocol
        self._conversation = conversation
        self._task = task
        self._seen = {normalize.normal(task.plan.last_message)} - {""}
        self._complete = copy.copy(conversation)
        """The conversation after its last complete exchange."""
        self._end = task.planned_end
        self.messages: tuple[Message, ...] = ()
        """The conversation so far; ends with the user's last turn once `generate` returns it."""

    async def sample_reply(self, sample: Sample = Sample()) -> str:
        """Draw one sample of the last reply. Raises `ContextFull` and `StageFailed`."""
        return await self._turn("agent", self._task.exchanges, sample)

    async def close(self, reply: str) -> Dialogue:
        """End the dialogue with `reply`."""
        self._append("agent", reply)
        check = await self.self_check(self._task.exchanges)
        return self.ended(self._end, flagged=check.violated)

    def truncated(self) -> Dialogue:
        """End with the last complete exchange because no room is left.

        Raises `StageFailed` if there is none.
        """
        self._take_back()
        if not self.messages:
            raise StageFailed("turn/1", "token limit in the first exchange")
        return self.ended("token_limit", flagged=False)

    def skip_ahead(self) -> None:
        """Leave out what there is of an exchange, and all before the last."""
        self._take_back()
        self._end = "skipped_ahead"

    async def write(self, speaker: Speaker, exchange: int) -> None:
        """Write the next turn; the user's last one may have been written before the plan."""
        written = self._task.plan.last_message if speaker == "user" else ""
        if not (written and exchange == self._task.exchanges):
            written = await self._turn(speaker, exchange, Sample())
        self._append(speaker, written)

    def ended(self, stop: StopReason, *, flagged: bool) -> Dialogue:
        """Return the dialogue as it stands."""
        system = self._conversation.system
        return Dialogue(self.messages, self._protocol, stop, flagged, system)

    async def self_check(self, exchange: int) -> parsing.Check:
        """Ask the speaking model about the last turn, if configured.

        An answer that cannot be read claims nothing, and neither does one without room.
        """
        nothing = parsing.Check(violated=False, over=False)
        if not self._task.self_checked(exchange):
            return nothing
        try:
            request = self._conversation.self_check()
            answer = await self._task.ask(f"check/{exchange}", request)
            require_answer(answer, request)
            return parsing.check(answer.text)
        except Unparseable:
            return nothing
        except StageFailed as failed:
            if failed.kind != "context_full":
                raise
            return nothing

    def _take_back(self) -> None:
        """Go back to the end of the last complete exchange."""
        self._conversation = copy.copy(self._complete)
        self.messages = self.messages[: len(self.messages) // 2 * 2]

    def _append(self, speaker: Speaker, text: str) -> None:
        self._conversation.append(speaker, text)
        if speaker == "agent":
            self._complete = copy.copy(self._conversation)
        self.messages = (*self.messages, Message(_ROLES[speaker], text))
        self._seen.add(normalize.normal(text))

    async def _turn(self, speaker: Speaker, exchange: int, sample: Sample) -> str:
        """Ask for one turn, in complete sentences, that repeats no earlier one."""
        task, conversation = self._task, self._conversation
        prefix = conversation.prefix(speaker, exchange)
        script = turn_script(task, speaker)

        def read(completion: Completion) -> str:
            said = read_turn(completion, task.plan, script, self._seen, conversation.cut, prefix)
            require_speaker(speaker, said, self.messages, task.plan)
            return said

        request = conversation.turn(speaker, exchange, sample)
        step = sample.step(exchange, speaker)
        try:
            return await ask_until_parsed(task.ask, step, request, read, SHORT * task.attempts)
        except StageFailed as failed:
            if failed.kind == "context_full":
                raise ContextFull from None
            raise
