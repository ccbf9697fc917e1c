"""The configuration of a run: every key, its default, its bounds and what it means.

The reference in `docs/configuration.md` is generated from this file. Unknown keys are refused by
name. A value that decides *what* is made belongs to the run's identity; one that only decides
*how fast* does not (`EXECUTION`), so it may change between two starts of the same run.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import itertools
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from sdsd.errors import ConfigError
from sdsd.types import ROLES, ProtocolName, Role

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


class ObserveConfig(_Section, frozen=True):
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

    most: Annotated[int, Meta(ge=1)] = 50_000
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

    protocol: Literal["auto", "transcript", "continuation", "chat", "roleplay"] = "auto"
    """How it is held; see `docs/method.md`. `auto` picks by what the agent's server can do."""
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
    style: Literal["faults", "principle"] = "faults"
    """`faults`: each round repairs what the critics found. `principle`: each round rewrites the
    turn in the light of one principle, drawn from the dialogue's, and the last is rechecked
    (Constitutional AI, arXiv 2212.08073)."""
    max_tokens: Tokens = 220
    """Length of the new turn, at most."""
    temperature: Temperature = 0.5
    """Sampling temperature."""


class ExportConfig(_Section, frozen=True):
    """What of the dialogues goes into the data set. Nothing is lost by it: `sdsd export` writes the
    data set anew at any time."""

    exclude: tuple[str, ...] = ()
    """Rules of `docs/quality.md`: dialogues that break one of them are left out of `dialogues`,
    `revisions` and `preference`."""
    cut: bool = False
    """`dialogues` end before the first exchange that breaks a rule; those that begin with one are
    left out."""


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
    export: ExportConfig = ExportConfig()
    attempts: Annotated[int, Meta(ge=1, le=9)] = 3
    """How often a reply that cannot be parsed is asked for, the first time included."""
    open: Annotated[int, Meta(ge=0)] = 0
    """Dialogues under way at once. 0: as many as the servers take requests."""
    budget: BudgetConfig = BudgetConfig()
    observe: ObserveConfig = ObserveConfig()

    @property
    def cast(self) -> dict[Role, str]:
        """By role, the name under `models` of the one that plays it; each critic is a role."""
        roles = {role: getattr(self.roles, role) for role in ROLES}
        critics = self.critique.critics.items()
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
    rf"n|open|(budget|observe|export)\..*|models\.[^.]+\.({'|'.join(_SERVING)})(\..*)?"
)
"""Keys that decide how a run is executed, not what it makes."""

MODEL_NAME = re.compile(r"[A-Za-z0-9_-]+")
"""Names under `models`. No dots: a dotted key must tell where the name ends."""

T = TypeVar("T")


def load(source: Path | Mapping[str, Any] | None, overrides: Mapping[str, Any] = {}) -> Config:
    """The configuration in a YAML file or mapping (None: all defaults), with dotted `overrides`.

    Raises `ConfigError` that names the file, the key and the remedy.
    """
    where = str(source) if isinstance(source, Path) else "configuration"
    tree = read(source) if isinstance(source, Path) else dict(source or {})
    tree = anchored(tree, source.parent if isinstance(source, Path) else Path(), where)
    # `model: x` is all that most runs need to say; an override beats the file.
    model = overrides.get("model", tree.get("model"))
    changes = {k: v for k, v in overrides.items() if k != "model"}
    if model is not None:
        changes = {"models.default.model": model, **changes}
    tree = {k: v for k, v in tree.items() if k != "model"}
    for key, value in changes.items():
        tree = _set(tree, key.split("."), value)
    tree = anchored(tree, Path(), where)
    if isinstance(tree.get("models"), dict):
        tree["models"] = {"default": {}, **tree["models"]}
        for name, model in tree["models"].items():  # one by one, so that a fault has its name
            _typed(model, ModelConfig, f"models.{name}", where)
    targets = tree.get("targets")
    source = tree.get("source")
    counted = isinstance(targets, dict) and (targets.get("pairs") or targets.get("cells"))
    if counted or (isinstance(source, dict) and source.get("path")):
        tree = {"n": 0, **tree}
    config = _typed(tree, Config, "", where)
    _check(config, where)
    return config


def tree(config: Config) -> dict[str, Any]:
    """The configuration as plain mappings, every key written out."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    return plain


def dump(config: Config) -> str:
    """The configuration as YAML, every key written out."""
    import yaml

    text: str = yaml.safe_dump(tree(config), sort_keys=False)
    return text


def assignment(text: str) -> tuple[str, Any]:
    """`key=value` from the command line; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: must be key=value, e.g. dialogue.protocol=roleplay")
    try:
        return key.strip(), _yaml(value)
    except ValueError:
        raise ConfigError(f"--set {text}: the value is not YAML") from None


def digest(config: Config) -> str:
    """Hex SHA-256 of what the run makes: every key but those of `EXECUTION`."""
    identity = {k: v for k, v in flat(config) if not EXECUTION.fullmatch(k)}
    return hashlib.sha256(msgspec.json.encode(identity, order="sorted")).hexdigest()


def differences(ours: Config, theirs: Config) -> list[str]:
    """Lines `key: theirs -> ours` for every key of identity in which two configurations differ."""
    a, b = dict(flat(theirs)), dict(flat(ours))
    keys = [k for k in {**a, **b} if a.get(k) != b.get(k) and not EXECUTION.fullmatch(k)]
    return [f"{k}: {a.get(k)!r} -> {b.get(k)!r}" for k in keys]


def flat(value: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a configuration with its dotted key."""
    tree = msgspec.to_builtins(value)
    for key, item in tree.items():
        if isinstance(item, dict) and item:
            yield from flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def meanings() -> dict[str, dict[str, str]]:
    """By class, what each key means: the strings under the fields in this file's source."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(Path(__file__).read_text("utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        keys = found.setdefault(node.name, {"": ast.get_docstring(node) or ""})
        for key, text in itertools.pairwise(node.body):
            if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr):
                keys[ast.unparse(key.target)] = " ".join(ast.literal_eval(text.value).split())
    return found


def explained() -> str:
    """The default configuration as YAML with every key explained: what `sdsd init` writes."""
    texts = meanings()
    lines = ["# A configuration of sdsd. Every key is optional; these are the defaults.", ""]

    def section(value: Any, indent: str) -> None:
        for key in value.__struct_fields__:
            item = getattr(value, key)
            lines.extend(_comment(texts[type(value).__name__].get(key, ""), indent))
            if isinstance(item, Struct):
                lines.extend(_comment(texts[type(item).__name__][""], indent))
                lines.append(f"{indent}{key}:")
                section(item, f"{indent}  ")
            elif key == "models":
                lines.extend([f"{indent}models:", f"{indent}  default:"])
                section(item["default"], f"{indent}    ")
            else:
                shown = msgspec.json.encode(item).decode()  # JSON is YAML
                lines.append(f"{indent}{key}: {shown}")
            if not indent:
                lines.append("")

    section(Config(), "")
    return "\n".join(lines)


def _comment(text: str, indent: str) -> list[str]:
    width = 96 - len(indent)
    return [f"{indent}# {line}" for line in textwrap.wrap(text.replace("`", ""), width)]


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `ConfigError` that names file and line."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `sdsd init` writes one to start from") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        tree = _yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path}{error}; mend the YAML there") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must be a mapping of keys; see docs/configuration.md")
    return tree


def _yaml(text: str) -> Any:
    """A YAML text as JSON would hold it: dates and numbers as keys become text.

    Raises `ValueError` that reads `:line: problem`, whatever is wrong.
    """
    import yaml

    try:
        return msgspec.json.decode(msgspec.json.encode(yaml.safe_load(text)))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ValueError(f"{line}: {getattr(error, 'problem', None) or 'not YAML'}") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        # A 13th month, a key that is a list, a value that holds itself.
        raise ValueError(f": {error}") from None


def anchored(tree: dict[str, Any], base: Path, where: str) -> dict[str, Any]:
    """`tree` with its file names made absolute, so that a run can be continued from anywhere."""

    def full(names: Any, keys: Iterable[str], section: str) -> Any:
        if not isinstance(names, dict):
            return names
        found = {k: names[k] for k in keys if isinstance(names.get(k), str) and names[k]}
        return {
            **names,
            **{k: _absolute(v, base, f"{where}: `{section}`") for k, v in found.items()},
        }

    for section in ("catalogue", "prompts"):
        if section in tree:
            tree = {**tree, section: full(tree[section], tree[section] or (), section)}
    source = tree.get("source")
    if isinstance(source, dict) and isinstance(path := source.get("path"), str) and path:
        if not path.startswith("hf:"):
            path = _absolute(path, base, f"{where}: `source`")
        tree = {**tree, "source": {**source, "path": path}}
    scenarios = tree.get("scenarios")
    if isinstance(scenarios, dict) and isinstance(named := scenarios.get("strategies"), list):
        files = [
            _absolute(n, base, f"{where}: `scenarios`") if isinstance(n, str) and is_file(n) else n
            for n in named
        ]
        tree = {**tree, "scenarios": {**scenarios, "strategies": files}}
    models = tree.get("models")
    if isinstance(models, dict):
        found = {k: full(m, ("chat_template",), f"models.{k}") for k, m in models.items()}
        tree = {**tree, "models": found}
    return tree


def is_file(strategy: str) -> bool:
    """Whether a strategy is given by its file, not by a packaged name."""
    return "/" in strategy or strategy.endswith(".md")


def _absolute(name: str, base: Path, where: str) -> str:
    """A file name of the configuration in the directory `base`."""
    try:  # not `./~x`: that is a file of this name
        path = Path(name).expanduser() if name[0] == "~" else Path(name)
    except RuntimeError as error:  # `~somebody`, who has no home here
        raise ConfigError(f"{where}: {error}; write the path out") from None
    return str((base / path).absolute())


def _set(tree: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """`tree` with the value at `path`, without touching the caller's mappings."""
    head, *rest = path
    below = tree.get(head)
    inner = _set(below if isinstance(below, dict) else {}, rest, value) if rest else value
    return {**tree, head: inner}


def _typed(tree: Any, kind: type[T], prefix: str, where: str) -> T:
    """`tree` as a `kind`; `prefix` is the dotted key that it stands under."""
    try:
        return msgspec.convert(tree, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_explain(str(error), prefix)}") from None


def _explain(message: str, prefix: str) -> str:
    """msgspec's message, with the dotted key and, for an unknown one, what was likely meant."""
    at = re.search(r" - at `(?:key in )?\$\.?(.*?)`$", message)
    below = at.group(1).removesuffix("[...]") if at else ""
    path = ".".join(filter(None, (prefix, below)))
    unknown = re.search(r"unknown field `(.*?)`", message)
    if not unknown:
        return f"`{path}`: {message.split(' - at ', maxsplit=1)[0]}; see docs/configuration.md"
    key = unknown.group(1)
    known = _keys_beside(path)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
    dotted = f"{path}.{key}" if path else key
    return f"unknown key `{dotted}`; {hint}"


def _keys_beside(path: str) -> list[str]:
    section: Any = Config
    if path.startswith("models."):
        section = ModelConfig
    elif path:
        section = type(getattr(Config(), path, None))
    known = list(section.__struct_fields__) if hasattr(section, "__struct_fields__") else []
    return [*known, "model"] if section is Config else known


def _check(config: Config, where: str) -> None:
    """What types alone cannot say."""
    _check_size(config, where)
    for name in config.critique.critics:
        if not MODEL_NAME.fullmatch(name):
            raise ConfigError(
                f"{where}: `critique.critics.{name}`: a name is letters, digits, `_` and `-`"
            )
    for role, name in config.cast.items():
        if name not in config.models:
            key = f"roles.{role}"
            if role not in ROLES:
                key = f"critique.critics.{role.partition('/')[2]}.model"
            raise ConfigError(
                f"{where}: `{key}` names `{name}`, which is not under `models` "
                f"({', '.join(config.models)}); add it there or name another"
            )
    for key in ("principles", "exchanges"):
        least, most = getattr(config.scenarios, key)
        if least > most:
            raise ConfigError(
                f"{where}: `scenarios.{key}`: [{least}, {most}] must be [least, most]"
            )
    most = config.scenarios.exchanges[1]
    if most > config.dialogue.max_exchanges:
        raise ConfigError(
            f"{where}: `scenarios.exchanges` asks for up to {most}, but `dialogue.max_exchanges` "
            f"is {config.dialogue.max_exchanges}; raise the one or lower the other"
        )
    _check_models(config, where)


def _check_size(config: Config, where: str) -> None:
    if not (config.n or config.targets.on or config.source.path):
        raise ConfigError(
            f"{where}: `n` must be at least 1, but for a run with `targets` or a `source`"
        )
    if config.targets.on and config.source.path:
        raise ConfigError(
            f"{where}: `targets` steer what is made, and a `source` is made already; leave out one"
        )


def _check_models(config: Config, where: str) -> None:
    for name, model in config.models.items():
        if not MODEL_NAME.fullmatch(name):
            raise ConfigError(
                f"{where}: `models` has the name `{name}`; use letters, digits, `_` and `-`"
            )
        if model.launch and model.base_url:
            raise ConfigError(
                f"{where}: `models.{name}` has both `launch` and `base_url`; take one of them out"
            )
        if model.transport == "batch" and len(model.urls) > 1:
            raise ConfigError(
                f"{where}: `models.{name}` has `transport: batch` and several addresses; a batch "
                "is made at one: leave one in `base_url`"
            )
        if model.transport == "batch" and model.launch:
            raise ConfigError(
                f"{where}: `models.{name}` has `transport: batch` and `launch`, whose servers "
                "have no batches; take one of them out"
            )
        if not model.model.strip():
            raise ConfigError(f"{where}: `models.{name}.model` is empty; name a model")


def protocols(config: Config) -> tuple[ProtocolName, ...]:
    """The protocols that may be used, best first."""
    wanted = config.dialogue.protocol
    if wanted != "auto":
        return (wanted,)
    if config.roles.user != config.roles.agent or not config.dialogue.agent_sees_plan:
        return ("roleplay",)  # the others have one model write both sides, from one brief
    return ("continuation", "chat")
