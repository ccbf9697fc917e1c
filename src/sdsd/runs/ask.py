"""`Ask`: what a stage calls to ask a model, and all it ever sees of models and journal.

    answer = await ask("turn/1/user", request)

It first looks the step up in the journal. If the step is there, the recorded answer is returned and
no model is called: resuming a run is replaying it.
"""

from __future__ import annotations

from collections.abc import Mapping

from sdsd.errors import Divergence, StageFailed
from sdsd.hashing import call_seed
from sdsd.runs.journal import Entry, Fingerprint, fingerprint, stage_of
from sdsd.runs.middleware import Call, Send
from sdsd.types import Completion, Refusal, Request, StageUsage


class Ask:
    """The models, as one dialogue sees them: recorded steps are recalled, new ones are sent."""

    def __init__(
        self,
        scenario: str,
        seed: int,
        recorded: Mapping[str, Entry],
        send: Send,
        names: Mapping[str, str],
        dialogue: int = 0,
    ) -> None:
        self.scenario = scenario
        self.usage: dict[str, StageUsage] = {}
        """Calls and tokens of the dialogue so far, by stage; the same in a replay."""
        self.asked: set[str] = set()
        """Names of the steps asked so far."""
        self._seed = seed
        self._recorded = recorded
        self._send = send
        self._names = names
        self._dialogue = dialogue

    async def __call__(self, step: str, request: Request) -> Completion:
        """Return the model's answer to `request`, recorded under `step`.

        Raises `Divergence` if the step is recorded for another request, `StageFailed` if the
        server refused this request for good, and `ValueError` for a step asked twice.
        """
        if step in self.asked:
            raise ValueError(f"{self.scenario}: step `{step}` asked twice; give it its own name")
        self.asked.add(step)
        asked = fingerprint(request, self._names[request.role])
        entry = self._recorded.get(step)
        if entry is None:
            seed = call_seed(self._seed, self.scenario, step)
            call = Call(self.scenario, step, request, seed, asked, self._dialogue)
            answer = await self._send(call)
        else:
            self._compare(step, entry.request, asked)
            answer = entry.answer
        if isinstance(answer, Refusal):
            raise StageFailed(step, answer.cause, answer.raw, answer.kind)
        self._count(stage_of(step), answer)
        return answer

    def _compare(self, step: str, recorded: Fingerprint, asked: Fingerprint) -> None:
        if recorded == asked:
            return
        keys = [k for k in {**recorded, **asked} if recorded.get(k) != asked.get(k)]
        raise Divergence(
            f"{self.scenario} {step}: recorded for another request; what changed: "
            f"{', '.join(keys)}. The model or the program has changed since; restore it, or start "
            f"another run directory"
        )

    def _count(self, stage: str, answer: Completion) -> None:
        old = self.usage.get(stage, StageUsage())
        self.usage[stage] = StageUsage(
            calls=old.calls + 1,
            prompt_tokens=old.prompt_tokens + answer.prompt_tokens,
            cached_tokens=old.cached_tokens + answer.cached_tokens,
            completion_tokens=old.completion_tokens + answer.completion_tokens,
            seconds=round(old.seconds + answer.seconds, 4),
            reasoning_tokens=old.reasoning_tokens + answer.reasoning_tokens,
        )
