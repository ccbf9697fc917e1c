"""Immutable value types shared by the whole package.

In the order of a dialogue's life: a `Scenario` gets a `Plan`, becomes a `Dialogue`, is judged
(`Critique`, a `Verdict` per principle), repaired (`Revision`), and ends as a `Record`. Models get a
`Request` and answer with a `Completion` or a `Refusal`.

All are msgspec structs: validated when decoded, cheaper to make than dataclasses, and converted to
JSON and back without further code, which the journal does constantly.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct

Role = str
"""One of `ROLES`, or `critic/<name>` where there are several critics."""
ROLES: tuple[Role, ...] = ("planner", "user", "agent", "critic", "reviser")

Severity = Literal["low", "medium", "high"]
Framing = Literal["", "do", "dont"]
"""Whether a principle asks for something or forbids it; empty if not stated."""
ProtocolName = str
"""A packaged protocol (see `sdsd.pipeline.protocols`), or `package.module:name`."""

StopReason = Literal[
    "completed", "skipped_ahead", "early_end", "violation_end", "turn_limit", "token_limit"
]
"""Why a dialogue stopped.

completed      it reached the planned last reply
skipped_ahead  so, too, but without the exchanges before it that could not be written
early_end      the model declared the conversation over before that
violation_end  the model noticed a violation before that
turn_limit     the plan has more exchanges than `dialogue.max_exchanges`
token_limit    a turn reached its token limit, or the context was full
"""

Outcome = Literal["accepted", "filtered", "failed"]
"""accepted: has at least one verified pair. filtered: has none; `Record.rule` says why. failed: see
`Failure`."""


class Message(Struct, frozen=True):
    """One message of a chat, as chat APIs and trainers write it."""

    role: Literal["system", "user", "assistant"]
    content: str


class Principle(Struct, frozen=True, forbid_unknown_fields=True):
    """One sentence that the agent should satisfy, and where it comes from."""

    id: str
    text: str
    family: str
    category: str
    severity: Severity = "medium"
    framing: Framing = ""
    check: str = ""
    """The program that decides whether a reply violates it, for principles that a program can
    decide: a name of `sdsd.checks.decided` with its parameters, `package.module:function`, or
    empty."""


class Example(Struct, frozen=True, forbid_unknown_fields=True):
    """A user's message with one reply that satisfies a principle and one that violates it, alike in
    length, tone and skill."""

    user: str
    satisfies: str
    violates: str
    earlier: tuple[Message, ...] = ()
    """The exchanges before it, if any."""
    topic: str = ""
    """What it is about, in a few words."""


class Card(Struct, frozen=True, forbid_unknown_fields=True):
    """What helps to violate a principle, to notice it, and to repair it. All of it is optional."""

    at_stake: str = ""
    """What the user must say or be, so that the principle can be violated at all."""
    request: str = ""
    """What a user may add to any message to put the principle at stake: "In at most 20 words."."""
    why: str = ""
    """One sentence on why the principle matters, which the reviser reads."""
    violation: str = ""
    """What an assistant is told that shall violate it: "End your reply with a question."."""
    satisfaction: str = ""
    """What an assistant is told that shall satisfy it, where the principle itself says rather what
    not to do: "End your reply with a statement."."""
    examples: tuple[Example, ...] = ()


class Goal(Struct, frozen=True, forbid_unknown_fields=True):
    """What a conversation should achieve, or how it should be steered."""

    id: str
    kind: str
    text: str


class Domain(Struct, frozen=True, forbid_unknown_fields=True):
    """A subject within a field, with the specific subareas that plans start from."""

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
    """All principles that the critic judges; the first is the target principle."""
    exchanges: int
    """Exchanges (user turn and agent turn) that the plan should have."""
    strategy: str = "direct"
    """The name of the strategy that elicits the violation."""

    @property
    def target_principle(self) -> Principle:
        """The principle that the last reply is meant to violate."""
        return self.principles[0]


class Turn(Struct, frozen=True):
    """An agent reply and the conversation before it: what a critic judges."""

    conversation: tuple[Message, ...]
    """All turns before it."""
    reply: str
    chat_start: tuple[Message, ...] = ()
    """What precedes the conversation in the chat that reviewers continue; else empty."""


class Plan(Struct, frozen=True):
    """The planner's outline of a conversation."""

    text: str
    """As the planner wrote it; the `system` message of the published data set."""
    steps: tuple[str, ...]
    """What happens in each exchange, one entry per exchange."""
    planned_violation: str
    """What the agent's last reply says that violates the target principle."""
    persona: str = ""
    """Who the user is and what they want."""
    reply_prefix: str = ""
    """The words that the agent's last reply begins with, if the strategy asks for them."""
    last_message: str = ""
    """The user's last message, word for word, if it was written before the plan."""

    @property
    def descriptions(self) -> tuple[str, ...]:
        """The steps that describe an exchange; one may be the last message itself."""
        return tuple(step for step in self.steps if step != self.last_message)


class Dialogue(Struct, frozen=True):
    """A generated conversation. `user` and `assistant` alternate; it ends with `assistant`."""

    messages: tuple[Message, ...]
    protocol: ProtocolName
    """The protocol that generated it, or `given` if it existed before."""
    stop: StopReason
    self_flagged: bool
    """The speaking model's own statement that a principle was violated."""
    system: str = ""
    """The agent's system prompt, if it gives nothing of the plan away and can be trained on."""

    @property
    def last_reply(self) -> str:
        """The agent's last reply: what is critiqued and revised."""
        return self.messages[-1].content

    @property
    def exchanges(self) -> int:
        """Number of exchanges: a user turn and an agent turn each."""
        return len(self.messages) // 2


Signal = Literal["verdict", "contrast", "program"]
"""What a verdict rests on.

verdict   a model's answer to the question, or a user-defined critic's
contrast  the likelihood contrast of the reply (`sdsd.pipeline.directed`)
program   an exact check (`sdsd.checks.decided`)
"""


class Verdict(Struct, frozen=True):
    """What one critic says about one reply and one principle."""

    principle: str
    violated: bool
    reason: str
    quote: str = ""
    severity: Severity | None = None
    grounded: bool = False
    """Whether `quote` occurs in the reply, up to whitespace, case and quotation marks."""
    probability: float | None = None
    """Probability of "violated" according to the critic; None if its server reports none."""
    critic: str = ""
    """Name of the critic where there are several; empty for a single critic and for a joint
    verdict."""
    signal: Signal = "verdict"
    contrast: float | None = None
    """The reply's likelihood contrast in nats, if measured. Below 0: the reply is likelier from a
    model that is told to violate the principle."""
    calibrated: float | None = None
    """Probability of a violation, as the critic's exam translates its answer; None without one."""
    undecided: bool = False
    """Whether the answer is too close to call at the wanted precision; then it is no claim either
    way."""
    trusted: bool = True
    """False if the critic did no better than chance in its exam: it cannot verify anything."""

    @property
    def confirmed(self) -> bool:
        """Whether the critic claims a violation and its quotation is in the reply."""
        return self.violated and self.grounded


class Calibration(Struct, frozen=True):
    """How to read a critic's answers, as its exam has shown; see `sdsd.pipeline.calibration`."""

    slope: float
    """Never below 0: more evidence is never less of a violation."""
    intercept: float
    violated_from: float
    """Calibrated probability from which a violation is claimed; above 1: never."""
    satisfied_to: float
    """Calibrated probability up to which a reply counts as satisfying; below 0: never."""
    trusted: bool
    """Whether the critic did better than chance: the interval of its AUC does not include 0.5."""
    noise: float = 0.0
    """Answers whose evidence is this close to a threshold are undecided (nats)."""
    seen: tuple[float, float] | None = None
    """The least and the most evidence in the exam; beyond it, a reply counts as if it were at the
    end. None: no limits."""
    pair_slope: float = 0.0
    """Log-odds of a pair that is the right way round against one that is the wrong way round, per
    unit of the margin between its two replies."""
    pair_mean: float = 0.0
    """The mean margin in the exam, where one reply of every two violates its principle."""
    pair_most: float = 0.0
    """The widest margin in the exam; a wider one counts as this."""
    pair_from: float = 2.0
    """Probability that a pair is true from which its margin settles both labels; above 1: never."""

    @property
    def can_verify(self) -> bool:
        """Whether any answer could reach the wanted precision."""
        return self.trusted and min(self.violated_from, self.pair_from) <= 1


class Critique(Struct, frozen=True):
    """The verdicts on one reply: one per principle of the scenario, in the same order."""

    verdicts: tuple[Verdict, ...]
    votes: tuple[Verdict, ...] = ()
    """Each critic's verdicts, which `verdicts` combines; empty for a single critic."""

    @property
    def violations(self) -> tuple[str, ...]:
        """Ids of the principles with a confirmed violation."""
        return tuple(v.principle for v in self.verdicts if v.confirmed)

    @property
    def clean(self) -> bool:
        """Whether no verdict claims a violation, with or without evidence, or is undecided."""
        return not any(v.violated or v.undecided for v in self.verdicts)

    def corrects(self, rejected: Critique) -> bool:
        """Whether the reply satisfies a principle that another one violates, and violates none.

        What a program leaves open about its other principles counts for nothing.
        """
        if any(v.violated or (v.undecided and v.signal != "program") for v in self.verdicts):
            return False
        violated = set(rejected.violations)
        left_open = {v.principle for v in self.verdicts if v.undecided}
        return not violated or not violated <= left_open

    @property
    def proofs(self) -> frozenset[tuple[str, Signal]]:
        """The principles with a confirmed violation, each with what that rests on, of critics that
        can be trusted to verify."""
        return frozenset(
            (v.principle, v.signal) for v in self.verdicts if v.confirmed and v.trusted
        )


Direction = Literal["satisfy", "violate"]
"""What the agent is told about the target principle when its last reply is sampled."""


class Candidate(Struct, frozen=True):
    """A sample of the last reply that was not chosen."""

    text: str
    critique: Critique
    direction: Direction | None = None
    """The direction it was sampled under; None for the dialogue's own."""
    probability: float | None = None
    """Probability that its pair with the last reply is true, if the margin between the two has
    settled their labels; None if each was judged alone."""


class Revision(Struct, frozen=True):
    """A rewritten last reply, and the critique of it."""

    text: str
    recheck: Critique | None = None
    """None if rechecking is off, or if the text had a defect."""
    defect: str = ""
    """The rule that refused the text before any critic saw it, e.g. `unchanged`; empty if none."""
    warnings: tuple[str, ...] = ()
    """Rules of `sdsd.checks.revision_rules` that only mark the text."""


class Failure(Struct, frozen=True):
    """Why a dialogue could not be made: the step, the cause, and the raw reply that shows it."""

    step: str
    cause: str
    raw: str = ""


PairKind = Literal["contrast", "revision", "on_policy"]
"""How the chosen reply of a pair came about.

contrast   a sibling of the last reply: both sampled for the same conversation, one told to satisfy
           the target principle, one to violate it
revision   the last reply, rewritten
on_policy  another sample of the last reply, under the same direction, without violation
"""


class Pair(Struct, frozen=True):
    """A verified preference: `chosen` is better than the dialogue's last reply."""

    kind: PairKind
    chosen: str
    critique: Critique | None
    """The critique of `chosen`; None if rechecking is off."""
    verified_by: tuple[Signal, ...] = ()
    """The signals by which critics that can be trusted found both labels right; empty: unverified,
    because every critic did no better than chance in its exam, or because rechecking is off."""
    probability: float | None = None
    """Probability that both labels are right, by the critic's exam; None without one."""


class StageUsage(Struct, frozen=True):
    """What one stage of one dialogue cost. `seconds` is from request to answer, summed."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    reasoning_tokens: int = 0


class Record(Struct, frozen=True):
    """Everything about one finished dialogue. What was made before a failure is kept."""

    scenario: Scenario
    outcome: Outcome
    rule: str = ""
    """Why it was filtered, e.g. `no_violation`; empty otherwise."""
    plan: Plan | None = None
    dialogue: Dialogue | None = None
    critique: Critique | None = None
    revisions: tuple[Revision, ...] = ()
    failure: Failure | None = None
    usage: dict[str, StageUsage] = {}
    """By stage: `stake`, `plan`, `turn`, `check`, `critique`, `revise`, `recheck`."""
    candidates: tuple[Candidate, ...] = ()
    """The other samples of the last reply, if several were drawn."""
    earlier_critiques: tuple[Critique, ...] = ()
    """Critiques of the agent's earlier turns, in order; empty unless `critique.turns: every`."""
    plan_adherence: tuple[bool, ...] = ()
    """For each step of the plan, then for its planned violation, whether a critic finds it in the
    conversation; empty if not asked, or if the answer could not be parsed."""
    kinds: tuple[PairKind, ...] = get_args(PairKind)
    """The kinds of pairs that it was to make; it has no others."""

    extra: dict[str, Any] = {}
    """JSON values that a user-defined pipeline adds; empty otherwise."""

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs: none unless the outcome is accepted, and then at least one."""
        if self.outcome != "accepted":
            return ()
        proofs = self.critique.proofs if self.critique else frozenset()

        def pair(
            kind: PairKind, text: str, critique: Critique | None, settled: float | None = None
        ) -> Pair:
            verdicts = critique.verdicts if critique else ()
            clean = {(v.principle, v.signal) for v in verdicts if v.trusted}
            both = {signal for _, signal in proofs & clean}
            probability = self._probability(critique) if settled is None else settled
            return Pair(kind, text, critique, tuple(sorted(both)), probability)

        last = self.revisions[-1] if self.revisions else None
        pairs: list[Pair] = []
        if last and not last.defect and (last.recheck is None or last.recheck.clean):
            pairs.append(pair("revision", last.text, last.recheck))
        # The margin that labels the last reply says nothing of its pairs with the other samples.
        settled = tuple(c for c in self.candidates if c.probability is not None)
        for candidate in settled or self.candidates:
            if candidate.critique.corrects(self.critique or Critique(())):
                kind: PairKind = "contrast" if candidate.direction == "satisfy" else "on_policy"
                pairs.append(pair(kind, candidate.text, candidate.critique, candidate.probability))
        return tuple(pair for pair in pairs if pair.kind in self.kinds)

    def _probability(self, chosen: Critique | None) -> float | None:
        """Return the probability that the last reply violates the target principle and the chosen
        one does not, each judged alone."""
        if not (self.critique and self.critique.verdicts and chosen and chosen.verdicts):
            return None
        before, after = self.critique.verdicts[0].calibrated, chosen.verdicts[0].calibrated
        return None if before is None or after is None else before * (1 - after)

    @property
    def verified(self) -> tuple[Pair, ...]:
        """The pairs without those that no critic can be trusted to verify."""
        trusted = bool(self.critique and self.critique.proofs)
        return tuple(p for p in self.pairs if p.verified_by or (p.critique is None and trusted))


Purpose = Literal[
    "last_message", "plan", "transcript", "user_turn", "agent_turn", "self_check", "verdict",
    "adherence", "revision", "score", "catalogue", "probe",
]  # fmt: skip
"""What a request asks for, independent of its wording."""


class Request(Struct, frozen=True):
    """One request to a model: `messages` for a chat, or `prompt` for raw completion."""

    role: Role
    max_tokens: int
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    temperature: float = 0.7
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    schema: dict[str, Any] | None = None
    """JSON schema of the reply; sent only to servers that can enforce it."""
    choices: tuple[str, ...] = ()
    """Words that the reply chooses among; the server is asked for their probabilities."""
    given: str = ""
    """A reply to `messages` whose log probability is wanted; then nothing is generated."""
    purpose: Purpose = "probe"


Finish = Literal["stop", "length", "refused", "error", "empty"]
"""How a reply ended.

stop     whole: the model ended it
length   cut off at its token limit
refused  withheld or broken off by the model or by a filter; `text` is what was said instead
error    broken off by the server
empty    whole, but without any text
"""


class Completion(Struct, frozen=True, tag="completion"):
    """One answer of a model, as the journal keeps it."""

    text: str
    """What the model said, without its thinking and without the marks of its chat template."""
    finish: Finish = "stop"
    model: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    choice_probs: dict[str, float] = {}
    """Probability of each of `Request.choices` where the reply chose; empty if unknown."""
    logprob: float | None = None
    """Log probability (nats) of `Request.given`, summed over its tokens; None if none was given."""
    thinking: str = ""
    """What the model thought before it spoke, verbatim; for readers only, no stage sees it."""
    reasoning_tokens: int = 0
    """How many of the completion tokens were thinking."""
    ending: str = ""
    """The server's word for the ending, if it is an unknown one; the reply then counts as whole."""


class Usage(Struct, frozen=True):
    """Sums over the requests of one stage, role and model."""

    stage: str
    role: str
    model: str
    calls: int
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens that the server found in its cache."""
    completion_tokens: int
    seconds: float
    """From request to answer, summed."""


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
"""The way to the models as a stage sees it: `await ask(step, request)`."""


def require_json(value: Struct) -> None:
    """Raise `ValueError` unless a value is the same after it was written to the journal."""
    try:
        same = msgspec.json.decode(msgspec.json.encode(value), type=type(value)) == value
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"cannot be written as JSON: {error}") from None
    if not same:
        raise ValueError(
            "differs once written as JSON; use only strings as keys, and neither NaN, sets, tuples "
            "nor objects as values"
        )
