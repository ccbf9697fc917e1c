"""Records made by number, for what counts them: principle, domain and verdict vary with it."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from sdsd.config import Config
from sdsd.config.manifest import Manifest
from sdsd.reports.metrics.figures import Figures, collect
from sdsd.types import (
    ROLES,
    Critique,
    Dialogue,
    Domain,
    Failure,
    Goal,
    Message,
    Outcome,
    Plan,
    Principle,
    Record,
    Revision,
    Scenario,
    StageUsage,
    StopReason,
    Verdict,
)

CONFIG = Config(n=10)

PRINCIPLES = tuple(
    Principle(f"rule-{i}", f"The agent should keep rule {i}.", "own", f"kind-{i % 3}")
    for i in range(30)
)

DOMAINS = tuple(Domain(f"field-{i}", f"Domain {j}", ("a", "b")) for i in range(5) for j in range(2))

MANIFEST = Manifest(
    sdsd="0.1.0",
    created="2025-01-01T00:00:00Z",
    python="3.12",
    machine="a machine",
    seed=0,
    config="ab" * 32,
    catalogue="cd" * 32,
    prompts={"plan": "ef" * 32},
    models=dict.fromkeys(ROLES, "a-model"),
    weights={"a-model": "01" * 32},
    protocol="continuation",
)

Say = Callable[[str], str]


def scenario(i: int, say: Say = str) -> Scenario:
    domain = DOMAINS[i % len(DOMAINS)]
    two = (PRINCIPLES[2 * i % 30], PRINCIPLES[(2 * i + 1) % 30])
    return Scenario(
        id=f"{i:06d}-x",
        index=i,
        field=say(domain.field),
        domain=say(domain.name),
        subarea=say("a subarea"),
        goal=Goal("g", "kind", say("A goal.")),
        principles=tuple(replace(p, text=say(p.text), category=say(p.category)) for p in two),
        exchanges=2,
    )


def verdicts(scenario: Scenario, found: str, say: Say = str) -> Critique:
    """`found`: a letter for each principle: c(lean), u(nsupported), v(iolated)."""
    return Critique(
        tuple(
            Verdict(
                p.id,
                violated=kind != "c",
                reason=say("Because."),
                quote=say("the last") if kind != "c" else "",
                severity="high" if kind != "c" else None,
                grounded=kind == "v",
            )
            for p, kind in zip(scenario.principles, found, strict=True)
        )
    )


def record(
    i: int = 0,
    found: str = "vc",
    outcome: Outcome = "accepted",
    rule: str = "",
    say: Say = str,
    stop: StopReason = "completed",
    flagged: bool = True,
    revisions: int = 1,
) -> Record:
    s = scenario(i, say)
    turns = ("user", "first"), ("assistant", "second"), ("user", "third"), ("assistant", "the last")
    tries = [Revision(say("nearly"), verdicts(s, "vc", say))] * (revisions - 1)
    if revisions:
        tries.append(Revision(say("the better last"), verdicts(s, "cc", say)))
    return Record(
        scenario=s,
        outcome=outcome,
        rule=rule,
        plan=Plan(say("text"), (say("one"), say("two")), say("slip"), say("person")),
        dialogue=Dialogue(
            tuple(Message(role, say(said)) for role, said in turns),  # type: ignore[arg-type]
            "continuation",
            stop,
            flagged,
        ),
        critique=verdicts(s, found, say),
        revisions=tuple(tries),
        usage={"plan": StageUsage(1, 100, 40, 20, 1.5), "turn": StageUsage(4, 400, 380, 80, 3.0)},
    )


def failed(i: int, cause: str = "unparseable", raw: str = "raw", say: Say = str) -> Record:
    failure = Failure("plan/retry/1", say(cause), say(raw))
    use = {"plan": StageUsage(2, 200, 0, 60, 3.0)}
    return Record(scenario(i, say), "failed", failure=failure, usage=use)


def figures(records: list[Record], config: Config = CONFIG) -> Figures:
    answers = [(1000.0 + i, "turn", 10) for i in range(4 * len(records))]
    return collect(iter(records), iter(answers), config, (PRINCIPLES, DOMAINS))


def mixed() -> list[Record]:
    return [
        record(0, "vc"),
        record(1, "vv", revisions=2, flagged=False),
        record(2, "cc", "filtered", "no_violation", revisions=0),
        record(3, "uc", "filtered", "unsupported_violation", revisions=0, stop="early_end"),
        record(4, "vu", "filtered", "not_repaired", flagged=False),
        failed(5),
    ]
