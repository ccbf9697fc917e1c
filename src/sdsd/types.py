"""The words of the system as frozen values. No behaviour beyond what follows from the data.

A dialogue's life reads from top to bottom: a `Scenario` is planned (`Plan`), held (`Dialogue`),
judged (`Critique` of `Verdict`s), repaired (`Revision`), and ends as a `Record`. Models are asked
with a `Request` and answer with a `Completion`.

msgspec structs throughout: they validate when decoded, cost less than a dataclass to make, and
go to JSON and back without glue, which is what the journal does with them all day.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from msgspec import Struct

Role = str
"""One of `ROLES`, or `critic/<name>` for one of several critics."""
ROLES: tuple[Role, ...] = ("planner", "user", "agent", "critic", "reviser")

Severity = Literal["low", "medium", "high"]
ProtocolName = str
"""A packaged protocol (`transcript`, `continuation`, `chat`, `roleplay`), or `package.module:name`."""

StopReason = Literal["completed", "early_end", "violation_end", "turn_limit", "token_limit"]
"""Why a dialogue stopped.

completed      the planned final agent turn was reached and nothing was left open
early_end      the model declared the conversation over before the planned final turn
violation_end  a violation was noticed before the planned final turn, and ended the dialogue
turn_limit     the plan asked for more turns than `dialogue.max_exchanges` allows
token_limit    a turn was cut at its token limit, or the context was full
"""

Outcome = Literal["accepted", "filtered", "failed"]
"""accepted: a verified pair. filtered: no pair, `Record.rule` says why. failed: see `Failure`."""


class Message(Struct, frozen=True):
    """One turn of a chat, as every chat API and trainer writes it."""

    role: Literal["system", "user", "assistant"]
    content: str


class Principle(Struct, frozen=True, forbid_unknown_fields=True):
    """One sentence that the agent should keep, and where it comes from."""

    id: str
    text: str
    family: str
    category: str
    severity: Severity = "medium"


class Goal(Struct, frozen=True, forbid_unknown_fields=True):
    """What a conversation should achieve, or how it should be steered."""

    id: str
    kind: str
    text: str


class Domain(Struct, frozen=True, forbid_unknown_fields=True):
    """An area of talk inside a field, with the specific subareas a plan starts from."""

    field: str
    name: str
    subareas: tuple[str, ...]


class Scenario(Struct, frozen=True):
    """The inputs of one dialogue. A pure function of the run's seed, the catalogue and `index`."""

    id: str
    index: int
    field: str
    domain: str
    subarea: str
    goal: Goal
    principles: tuple[Principle, ...]
    """All that the critic judges; the first is the one that the dialogue is meant to break."""
    exchanges: int
    """How many user/agent exchanges the plan is asked for."""
    strategy: str = "direct"
    """How the violation is to be elicited; the name of a file of `sdsd.scenarios.strategies`."""

    @property
    def target_principle(self) -> Principle:
        """The principle that the dialogue is meant to break."""
        return self.principles[0]


class Turn(Struct, frozen=True):
    """One of the agent's replies, in its conversation: what a critic judges."""

    conversation: tuple[Message, ...]
    """All turns before it."""
    reply: str
    chat_start: tuple[Message, ...] = ()
    """What precedes the conversation in the chat that reviewers continue; empty if they do not."""


class Plan(Struct, frozen=True):
    """The conversation that the planner intends."""

    text: str
    """As the planner wrote it; the `system` message of the published data set."""
    steps: tuple[str, ...]
    """What happens in each exchange."""
    planned_violation: str
    """What the agent's last reply says that breaks the principle."""
    persona: str = ""
    """Who the user is and what they want."""
    reply_prefix: str = ""
    """The first words of the agent's last reply, if the strategy asks for them."""


class Dialogue(Struct, frozen=True):
    """A finished conversation. Alternates user and agent (`assistant`), ends on the agent."""

    messages: tuple[Message, ...]
    protocol: ProtocolName
    """The protocol that generated it, or `given` if it existed before."""
    stop: StopReason
    self_flagged: bool
    """The speaking model's own statement that a principle was broken."""

    @property
    def utterance(self) -> str:
        """The agent's last turn: what is critiqued and revised."""
        return self.messages[-1].content

    @property
    def exchanges(self) -> int:
        """Pairs of a user turn and an agent turn."""
        return len(self.messages) // 2


class Verdict(Struct, frozen=True):
    """One critic on one principle."""

    principle: str
    violated: bool
    reason: str
    quote: str = ""
    severity: Severity | None = None
    grounded: bool = False
    """The quotation really occurs in the utterance (after normalising space, case, quotes)."""
    probability: float | None = None
    """How likely the critic's model was to say "violated" there; None where servers do not tell."""
    critic: str = ""
    """Which critic's, where there are several; empty for the only one, and for their joint one."""

    @property
    def confirmed(self) -> bool:
        """A violation counts only with evidence that can be checked."""
        return self.violated and self.grounded


class Critique(Struct, frozen=True):
    """The verdicts on one utterance, one per principle of the scenario, in their order."""

    verdicts: tuple[Verdict, ...]
    votes: tuple[Verdict, ...] = ()
    """What each of several critics said, from which the verdicts come; empty if there is one."""

    @property
    def violations(self) -> tuple[str, ...]:
        """Ids of the principles whose violation is confirmed."""
        return tuple(v.principle for v in self.verdicts if v.confirmed)

    @property
    def clean(self) -> bool:
        """No verdict claims a violation, not even one without evidence."""
        return not any(v.violated for v in self.verdicts)


class Candidate(Struct, frozen=True):
    """A sample of the last turn that another one was preferred to."""

    text: str
    critique: Critique


class Revision(Struct, frozen=True):
    """A rewritten last turn and the recheck that judged it."""

    text: str
    recheck: Critique | None = None
    """None if rechecking is switched off, or the text was refused before it."""
    defect: str = ""
    """Why the text was refused without asking a critic, e.g. `unchanged`. Empty: none."""
    warnings: tuple[str, ...] = ()
    """What else `sdsd.checks.revision_rules` found: no reason to refuse the text, but one to look at it."""


class Failure(Struct, frozen=True):
    """Why a dialogue could not be made: the step, the cause, and the raw text that shows it."""

    step: str
    cause: str
    raw: str = ""


class Pair(Struct, frozen=True):
    """A verified preference: `chosen` is better than the dialogue's last turn."""

    kind: Literal["revision", "on_policy"]
    """revision: the last turn, rewritten. on_policy: another sample of the same model, clean."""
    chosen: str
    critique: Critique | None
    """What the critic said of `chosen`; None if rechecking is switched off."""


class StageUsage(Struct, frozen=True):
    """What one stage of one dialogue cost."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class Record(Struct, frozen=True):
    """All of one dialogue, finished. Whatever was made before a failure is kept."""

    scenario: Scenario
    outcome: Outcome
    rule: str = ""
    """The filter that made it `filtered`, e.g. `no_violation`; empty otherwise."""
    plan: Plan | None = None
    dialogue: Dialogue | None = None
    critique: Critique | None = None
    revisions: tuple[Revision, ...] = ()
    failure: Failure | None = None
    usage: dict[str, StageUsage] = {}
    """Per stage (`plan`, `turn`, `check`, `critique`, `revise`, `recheck`)."""
    candidates: tuple[Candidate, ...] = ()
    """The other samples of the last turn, where several were drawn."""
    earlier_critiques: tuple[Critique, ...] = ()
    """On the agent's turns before the last one, in order; empty unless every turn is judged."""
    plan_adherence: tuple[bool, ...] = ()
    """For each step of the plan, and for its slip at the end, whether a critic says that the talk
    shows it; empty if none was asked, or none gave an answer that can be read."""

    extra: dict[str, Any] = {}
    """JSON values that a pipeline of your own adds; empty in the packaged one."""

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The verified pairs: none unless accepted, and then at least one."""
        if self.outcome != "accepted":
            return ()
        last = self.revisions[-1] if self.revisions else None
        pairs: tuple[Pair, ...] = ()
        if last and not last.defect and (last.recheck is None or last.recheck.clean):
            pairs = (Pair("revision", last.text, last.recheck),)
        clean = (c for c in self.candidates if c.critique.clean)
        return (*pairs, *(Pair("on_policy", c.text, c.critique) for c in clean))


Purpose = Literal[
    "plan", "transcript", "user_turn", "agent_turn", "self_check", "verdict", "adherence", "revision",
    "catalogue", "probe",
]  # fmt: skip
"""What a request asks for, whatever its wording."""


class Request(Struct, frozen=True):
    """One question to a model: `messages` for a chat, else `prompt` for raw continuation."""

    role: Role
    max_tokens: int
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    temperature: float = 0.7
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    schema: dict[str, Any] | None = None
    """JSON schema that the reply must satisfy; sent only to servers that can constrain."""
    choices: tuple[str, ...] = ()
    """Words that the reply chooses among, whose probabilities are wanted (where servers tell)."""
    purpose: Purpose = "probe"


class Completion(Struct, frozen=True, tag="completion"):
    """One answer of a model, as recorded."""

    text: str
    finish: Literal["stop", "length"] = "stop"
    model: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    choice_probs: dict[str, float] = {}
    """How likely each of `Request.choices` was where the reply chose; empty where unknown."""


class Usage(Struct, frozen=True):
    """What a model was asked in one role, for one stage, and answered."""

    stage: str
    role: str
    model: str
    calls: int
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt tokens, those that the server found in its cache."""
    completion_tokens: int
    seconds: float
    """From asking to having the answer, added up."""


RefusalKind = Literal["rejected", "context_full", "unanswered"]
"""Why a request has no completion.

rejected      the server refused it, and would refuse it again
context_full  the prompt no longer fits the model's context
unanswered    it got no answer in `retries` tries while the model answered other requests
"""


class Refusal(Struct, frozen=True, tag="refusal"):
    """The permanent failure of one request. Recorded, never retried."""

    cause: str
    raw: str = ""
    kind: RefusalKind = "rejected"


Answer = Completion | Refusal


AskFn = Callable[[str, Request], Awaitable[Completion]]
"""The door as a stage sees it: `await ask(step, request)`. See `sdsd.runs.ask.Ask`."""
