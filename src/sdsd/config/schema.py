"""Every key of a configuration: its type, its bounds, its default and what it means.

The reference in `docs/configuration.md` is generated from this file. Unknown keys are refused by
name.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from sdsd.types import ROLES, ProtocolName, Role

PROTOCOLS = ("auto", "transcript", "continuation", "chat", "roleplay")
DEFAULT_MODEL = "qwen2.5-coder-1.5b"

Count = Annotated[int, Meta(ge=1)]
Tokens = Annotated[int, Meta(ge=1, le=32768)]
Temperature = Annotated[float, Meta(ge=0.0, le=2.0)]
Fraction = Annotated[float, Meta(gt=0.0, le=1.0)]
Seconds = Annotated[float, Meta(gt=0.0)]
Amount = Annotated[float, Meta(ge=0.0)]


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all sections share: immutable, and no misspelt key goes unnoticed."""


class PriceConfig(_Section, frozen=True):
    """What a million tokens cost, in any one currency; for estimates, accounts and budgets."""

    prompt: Amount = 0.0
    """Prompt tokens."""
    cached: Annotated[float, Meta(ge=0)] | None = None
    """Prompt tokens that the server found in its cache. Empty: as other prompt tokens."""
    completion: Amount = 0.0
    """Tokens of replies."""


class BudgetConfig(_Section, frozen=True):
    """When to stop spending. The run stops cleanly then, and continues with a larger budget."""

    tokens: Annotated[int, Meta(ge=0)] = 0
    """Prompt and reply tokens of all models together. 0: no bound."""
    money: Amount = 0.0
    """In the currency of the prices. 0: no bound."""


class TelemetryConfig(_Section, frozen=True):
    """What a run tells while it goes on; see `docs/observability.md`."""

    log: bool = True
    """Keep `logs/run.jsonl`."""
    calls: bool = False
    """A line for each call in the log, too."""
    metrics: bool = True
    """Keep `metrics.prom`, for Prometheus."""
    port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    """Answer `GET /metrics` on this port of 127.0.0.1. 0: a free one. Empty: none."""
    content: bool = False
    """Let texts of prompts and replies into OpenTelemetry's spans."""


class BatchConfig(_Section, frozen=True):
    """The rounds of `transport: batch`."""

    max_requests: Annotated[int, Meta(ge=1)] = 50_000
    """Requests in one round, and so dialogues under way at once."""
    gather: Seconds = 2.0
    """A round is sent after so many seconds without a new request."""
    window: str = "24h"
    """The time the provider is given, as it wants it written."""
    poll: Seconds = 15.0
    """Seconds between two looks at a batch, at first."""


class ModelConfig(_Section, frozen=True):
    """One model: the embedded engine, or any OpenAI-compatible server."""

    model: str = DEFAULT_MODEL
    """A named model (`sdsd models`), a path to a GGUF, `hf:org/repo/file.gguf`; with `base_url`,
    the name that the server knows it by."""
    base_url: str | tuple[str, ...] = ""
    """The server, e.g. `http://localhost:8000/v1`, or a list of servers of this same model. Empty:
    the embedded engine, or, for a name that is no model file, `OPENAI_BASE_URL`."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key. The key itself is never written anywhere."""
    headers: dict[str, str] = {}
    """Sent with every request to `base_url`."""
    chat_template: str = ""
    """Where the model's chat template is, for `continuation` at servers that do not tell it: a
    `.jinja` file, a `tokenizer_config.json`, a directory with either, or a GGUF."""
    launch: Literal["", "vllm"] = ""
    """`vllm`: start `vllm serve` for this model, watch it, and stop it at the end."""
    arguments: tuple[str, ...] = ()
    """More arguments for the program that is launched, e.g. `--tensor-parallel-size=2`."""
    start_timeout: Seconds = 1800.0
    """Seconds that a launched server may take to load and compile."""
    restarts: Annotated[int, Meta(ge=0)] = 3
    """How often a launched server is started again after it died."""
    transport: Literal["online", "batch"] = "online"
    """`batch`: through the provider's batch interface, in rounds that may take hours each and often
    cost half; see `docs/servers.md`."""
    batch: BatchConfig = BatchConfig()
    extra_body: dict[str, Any] = {}
    """Added to the body of every request, e.g. a provider's own switches."""
    parallel: Annotated[int, Meta(ge=0)] = 0
    """The most requests in flight at once at each server. 0: two for each core (at most 16) for the
    embedded engine; found out while it works for other servers."""
    requests_per_minute: Annotated[float, Meta(ge=0)] = 0
    """A provider's limit, kept to. 0: none."""
    tokens_per_minute: Annotated[float, Meta(ge=0)] = 0
    """A provider's limit of prompt and reply tokens together, kept to. 0: none."""
    price: PriceConfig = PriceConfig()
    context: Annotated[int, Meta(ge=512)] = 4096
    """Tokens of context: of each slot of the embedded engine, or of a launched server."""
    threads: Annotated[int, Meta(ge=0)] = 0
    """Embedded engine: threads that compute. 0: chosen from the machine."""
    timeout: Seconds = 600.0
    """Seconds that one request may take before it is tried again."""
    connect_timeout: Seconds = 15.0
    """Seconds that opening a connection may take."""
    idle_timeout: Seconds = 120.0
    """Seconds of silence within a reply that has begun."""
    retries: Annotated[int, Meta(ge=0)] = 16
    """How often a request is tried again that the server does not answer while it answers others;
    then its dialogue is recorded as failed."""
    outage: Seconds = 600.0
    """Seconds in which a server may answer nothing at all before the run stops (it can be
    continued)."""

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers' addresses; none for the embedded engine."""
        if isinstance(self.base_url, str):
            return (self.base_url,) if self.base_url else ()
        return self.base_url


class RolesConfig(_Section, frozen=True):
    """Which of `models` plays which role."""

    planner: str = "default"
    """Writes the plan."""
    user: str = "default"
    """Writes the user's turns (`roleplay` only; else the agent's model writes both sides). A model
    of its own makes `auto` choose `roleplay`."""
    agent: str = "default"
    """Writes the agent's turns."""
    critic: str = "default"
    """Judges the last turn and rechecks its revision."""
    reviser: str = "default"
    """Rewrites the last turn."""


class CatalogueConfig(_Section, frozen=True):
    """Your own lists instead of the packaged ones (YAML, TOML, CSV or JSONL). File names are
    relative to the configuration that names them."""

    topics: str = ""
    """A file, or a directory of files, of fields, domains and subareas."""
    principles: str = ""
    """A file of principles."""
    goals: str = ""
    """A file of goals."""


class SourceConfig(_Section, frozen=True):
    """Dialogues or plans to start from, instead of nothing; see `docs/start-anywhere.md`."""

    path: str = ""
    """A file or directory (Parquet, JSONL, JSON), `hf:org/name`, or a run directory. Empty:
    none."""
    kind: Literal["auto", "messages", "sharegpt", "sdsd-dialogues", "sdsd-revisions", "plans"] = (
        "auto"
    )
    """What its rows are."""
    split: str = ""
    """Which split, where there are several."""


class ScenariosConfig(_Section, frozen=True):
    """What one dialogue is about."""

    principles: tuple[Count, Count] = (1, 3)
    """Least and most principles per dialogue."""
    exchanges: tuple[Count, Count] = (2, 4)
    """Least and most exchanges (a user turn and an agent turn) that a plan is asked for."""
    strategies: Annotated[tuple[str, ...], Meta(min_length=1)] = ("direct",)
    """How violations are elicited, in turn: names of packaged strategies (`all` for all of them),
    or files of your own; see `docs/strategies.md`."""


class TargetsConfig(_Section, frozen=True):
    """How many verified pairs are wanted, and of what. The run goes on until each cell has them, or
    was found too dear; see `docs/targets.md`."""

    by: Literal["principle", "category", "domain", "field", "strategy"] = "principle"
    """What a cell is. A pair counts for the principles that are confirmed as broken in it."""
    pairs: Annotated[int, Meta(ge=0)] = 0
    """Verified pairs for every cell. 0 and no `cells`: no targets, `n` dialogues."""
    cells: dict[str, Annotated[int, Meta(ge=0)]] = {}
    """Other numbers for single cells, by id or name."""
    cost: Annotated[float, Meta(ge=1)] = 60.0
    """Dialogues that a pair may cost. A cell is given up once it has had so many for each of its
    pairs and for `patience` more."""
    patience: Annotated[int, Meta(ge=1)] = 2
    """1 gives up as soon as `cost` is exceeded even if the next dialogue made a pair, and so by bad
    luck, too; more errs less and spends more."""
    explore: Annotated[float, Meta(ge=0, le=1)] = 0.1
    """Share of the dialogues whose strategy is drawn evenly, not by what worked."""

    @property
    def on(self) -> bool:
        """Whether there are any."""
        return bool(self.pairs or self.cells)


class PlanConfig(_Section, frozen=True):
    """The plan."""

    max_tokens: Tokens = 240
    """Length of the reply, at most."""
    temperature: Temperature = 0.7
    """Sampling temperature."""
    top_p: Fraction = 0.95
    """Nucleus sampling."""


class DialogueConfig(_Section, frozen=True):
    """The conversation."""

    protocol: str = "auto"
    """How it is generated: `transcript`, `continuation`, `chat`, `roleplay`, your own as
    `package.module:name` (see `docs/extending.md`), or `auto`, which picks by what the agent's
    server can do."""
    max_exchanges: Count = 8
    """No dialogue grows longer than this, whatever its plan says."""
    agent_sees_plan: bool = True
    """`roleplay`: whether the agent knows the plan. Blind agents talk more naturally and break
    principles less often."""
    candidates: Annotated[int, Meta(ge=1, le=16)] = 1
    """Samples of the agent's last turn. The critic judges all of them; a broken one is kept, and
    the clean ones make pairs with it (all but `transcript`)."""
    self_check: Literal["every", "last", "never"] = "every"
    """After which agent turns the speaking model is asked whether a principle was broken and
    whether the talk is over (all but `transcript`)."""
    max_tokens: Tokens = 160
    """Length of one turn, at most; a `transcript` gets this many for every turn planned."""
    temperature: Temperature = 0.8
    """Sampling temperature."""
    top_p: Fraction = 0.95
    """Nucleus sampling."""


class CriticConfig(_Section, frozen=True):
    """One of several critics."""

    model: str = ""
    """Which of `models` it is. Empty: that of `roles.critic`."""
    use: str = ""
    """A critic of your own instead of a model: a function as `package.module:name`, or an installed
    plugin's name; see `docs/extending.md`. The keys for models have no effect on it."""
    wording: Literal["plain", "defend", "stranger"] = "plain"
    """How the question is put: plainly; after the best defence of the reply; as an attentive
    stranger would see it."""
    order: Literal["yes_first", "no_first"] = "yes_first"
    """Which answer is named first."""
    weight: Annotated[float, Meta(gt=0)] = 1.0
    """What its vote counts, for `vote: weighted`."""


Vote = Literal["any", "majority", "all", "weighted"]


class CritiqueConfig(_Section, frozen=True):
    """The critic's judgement of the last turn, and of its revision."""

    critics: dict[str, CriticConfig] = {}
    """Several critics by a name of your choice, who vote. Empty: one, that of `roles.critic`."""
    vote: Vote = "majority"
    """When a violation counts: if any of the critics claims it with a quotation that is there, more
    than half of them, all, or those with more than half of the weight."""
    turns: Literal["last", "every"] = "last"
    """Whether the agent's earlier turns are judged as well."""
    adherence: bool = False
    """Whether the critic is also asked which points of the plan the talk shows; nothing depends on
    its answer but the column `plan_adherence`."""
    max_tokens: Tokens = 200
    """Length of one verdict, at most."""
    temperature: Temperature = 0.0
    """Sampling temperature of the first try; a verdict that must be asked again is sampled."""


class ReviseConfig(_Section, frozen=True):
    """The repair."""

    rounds: Annotated[int, Meta(ge=0, le=8)] = 2
    """Revisions tried, each rechecked. 0: critique only."""
    recheck: bool = True
    """Whether the critic must find the revision clean before it is accepted."""
    vote: Vote = "any"
    """Of several critics, whose claim of a violation refuses a revision."""
    style: Literal["critique", "principle"] = "critique"
    """`critique`: each round repairs what the critics found. `principle`: each round rewrites the
    turn in the light of one principle, drawn from the dialogue's, and the last is rechecked
    (Constitutional AI, arXiv 2212.08073)."""
    max_tokens: Tokens = 220
    """Length of the new turn, at most."""
    temperature: Temperature = 0.5
    """Sampling temperature."""


class DuplicatesConfig(_Section, frozen=True):
    """Dialogues that say what an earlier one said already; the first of them stays."""

    method: Literal["off", "exact", "near", "semantic"] = "exact"
    """`exact`: the same words. `near`: nearly the same words (MinHash), and exact ones. `semantic`:
    the same in other words (static embeddings; needs the extra `semantic`), and near ones."""
    near: Fraction = 0.7
    """Share of the runs of five words that two dialogues have in common (Jaccard) from which on
    they count as nearly the same."""
    semantic: Fraction = 0.8
    """Cosine of their embeddings from which on they count as the same in other words."""
    against: tuple[str, ...] = ()
    """Run directories or exported data sets whose dialogues count as earlier ones."""


class ContaminationConfig(_Section, frozen=True):
    """Evaluation sets that no training data may repeat."""

    sets: tuple[str, ...] = ()
    """Files or directories (Parquet, JSONL, JSON, text); every text in them counts."""
    words: Annotated[int, Meta(ge=3)] = 13
    """A dialogue that has so many words in a row with one of them is left out."""


class PairFilterConfig(_Section, frozen=True):
    """Which verified pairs are good enough to train on."""

    exclude_warnings: tuple[str, ...] = ()
    """Rules of `sdsd.checks.revision_rules`, e.g. `lost_facts`: pairs with such a doubt are left out."""
    max_similarity: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """Left out are pairs whose turns are more alike than this (the column `similarity`)."""
    max_length_ratio: Annotated[float, Meta(ge=0)] = 0.0
    """Left out are pairs whose longer turn has more than so many times the characters of the
    shorter one. 0: no limit."""
    min_critic_margin: Annotated[float, Meta(ge=-1, le=1)] = -1.0
    """Left out are pairs whose `critic_margin` is known and smaller."""


class BalanceConfig(_Section, frozen=True):
    """Shares of the verified pairs, by a seeded choice among them."""

    by: Literal["", "principle", "category", "domain", "field", "strategy"] = ""
    """What is balanced. A pair counts for the first principle broken in it. Empty: nothing."""
    shares: dict[str, Annotated[float, Meta(ge=0)]] = {}
    """Weights of single cells, by id or name; 1 where nothing is said, 0 leaves a cell out."""
    max_pairs: Annotated[int, Meta(ge=0)] = 0
    """Pairs of a cell of weight 1, at most. 0: as many as the cell with the fewest for its weight
    has, so that shares are exact."""


class SplitsConfig(_Section, frozen=True):
    """Splits without leakage: what belongs together is in one of them, however a run grows."""

    by: Literal["domain", "field", "subarea"] = "domain"
    """What belongs together."""
    validation: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Share of the groups that make the split `validation`."""
    test: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Share of the groups that make the split `test`; the others are `train`."""


class ExportConfig(_Section, frozen=True):
    """What of the dialogues goes into the data set. Nothing is lost by it: `sdsd export` writes the
    data set anew at any time."""

    exclude: tuple[str, ...] = ()
    """Rules of `docs/quality.md`: dialogues that break one of them are left out."""
    truncate: bool = False
    """`dialogues` end before the first exchange that breaks a rule; those that begin with one are
    left out."""
    include_plan: bool = False
    """Whether the plan stands as a system turn before the messages of `sft`."""
    views: tuple[str, ...] = ()
    """Views of your own, as `package.module:name`, in addition to the packaged ones."""
    filters: tuple[str, ...] = ()
    """Functions of your own, as `package.module:name`, that decide which dialogues stay."""
    checks: tuple[str, ...] = ()
    """Quality checks of your own, as `package.module:name`. What they find is a warning; name one
    in `exclude` to leave such dialogues out."""
    duplicates: DuplicatesConfig = DuplicatesConfig()
    contamination: ContaminationConfig = ContaminationConfig()
    pairs: PairFilterConfig = PairFilterConfig()
    balance: BalanceConfig = BalanceConfig()
    splits: SplitsConfig = SplitsConfig()


class PromptsConfig(_Section, frozen=True):
    """Your own prompt files instead of the packaged ones (see `docs/prompts.md`). File names are
    relative to the configuration that names them."""

    plan: str = ""
    """Asks for the plan."""
    transcript: str = ""
    """Asks for a whole dialogue at once."""
    continuation: str = ""
    """Opens the growing stream, and checks it."""
    chat: str = ""
    """The one chat in which both sides are written, and the check."""
    roleplay: str = ""
    """The two views, and the check."""
    review: str = ""
    """The critic's and the reviser's, which share their beginning."""


class Config(_Section, frozen=True):
    """A whole run."""

    n: Annotated[int, Meta(ge=0)] = 3
    """How many dialogues. May grow later: the run continues. With `targets` or a `source` the most,
    and 0, which is the default then, for as many as they take or it has."""
    seed: int = 0
    """Decides every scenario and every sampling seed."""
    models: dict[str, ModelConfig] = field(default_factory=lambda: {"default": ModelConfig()})
    """Models by a name of your choice. `default` is used where a role names no other."""
    roles: RolesConfig = RolesConfig()
    catalogue: CatalogueConfig = CatalogueConfig()
    source: SourceConfig = SourceConfig()
    scenarios: ScenariosConfig = ScenariosConfig()
    targets: TargetsConfig = TargetsConfig()
    plan: PlanConfig = PlanConfig()
    dialogue: DialogueConfig = DialogueConfig()
    critique: CritiqueConfig = CritiqueConfig()
    revise: ReviseConfig = ReviseConfig()
    prompts: PromptsConfig = PromptsConfig()
    pipeline: str = ""
    """A pipeline of your own in place of the packaged one, as `package.module:name`; see
    `docs/extending.md`."""
    export: ExportConfig = ExportConfig()
    attempts: Annotated[int, Meta(ge=1, le=9)] = 3
    """How often a reply that cannot be parsed is asked for, the first time included."""
    max_open_dialogues: Annotated[int, Meta(ge=0)] = 0
    """Dialogues under way at once. 0: as many as the servers take requests."""
    budget: BudgetConfig = BudgetConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    @property
    def cast(self) -> dict[Role, str]:
        """By role, the name under `models` of the one that plays it; each critic that is a model is a
        role."""
        roles = {role: getattr(self.roles, role) for role in ROLES}
        critics = [(name, c) for name, c in self.critique.critics.items() if not c.use]
        return roles | {f"critic/{name}": c.model or self.roles.critic for name, c in critics}

    def model_for(self, role: Role) -> ModelConfig:
        """The model that plays `role`."""
        return self.models[self.cast[role]]


_SERVING = (
    "base_url", "api_key_env", "headers", "parallel", "requests_per_minute", "tokens_per_minute",
    "price", "threads", "timeout", "connect_timeout", "idle_timeout", "retries", "outage",
    "chat_template", "launch", "arguments", "start_timeout", "restarts", "transport", "batch",
)  # fmt: skip
EXECUTION = re.compile(
    rf"n|max_open_dialogues|(budget|telemetry|export)\..*|models\.[^.]+\.({'|'.join(_SERVING)})(\..*)?"
)
"""Keys that decide how a run is executed, not what it makes."""

MODEL_NAME = re.compile(r"[A-Za-z0-9_-]+")
"""Names under `models`. No dots: a dotted key must tell where the name ends."""


def is_file(strategy: str) -> bool:
    """Whether a strategy is given by its file, not by a packaged name."""
    return "/" in strategy or strategy.endswith(".md")


def protocols(config: Config) -> tuple[ProtocolName, ...]:
    """The protocols that may be used, best first."""
    wanted = config.dialogue.protocol
    if wanted != "auto":
        return (wanted,)
    if config.roles.user != config.roles.agent or not config.dialogue.agent_sees_plan:
        return ("roleplay",)  # the others have one model write both sides, from one brief
    return ("continuation", "chat")
