"""Every key of a configuration: its type, bounds, default, and description.

Descriptions are part of the types, so the tables in `docs/configuration.md`, the file that
`sdsd init` writes and the JSON schema for editors all come from here (see `keys` and `writing`).
Each key is marked where it is declared: `identity` if its value decides what a run makes,
`execution` if it only decides how the run is carried out and may change between two starts.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta, field

from sdsd.config.fields import (
    Amount,
    Count,
    FileName,
    Fraction,
    NameOrFile,
    Natural,
    Section,
    Temperature,
    Tokens,
    execution,
    identity,
)
from sdsd.config.model_schema import ModelConfig
from sdsd.types import ROLES, PairKind, Role

PROTOCOLS = ("auto", "transcript", "continuation", "chat", "roleplay")
EXCLUDED_RULES = (
    "off_topic", "role_flip", "self_thanks", "user_refusal", "speaker_label", "plan_leak",
    "placeholder", "marker",
)  # fmt: skip
"""The rules of `sdsd.checks.dialogue_rules` that keep dialogues out of the training views unless
the user says otherwise: where one applies, there is no conversation between a user and an agent."""
TOP_P = 0.95
"""Nucleus sampling of plans and turns, for models whose `extra_body` has no `top_p`."""
MODEL_NAME = re.compile(r"[A-Za-z0-9_-]+")
"""Names under `models` and `critique.critics`. No dots: they separate the parts of a key."""

JudgeMethod = Literal["verdict", "contrast"]
SourceKind = Literal[
    "auto", "messages", "sharegpt", "preference", "instruction", "sdsd-dialogues",
    "sdsd-revisions", "plans",
]  # fmt: skip
Vote = Literal["any", "majority", "all", "weighted"]

# One paragraph for each key, laid out by hand.
# fmt: off


class BudgetConfig(Section, frozen=True):
    """When to stop spending. The run stops cleanly, and continues with a larger budget."""

    tokens: Annotated[Natural, execution(
        "Prompt and completion tokens of all models together. 0: no limit.")] = 0
    money: Annotated[Amount, execution("In the currency of the prices. 0: no limit.")] = 0.0


class TelemetryConfig(Section, frozen=True):
    """What a run reports while it is in progress; see `docs/observability.md`."""

    port: Annotated[Annotated[int, Meta(ge=0, le=65535)] | None, execution(
        "Serve Prometheus metrics at `/metrics` on this port of 127.0.0.1; needs the extra "
        "`metrics`. 0: a free port. Empty: no server.")] = None


class RolesConfig(Section, frozen=True):
    """Which of `models` plays which role."""

    planner: Annotated[str, identity("Writes the plan.")] = "default"
    user: Annotated[str, identity(
        "Writes the user's turns under the protocol `roleplay`; under the others the agent's model "
        "writes both sides. With a model other than the agent's, `auto` chooses `roleplay`."
    )] = "default"
    agent: Annotated[str, identity("Writes the agent's turns.")] = "default"
    critic: Annotated[str, identity(
        "Judges the last reply, and rechecks its revision.")] = "default"
    reviser: Annotated[str, identity("Rewrites the last reply.")] = "default"


class CatalogueConfig(Section, frozen=True):
    """Your own lists in place of the packaged ones (YAML or JSONL). File names are relative to the
    configuration that names them."""

    topics: Annotated[FileName, identity(
        "A file, or a directory of files, of fields, domains and subareas.")] = ""
    principles: Annotated[FileName, identity(
        "A file, or a directory of files, of principles.")] = ""
    goals: Annotated[FileName, identity(
        "A file, or a directory of files, of goals.")] = ""
    affinities: Annotated[FileName, identity(
        "A file, or a directory of files, of what goes with what: principles with fields, goals "
        "and strategies; see `docs/catalogue.md`.")] = ""
    scope: Annotated[Literal["auto", "all", "decidable"], identity(
        "Which principles to use: `all`, or those that a program decides. `auto`: all, unless by "
        "its exam no critic of the run can verify any other of the packaged principles.")] = "auto"


class SourceConfig(Section, frozen=True):
    """Existing dialogues or plans to start from; see `docs/start-anywhere.md`."""

    path: Annotated[FileName, identity(
        "A file or directory (Parquet, JSONL, JSON, CSV), `hf:org/name`, or a run directory. "
        "Empty: start from the catalogue.")] = ""
    kind: Annotated[SourceKind, identity(
        "The layout of its rows. `auto`: inferred from their columns.")] = "auto"
    split: Annotated[str, identity("The split to read, if there are several.")] = ""


class ScenariosConfig(Section, frozen=True):
    """The inputs of each dialogue."""

    principles: Annotated[tuple[Count, Count], identity(
        "Fewest and most principles in a dialogue.")] = (1, 3)
    exchanges: Annotated[tuple[Count, Count], identity(
        "Fewest and most exchanges (a user turn and an agent turn) to plan.")] = (2, 4)
    strategies: Annotated[tuple[NameOrFile, ...], identity(
        "How to elicit violations, in turn: names of packaged strategies, `all` for all of them, "
        "or your own files; see `docs/strategies.md`.", min_length=1)] = ("direct",)


class TargetsConfig(Section, frozen=True):
    """How many verified pairs to make, and of what. The run continues until each cell has them
    or has been given up as too expensive; see `docs/targets.md`."""

    by: Annotated[Literal["principle", "category", "domain", "field", "strategy"], identity(
        "What a cell is. A pair counts for the principles whose violation is confirmed in it."
    )] = "principle"
    pairs: Annotated[Natural, identity(
        "Verified pairs wanted in every cell. 0 without `cells`: no targets; the run makes `n` "
        "dialogues.")] = 0
    cells: Annotated[dict[str, Natural], identity(
        "Different numbers for individual cells, by id or name.")] = {}
    cost: Annotated[float, identity(
        "Most dialogues that a pair may cost. A cell is given up once it has used this many for "
        "each of its pairs and for two more.", ge=1)] = 60.0

    @property
    def on(self) -> bool:
        return bool(self.pairs or self.cells)


class PlanConfig(Section, frozen=True):
    """How plans are written."""

    max_tokens: Annotated[Tokens, identity("Maximum length of a plan, in tokens.")] = 240
    temperature: Annotated[Temperature, identity("Sampling temperature.")] = 0.7


class DialogueConfig(Section, frozen=True):
    """How conversations are generated."""

    protocol: Annotated[str, identity(
        "How turns are requested: `transcript`, `continuation`, `chat` or `roleplay` (see "
        "`docs/method.md`), your own as `package.module:name` (see `docs/extending.md`), or "
        "`auto`, the best that the agent's server supports.")] = "auto"
    max_exchanges: Annotated[Count, identity(
        "Most exchanges in a dialogue, whatever its plan says.")] = 8
    agent_sees_plan: Annotated[bool, identity(
        "`roleplay`: whether the agent knows the plan. Agents that do not know it sound more "
        "natural and violate principles less often, and what they are told can be trained on: the "
        "system turn of the training views.")] = True
    candidates: Annotated[int, identity(
        "Samples of the agent's last reply. The critic judges them all; one that violates a "
        "principle is kept, and each clean one makes a pair with it (not with `transcript`).",
        ge=1, le=16)] = 1
    siblings: Annotated[int, identity(
        "For `contrast` pairs: most samples of each of the two replies, the one told to violate "
        "the target principle and the one told to satisfy it; sampling ends with the first that "
        "the critic confirms (not with `transcript`).", ge=1, le=16)] = 3
    self_check: Annotated[Literal["every", "last", "never"], identity(
        "After which agent turns the model is asked whether a principle was violated and whether "
        "the conversation is over (not with `transcript`). Only after the last one where the "
        "user's last message was written before the plan.")] = "every"
    max_tokens: Annotated[Tokens, identity(
        "Maximum length of one turn, in tokens; a `transcript` gets this many per turn.")] = 160
    temperature: Annotated[Temperature, identity("Sampling temperature.")] = 0.8


class CriticConfig(Section, frozen=True):
    """One of several critics."""

    model: Annotated[str, identity("One of `models`. Empty: that of `roles.critic`.")] = ""
    use: Annotated[str, identity(
        "Your own critic in place of a model: a function as `package.module:name`, or the name of "
        "an installed plugin; see `docs/extending.md`. The keys for models do not apply to it."
    )] = ""
    method: Annotated[JudgeMethod, identity(
        "`verdict`: ask whether the reply violates the principle. `contrast`: compare how likely "
        "the reply is from a model told to satisfy the principle and from one told to violate it; "
        "for servers that can score given text.")] = "verdict"
    examples: Annotated[int, identity(
        "Example pairs of the principle that it is shown.", ge=0, le=8)] = 1
    wording: Annotated[Literal["plain", "defend", "stranger"], identity(
        "How to ask: `plain`; `defend`, after writing the best defence of the reply; or "
        "`stranger`, as an attentive outsider would see it.")] = "plain"
    order: Annotated[Literal["yes_first", "no_first"], identity(
        "Which answer the question names first.")] = "yes_first"
    weight: Annotated[float, identity("How much its vote counts with `vote: weighted`.",
        gt=0)] = 1.0


class CritiqueConfig(Section, frozen=True):
    """How the last reply is judged."""

    critics: Annotated[dict[str, CriticConfig], identity(
        "Several critics that vote, under names of your choice. Empty: a single critic, the model "
        "of `roles.critic`.")] = {}
    method: Annotated[Literal["auto", "verdict", "contrast"], identity(
        "How the single critic judges; see `critique.critics.NAME.method`. `auto`: whichever did "
        "better in the critic's exam.")] = "auto"
    examples: Annotated[int, identity(
        "Example pairs of the principle that the single critic is shown; `contrast` pairs are made "
        "with the others.", ge=0, le=8)] = 1
    precision: Annotated[float, identity(
        "Wanted share of true labels among those that a critic gives; from its exam follows how "
        "sure it must be.", gt=0.5, lt=1)] = 0.9
    exam: Annotated[Natural | None, identity(
        "Items of the exam that the critics take before the first dialogue, unless a result is at "
        "hand; see `docs/exam.md`. 0: no exam; then nobody knows how many pairs are true. Empty: "
        "24, and none for models that a program passes as objects.")] = None
    vote: Annotated[Vote, identity(
        "When a violation counts: if `any` critic claims it with a quotation found in the reply, "
        "if more than half of the critics do (`majority`), if `all` do, or "
        "if those who do have more than half of the weight (`weighted`).")] = "majority"
    turns: Annotated[Literal["last", "every"], identity(
        "Whether to judge the agent's earlier turns as well.")] = "last"
    adherence: Annotated[bool, identity(
        "Whether to ask the critic which steps of the plan the conversation shows. The answers "
        "only fill the column `plan_adherence`.")] = False
    max_tokens: Annotated[Tokens, identity("Maximum length of one verdict, in tokens.")] = 200
    temperature: Annotated[Temperature, identity(
        "Sampling temperature of the first attempt; a retry is always sampled.")] = 0.0


class ReviseConfig(Section, frozen=True):
    """How the last reply is revised."""

    rounds: Annotated[int, identity(
        "Most revisions of a reply, each of them rechecked. 0: critique only.", ge=0, le=8)] = 2
    recheck: Annotated[bool, identity(
        "Whether the critic must find a revision clean before it is accepted.")] = True
    vote: Annotated[Vote, identity(
        "With several critics: whose claims of a violation refuse a revision.")] = "any"
    style: Annotated[Literal["critique", "principle"], identity(
        "`critique`: each round repairs what the critics found. `principle`: each round rewrites "
        "the reply in the light of one of the dialogue's principles, chosen at random, and the "
        "last is rechecked (Constitutional AI, arXiv 2212.08073).")] = "critique"
    max_tokens: Annotated[Tokens, identity("Maximum length of the new reply, in tokens.")] = 220
    temperature: Annotated[Temperature, identity("Sampling temperature.")] = 0.5


class DuplicatesConfig(Section, frozen=True):
    """Dialogues that repeat an earlier one are left out; the first of them stays."""

    method: Annotated[Literal["off", "exact", "near", "semantic"], execution(
        "`exact`: the same words. `near`: nearly the same words (MinHash), and exact repeats. "
        "`semantic`: the same content in other words (static embeddings; needs the extra "
        "`semantic`), and near repeats.")] = "exact"
    near: Annotated[Fraction, execution(
        "Jaccard similarity of their runs of five words at which two dialogues count as near "
        "repeats.")] = 0.7
    semantic: Annotated[Fraction, execution(
        "Cosine similarity of their embeddings at which two dialogues count as semantic repeats."
    )] = 0.8
    against: Annotated[tuple[FileName, ...], execution(
        "Run directories or exported data sets whose dialogues count as earlier ones.")] = ()


class ContaminationConfig(Section, frozen=True):
    """Evaluation sets that no training data may repeat."""

    sets: Annotated[tuple[FileName, ...], execution(
        "Files or directories (Parquet, JSONL, JSON, CSV, text); every text in them counts.")] = ()
    words: Annotated[int, execution(
        "A dialogue that shares this many consecutive words with an evaluation set is left out.",
        ge=3)] = 13


class PairFilterConfig(Section, frozen=True):
    """Which verified pairs are good enough to train on."""

    exclude_warnings: Annotated[tuple[str, ...], execution(
        "Leave out pairs with these warnings, which `docs/quality.md` lists, e.g. `lost_facts`."
    )] = ()
    max_similarity: Annotated[float, execution(
        "Leave out pairs whose two replies are more similar than this (the column `similarity`).",
        ge=0, le=1)] = 1.0
    max_length_ratio: Annotated[Amount, execution(
        "Leave out pairs whose longer reply has more than this many times the characters of the "
        "shorter one. 0: no limit.")] = 0.0
    min_critic_margin: Annotated[float, execution(
        "Leave out pairs whose `critic_margin` is known and smaller than this.",
        ge=-1, le=1)] = -1.0


class BalanceConfig(Section, frozen=True):
    """Balance the verified pairs by a seeded choice among them."""

    by: Annotated[Literal["", "principle", "category", "domain", "field", "strategy"], execution(
        "What to balance. A pair counts for the first principle that it violates. Empty: nothing."
    )] = ""
    shares: Annotated[dict[str, Amount], execution(
        "Relative shares of individual cells, by id or name. Cells not listed have 1; 0 leaves a "
        "cell "
        "out.")] = {}
    max_pairs: Annotated[Natural, execution(
        "Most pairs in a cell of share 1. 0: as many as the scarcest cell allows, so that the "
        "shares are exact.")] = 0


class SplitsConfig(Section, frozen=True):
    """Splits without leakage: a group is always in the same split, however far a run grows."""

    by: Annotated[Literal["domain", "field", "subarea"], execution(
        "What makes a group.")] = "domain"
    validation: Annotated[float, execution("Share of the groups in the split `validation`.",
        ge=0, lt=1)] = 0.0
    test: Annotated[float, execution(
        "Share of the groups in the split `test`; the others are in `train`.", ge=0, lt=1)] = 0.0


class ExportConfig(Section, frozen=True):
    """Which dialogues the data set has. Nothing is lost: `sdsd export` rewrites the data set at any
    time."""

    exclude: Annotated[tuple[str, ...], execution(
        "Keep dialogues and pairs that break these rules, which `docs/quality.md` lists, out of "
        "the training views. `default` stands for the rules of the default. []: none."
    )] = EXCLUDED_RULES
    truncate: Annotated[bool, execution(
        "End `dialogues` before the first exchange that breaks a rule, and leave out those that "
        "begin with one.")] = False
    include_plan: Annotated[bool, execution(
        "Put the plan as a system turn before the messages of `sft`.")] = False
    canary: Annotated[bool | str, execution(
        "A text that every row of the training views carries in a column `canary`, outside of the "
        "messages, to find copies of the data set by. `true`: the usual form, with a GUID of the "
        "run's own.")] = False
    tokenizer: Annotated[FileName, execution(
        "A model's directory with `tokenizer.json`, or `hf:org/name`: count the tokens of every "
        "row by its chat template; needs the extra `tokens`. Empty: no counts.")] = ""
    views: Annotated[tuple[str, ...], execution(
        "Your own views, as `package.module:name`, in addition to the packaged ones; see "
        "`docs/extending.md`.")] = ()
    filters: Annotated[tuple[str, ...], execution(
        "Your own functions, as `package.module:name`, that decide which dialogues stay.")] = ()
    checks: Annotated[tuple[str, ...], execution(
        "Your own quality checks, as `package.module:name`. What they find is a warning; name one "
        "in `exclude` to leave such dialogues out.")] = ()
    duplicates: Annotated[DuplicatesConfig, execution()] = DuplicatesConfig()
    contamination: Annotated[ContaminationConfig, execution()] = ContaminationConfig()
    pairs: Annotated[PairFilterConfig, execution()] = PairFilterConfig()
    balance: Annotated[BalanceConfig, execution()] = BalanceConfig()
    splits: Annotated[SplitsConfig, execution()] = SplitsConfig()


class PromptsConfig(Section, frozen=True):
    """Your own prompt files in place of the packaged ones (see `docs/prompts.md`). File names are
    relative to the configuration that names them."""

    plan: Annotated[FileName, identity("Asks for the plan.")] = ""
    transcript: Annotated[FileName, identity("Asks for a whole dialogue at once.")] = ""
    continuation: Annotated[FileName, identity(
        "The beginning of the growing stream, and the self-check.")] = ""
    chat: Annotated[FileName, identity(
        "The one chat in which both sides are written, and the self-check.")] = ""
    roleplay: Annotated[FileName, identity("The two sides' views, and the self-check.")] = ""
    review: Annotated[FileName, identity(
        "The critic's and the reviser's requests, which begin alike.")] = ""
    directed: Annotated[FileName, identity(
        "The two opposite directions about a principle, of `contrast`.")] = ""
    siblings: Annotated[FileName, identity(
        "Tells the agent how to violate a principle, for `contrast` pairs.")] = ""
    stake: Annotated[FileName, identity(
        "Asks for the user's last message, in which the target principle is at stake.")] = ""


class Config(Section, frozen=True):
    """A whole run."""

    n: Annotated[Natural, execution(
        "Number of dialogues. Raise it later to grow the run. With `targets` or a `source` this "
        "is the maximum, and the default is 0: as many as needed, or as the source has.")] = 3
    seed: Annotated[int, identity("Decides every scenario and every sampling seed.")] = 0
    models: Annotated[dict[str, ModelConfig], identity(
        "Models by names of your choice. `default` plays every role not given to others."
    )] = field(default_factory=lambda: {"default": ModelConfig()})
    roles: RolesConfig = RolesConfig()
    catalogue: CatalogueConfig = CatalogueConfig()
    source: SourceConfig = SourceConfig()
    scenarios: ScenariosConfig = ScenariosConfig()
    targets: TargetsConfig = TargetsConfig()
    pairs: Annotated[tuple[PairKind, ...] | Literal["auto"], identity(
        "Kinds of pairs to make, e.g. `[contrast, revision]`: `contrast`, two samples of the last "
        "reply, one told to satisfy the target principle and one to violate it; `revision`, the "
        "last reply and its revision; `on_policy`, other samples of the last reply that are clean. "
        "`auto`: `revision` and `on_policy` if the critic passed its exam by its word; otherwise "
        "`contrast` and `on_policy`.")] = "auto"
    plan: PlanConfig = PlanConfig()
    dialogue: DialogueConfig = DialogueConfig()
    critique: CritiqueConfig = CritiqueConfig()
    revise: ReviseConfig = ReviseConfig()
    prompts: PromptsConfig = PromptsConfig()
    pipeline: Annotated[str, identity(
        "Your own pipeline in place of the packaged one, as `package.module:name`; see "
        "`docs/extending.md`.")] = ""
    export: Annotated[ExportConfig, execution()] = ExportConfig()
    attempts: Annotated[int, identity(
        "Attempts to get a reply that can be parsed, including the first; messages and turns, "
        "which cost little, get twice as many.", ge=1, le=9)] = 3
    max_open_dialogues: Annotated[Natural, execution(
        "Dialogues in flight at once. 0: as many as the servers accept requests.")] = 0
    budget: Annotated[BudgetConfig, execution()] = BudgetConfig()
    telemetry: Annotated[TelemetryConfig, execution()] = TelemetryConfig()

    @property
    def role_models(self) -> dict[Role, str]:
        """By role, the name under `models` of its model; each critic that is a model is a role."""
        roles = {role: getattr(self.roles, role) for role in ROLES}
        critics = [(name, c) for name, c in self.critique.critics.items() if not c.use]
        return roles | {f"critic/{name}": c.model or self.roles.critic for name, c in critics}

    def model_for(self, role: Role) -> ModelConfig:
        """Return the model that plays `role`."""
        return self.models[self.role_models[role]]
