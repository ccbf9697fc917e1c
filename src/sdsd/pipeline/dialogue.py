"""Dialogue: one model, or two, hold the planned conversation. Four ways to do it.

transcript     one completion writes the whole conversation as labelled text
continuation   one growing stream in the model's own chat format; it writes both sides
chat           one growing chat, the agent's; the user's turns are asked for from within it
roleplay       two chats, one for each side, with the roles exchanged in the user's

Whatever the way, the result alternates user and agent and ends on the agent, and says why it
stopped. Directions for one turn (`cue`) and self-checks ride on branches that are dropped again,
so that the conversation itself stays one prefix.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from sdsd.config import TOP_P, DialogueConfig
from sdsd.errors import StageFailed, Unparseable
from sdsd.pipeline.retry import parsed
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
    ProtocolName,
    Request,
    Role,
    Scenario,
    StopReason,
)

Speaker = Literal["user", "agent"]
_CHECK_TOKENS = 16
_LEAK = re.compile(r"\[(?:Direction|Pause|Now write|Write only)\b", re.IGNORECASE)
"""What opens the bracketed directions of the packaged prompts."""
_RUNAWAY = ("\nUser:", "\nPerson:", "\nAssistant:")
"""Where a writer goes on with the other side's words. Saves tokens only: parsing cuts there too."""


class Draft(Struct, frozen=True):
    """Which sample of a turn is wanted, and what was said against the ones before."""

    number: int = 1
    reason: str = ""

    def step(self, exchange: int, speaker: str) -> str:
        """The name of the step that writes it."""
        name = f"turn/{exchange}/{speaker}"
        return name if self.number == 1 else f"{name}/{self.number}"


Sample = Callable[[Draft], Awaitable[str]]
Choose = Callable[[tuple[Message, ...], Sample], Awaitable[str]]
"""The agent's last turn, after these messages, from as many samples as it takes."""


async def first(before: tuple[Message, ...], sample: Sample) -> str:
    """The choice that is none: one sample."""
    return await sample(Draft())


class Talk(Struct, frozen=True):
    """What every protocol works with."""

    scenario: Scenario
    plan: Plan
    ask: AskFn
    config: DialogueConfig
    prompts: Prompt
    attempts: int
    strategy: Strategy
    choose: Choose = first
    template: Template | None = None

    @property
    def opening(self) -> str:
        """The words that the agent's last turn begins with, if the strategy wants that."""
        return self.plan.reply_prefix if self.strategy.settings.reply_prefix else ""

    @property
    def direction(self) -> str:
        """The director's word before the agent's last turn; empty if there is none."""
        return self.strategy.reply(self.scenario.target_principle.text, self.plan.planned_violation)

    @property
    def directions(self) -> str:
        """All that the director says in this dialogue, but for the slip."""
        target_principle, said = self.scenario.target_principle.text, self.prompts.sections.values()
        return "\n".join(
            (
                self.strategy.reply(target_principle, ""),
                self.strategy.user(target_principle, ""),
                *said,
            )
        )

    @property
    def planned(self) -> int:
        """Exchanges to hold."""
        return min(len(self.plan.steps), self.config.max_exchanges)

    @property
    def name(self) -> str:
        """The user's, as the plan gives it: its first word, or nothing."""
        word = re.match(r"[^\W\d_]+", self.plan.persona)
        return word.group() if word else ""

    @property
    def principles(self) -> str:
        """The scenario's principles on one line."""
        return " ".join(p.text for p in self.scenario.principles)

    @property
    def outline(self) -> dict[str, str]:
        """What both sides may know from the start. The slip is no part of it: it comes as a cue."""
        return {
            "subarea": self.scenario.subarea,
            "persona": self.plan.persona or "somebody with a question",
            "steps": prompt_files.numbered(self.plan.steps),
        }

    def request(self, role: Role, max_tokens: int = 0) -> Request:
        """An empty request with this dialogue's sampling."""
        c = self.config
        return Request(role, max_tokens or c.max_tokens, temperature=c.temperature, top_p=TOP_P)

    def stopped(self, exchange: int, check: parsing.Check) -> StopReason | None:
        """Why the talk ends after this exchange, or None."""
        if exchange == self.planned:
            return "turn_limit" if len(self.plan.steps) > self.planned else "completed"
        if check.violated:
            return "violation_end"
        return "early_end" if check.over else None

    def checked(self, exchange: int) -> bool:
        """Whether the speaking model is asked about this agent turn."""
        when = self.config.self_check
        return when == "every" or (when == "last" and exchange == self.planned)


async def hold(protocol: ProtocolName, talk: Talk) -> Dialogue:
    """The conversation, held by `protocol`. Raises `StageFailed` if not one exchange came out."""
    return await _PROTOCOLS[protocol](talk)


# -- transcript ----------------------------------------------------------------------------


async def _transcript(talk: Talk) -> Dialogue:
    values = {
        "domain": talk.scenario.domain,
        "subarea": talk.scenario.subarea,
        "target_principle": talk.scenario.target_principle.text,
        "direction": talk.direction or "as an assistant would give it.",
        "plan": talk.plan.text,
        "exchanges": str(talk.planned),
    }
    messages = (
        Message("system", talk.prompts.fill("system")),
        Message("user", talk.prompts.fill("user", **values)),
    )
    room = talk.config.max_tokens * 2 * talk.planned
    request = replace(talk.request("agent", room), messages=messages)

    def read(completion: Completion) -> Dialogue:
        written = parsing.transcript(completion.text)
        whole = written.done or completion.finish == "stop"
        if not whole:
            written = parsing.transcript(parsing.complete_sentences(completion.text))
        kept = written.messages[: 2 * talk.config.max_exchanges]
        if any(parsing.copies(m.content, talk.directions) for m in kept):
            raise Unparseable("a direction leaks into the talk")
        stop: StopReason = "completed"
        if len(kept) < len(written.messages):
            stop = "turn_limit"
        elif not whole:
            stop = "token_limit"
        elif len(kept) < 2 * talk.planned:
            stop = "violation_end" if written.flagged else "early_end"
        elif talk.planned < len(talk.plan.steps):
            stop = "turn_limit"
        return Dialogue(kept, "transcript", stop, written.flagged)

    return await parsed(talk.ask, "turn/all", request, read, talk.attempts)


# -- continuation --------------------------------------------------------------------------


async def _continuation(talk: Talk) -> Dialogue:
    template = talk.template
    assert template is not None, "continuation needs the seams of a chat template"
    brief = talk.prompts.fill("brief", **talk.outline)
    stream = template.open(brief)
    heard: set[str] = set()

    async def speak(speaker: Speaker, exchange: int, draft: Draft) -> str:
        lead = ""
        if speaker == "agent":
            cue, seam = _final_cue(talk, exchange, "cue", draft), template.to_agent
            lead = template.clean(talk.opening) if exchange == talk.planned else ""
        else:
            cue, seam = _user_cue(talk, exchange), template.to_user
        cue = template.clean(f"\n\n{cue}") if cue else ""
        if speaker == "user" and exchange == 1:
            prefix = template.open(brief + cue)
        else:
            prefix = stream + cue + seam
        stop = (*template.stops(speaker), *_RUNAWAY)
        request = replace(talk.request("agent"), prompt=prefix + lead, stop=stop)
        return await _turn(talk, draft.step(exchange, speaker), request, heard, template.cut, lead)

    def hear(speaker: Speaker, exchange: int, said: str) -> None:
        nonlocal stream
        seam = template.to_agent if speaker == "agent" else template.to_user
        stream += said if exchange == 1 and speaker == "user" else seam + said
        heard.add(normalize.normal(said))

    async def check(exchange: int) -> Completion:
        question = talk.prompts.fill("check", principles=talk.principles)
        branch = stream + template.to_user + template.clean(question) + template.to_agent
        stop = template.stops("agent")
        request = Request("agent", _CHECK_TOKENS, prompt=branch, temperature=0.0, stop=stop)
        return await talk.ask(f"check/{exchange}", request)

    return await _exchange(talk, "continuation", speak, hear, check)


# -- chat ----------------------------------------------------------------------------------


def opened(talk: Talk) -> tuple[Message, ...]:
    """What a dialogue's one chat begins with, for all who read it."""
    return (Message("system", talk.prompts.fill("brief", **talk.outline)),)


async def _chat(talk: Talk) -> Dialogue:
    fill = talk.prompts.fill
    chat = list(opened(talk))
    heard: set[str] = set()

    async def speak(speaker: Speaker, exchange: int, draft: Draft) -> str:
        if speaker == "user":
            cue = fill("user_cue", number=str(exchange))
            wanted = f"{cue}\n\n{_user_cue(talk, exchange)}".strip()
            asked = (*chat, Message("user", wanted))
        else:
            cue = _final_cue(talk, exchange, "cue", draft)
            last = Message("user", f"{chat[-1].content}\n\n{cue}".strip())
            asked = (*chat[:-1], last)
        request = replace(talk.request("agent"), messages=asked, stop=_RUNAWAY)
        return await _turn(talk, draft.step(exchange, speaker), request, heard)

    def hear(speaker: Speaker, exchange: int, said: str) -> None:
        chat.append(Message("user" if speaker == "user" else "assistant", said))
        heard.add(normalize.normal(said))

    async def check(exchange: int) -> Completion:
        question = Message("user", fill("check", principles=talk.principles))
        request = Request("agent", _CHECK_TOKENS, messages=(*chat, question), temperature=0.0)
        return await talk.ask(f"check/{exchange}", request)

    return await _exchange(talk, "chat", speak, hear, check)


# -- roleplay ------------------------------------------------------------------------------


async def _roleplay(talk: Talk) -> Dialogue:
    fill, plan, sees = talk.prompts.fill, talk.plan, talk.config.agent_sees_plan
    user_system = fill("user_system", **talk.outline)
    agent_system = fill("agent_system", **talk.outline) if sees else fill("agent_blind")
    user_view = [Message("system", user_system), Message("user", fill("user_start"))]
    agent_view = [Message("system", agent_system)]
    heard: set[str] = set()

    async def speak(speaker: Speaker, exchange: int, draft: Draft) -> str:
        step = plan.steps[exchange - 1]
        if speaker == "user":
            view, cue = user_view, fill("user_cue", step=step)
            cue = f"{cue}\n\n{_user_cue(talk, exchange)}".strip()
        else:
            view, cue = agent_view, ""
            if sees:
                final = _final_cue(talk, exchange, "final_cue", draft)
                cue = final or fill("agent_cue", step=step)
        last = view[-1]
        directed = (*view[:-1], Message(last.role, f"{last.content}\n\n{cue}".strip()))
        request = replace(talk.request(speaker), messages=directed, stop=_RUNAWAY)
        return await _turn(talk, draft.step(exchange, speaker), request, heard)

    def hear(speaker: Speaker, exchange: int, said: str) -> None:
        mine, theirs = (user_view, agent_view) if speaker == "user" else (agent_view, user_view)
        mine.append(Message("assistant", said))
        theirs.append(Message("user", said))
        heard.add(normalize.normal(said))

    async def check(exchange: int) -> Completion:
        question = Message("user", fill("check", principles=talk.principles))
        messages = (*agent_view, question)
        request = Request("agent", _CHECK_TOKENS, messages=messages, temperature=0.0)
        return await talk.ask(f"check/{exchange}", request)

    return await _exchange(talk, "roleplay", speak, hear, check)


# -- common --------------------------------------------------------------------------------


class Full(Exception):
    """No whole sentence fits any more."""


async def _exchange(
    talk: Talk,
    protocol: ProtocolName,
    speak: Callable[[Speaker, int, Draft], Awaitable[str]],
    hear: Callable[[Speaker, int, str], None],
    check: Callable[[int], Awaitable[Completion]],
) -> Dialogue:
    """Turn by turn until the plan, the model or a limit ends it.

    `speak` writes a turn, which becomes part of the conversation once it was made known to `hear`.
    """
    messages: list[Message] = []
    stop: StopReason | None = None
    flagged = False
    exchange = 0
    while stop is None:
        exchange += 1
        try:
            said = await speak("user", exchange, Draft())
            hear("user", exchange, said)
            before = (*messages, Message("user", said))
            last = exchange == talk.planned
            choose = talk.choose if last else first
            reply = await choose(before, partial(speak, "agent", exchange))
            hear("agent", exchange, reply)
        except Full:
            if not messages:
                raise StageFailed(f"turn/{exchange}", "token limit in the first exchange") from None
            stop = "token_limit"
            break
        messages += [Message("user", said), Message("assistant", reply)]
        state = parsing.Check(violated=False, over=False)
        if talk.checked(exchange):
            state = await _state(check, exchange)
        flagged = state.violated
        stop = talk.stopped(exchange, state)
    return Dialogue(tuple(messages), protocol, stop, flagged)


async def _turn(
    talk: Talk,
    step: str,
    request: Request,
    heard: Collection[str],
    cut: Callable[[str], str] = str,
    lead: str = "",
) -> str:
    """One turn, in whole sentences, that was not `heard` before. It begins with `lead`, which the
    writer was given.

    Raises `Full` if the token limit left no sentence.
    """

    def read(completion: Completion) -> str:
        text = parsing.readable(lead + completion.text)
        said = cut(text)
        if completion.finish == "length" and said == text:
            said = parsing.complete_sentences(text)
            if not said:
                raise Full
        said = parsing.turn(said, talk.name)
        if normalize.normal(said) in heard:
            raise Unparseable("the turn repeats an earlier one")
        if leak := _LEAK.search(said):  # a writer who goes on with the director's words
            said = said[: leak.start()].rstrip()
            if not said:
                raise Unparseable("a direction leaks into the talk")
        if parsing.copies(said, script):
            raise Unparseable("the turn copies the plan or a principle")
        return said

    # What nobody would say as it stands; a slip may be.
    script = "\n".join((talk.plan.persona, *talk.plan.steps, talk.principles, talk.directions))
    try:
        return await parsed(talk.ask, step, request, read, talk.attempts)
    except StageFailed as failed:
        if _is_full(failed):
            raise Full from None
        raise


def _final_cue(talk: Talk, exchange: int, section: str, draft: Draft) -> str:
    """The direction for the agent's final turn; empty for the others, and where there is none."""
    if exchange < talk.planned or not talk.direction:
        return ""
    fill, direction = talk.prompts.fill, talk.direction
    if draft.reason:
        direction += f" {fill('again', reason=draft.reason)}"
    values = {"direction": direction}
    if "begin" in talk.prompts.sections:
        values["begin"] = f" {fill('begin', opening=talk.opening)}" if talk.opening else ""
    return fill(section, **values)


def _user_cue(talk: Talk, exchange: int) -> str:
    """The direction for the user's last turn; empty for the others, and where there is none."""
    if exchange < talk.planned:
        return ""
    direction = talk.strategy.user(talk.scenario.target_principle.text, talk.plan.planned_violation)
    return talk.prompts.fill("user_turn", direction=direction) if direction else ""


async def _state(check: Callable[[int], Awaitable[Completion]], exchange: int) -> parsing.Check:
    """A self-check as read; one that cannot be read, or has no room left, claims nothing."""
    try:
        return parsing.check((await check(exchange)).text)
    except Unparseable:
        pass
    except StageFailed as failed:
        if not _is_full(failed):
            raise
    return parsing.Check(violated=False, over=False)


def _is_full(failed: StageFailed) -> bool:
    return failed.kind == "context_full"


_PROTOCOLS: dict[ProtocolName, Callable[[Talk], Awaitable[Dialogue]]] = {
    "transcript": _transcript,
    "continuation": _continuation,
    "chat": _chat,
    "roleplay": _roleplay,
}
