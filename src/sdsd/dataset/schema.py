"""Every view of a data set: its columns, their types and what they mean, in one place.

The tables of `docs/formats.md` are made from this file. A `published` column has the name, type
and meaning of the column in `allenai/sdsd-dialogues` or `allenai/sdsd-revisions`; those come
first, so that code written for the published sets reads ours.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import msgspec
import pyarrow as pa

from sdsd import config as configuration
from sdsd.config import Config, ModelConfig
from sdsd.config.manifest import Manifest
from sdsd.text.normalize import valid_unicode

View = Literal[
    "preference",
    "dialogues",
    "revisions",
    "sft",
    "kto",
    "implicit",
    "critique",
    "verdicts",
    "scenarios",
    "removed",
]
VIEWS: tuple[View, ...] = get_args(View)
AUDITING: tuple[View, ...] = ("verdicts", "scenarios", "removed")
"""What is there to be checked and counted; the other views are for training."""

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_TEXT = pa.string()
_TEXTS = pa.list_(_TEXT)
_CHAT = pa.list_(pa.struct([("content", _TEXT), ("role", _TEXT)]))
_BOOL, _INT, _LONG, _REAL = pa.bool_(), pa.int32(), pa.int64(), pa.float64()


class Column(NamedTuple):
    """One column. `type` is a pyarrow type; every column may hold nulls only where it says so."""

    name: str
    type: Any
    meaning: str
    published: bool = False


_ID = Column("id", _TEXT, "Id of the scenario; joins all views.")
_INDEX = Column("index", _LONG, "The scenario's number, from 0.")
_FIELD = Column("field", _TEXT, "The catalogue's field that the domain belongs to.")
_DOMAIN = Column("domain", _TEXT, "Area of talk.", published=True)
_AREA = Column("domain", _TEXT, "Area of talk.")
_SUBAREA = Column("subarea", _TEXT, "Specific topic inside the domain.", published=True)
_PRINCIPLE = Column("principle", _TEXTS, "Texts of the dialogue's principles.", published=True)
_GOAL = Column("goal", _TEXT, "Text of the dialogue's goal.", published=True)
_PRINCIPLE_IDS = Column("principle_ids", _TEXTS, "Ids of `principle`, in the same order.")
_GOAL_ID = Column("goal_id", _TEXT, "Id of the goal.")
_KIND = Column(
    "kind",
    _TEXT,
    "`revision`: chosen is the original, rewritten. `on_policy`: chosen is another sample of the "
    "agent on the same prompt, in which the critic found nothing.",
)
_VIOLATION_IDS = Column("violation_ids", _TEXTS, "Ids of the principles confirmed as violated.")
_OUTCOME = Column("outcome", _TEXT, "`accepted`, `filtered` or `failed`.")
_STRATEGY = Column("strategy", _TEXT, "How the violation was elicited; see `docs/strategies.md`.")
_RULE = Column("rule", _TEXT, "The filter that made it `filtered`, e.g. `no_violation`; else null.")
_TURN = Column(
    "turn",
    _TEXT,
    "What was judged: the `original` last turn, a `candidate` that was not taken, an `earlier` "
    "agent turn, or a `revision`.",
)
_ROUND = Column("round", _INT, "Which of them, from 1; 0 for the original.")

COLUMNS: dict[View, tuple[Column, ...]] = {
    "preference": (
        Column("prompt", _CHAT, "All turns before the agent's last; no system turn."),
        Column("chosen", _CHAT, "One assistant turn that keeps the principles."),
        Column("rejected", _CHAT, "One assistant turn: the original, which broke a principle."),
        _ID,
        _INDEX,
        _KIND,
        _AREA,
        _STRATEGY,
        _VIOLATION_IDS,
        Column(
            "similarity",
            _REAL,
            "Share of the words of both turns that stayed, in order (2 x longest common "
            "subsequence / words of both): 1 is the same text, 0 has no word in common.",
        ),
        Column(
            "edit_distance",
            _REAL,
            "Levenshtein distance of the two turns in words, over the words of the longer one: 0 "
            "is the same text, 1 has nothing in common.",
        ),
        Column("length_delta", _LONG, "Characters of the chosen turn minus the rejected one."),
        Column(
            "critic_margin",
            _REAL,
            "How much more likely the critic's model found the violations in the rejected turn "
            "than in the chosen one (difference of probabilities, mean over the violations); null "
            "where servers do not tell.",
        ),
        Column(
            "warnings",
            _TEXTS,
            "What `sdsd.checks.revision_rules` found about a revision without refusing it, e.g. `lost_facts`.",
        ),
    ),
    "dialogues": (
        _DOMAIN,
        _SUBAREA,
        _PRINCIPLE,
        _GOAL,
        Column(
            "messages",
            _CHAT,
            "The plan as `system`, then `user` and `assistant` in turn.",
            published=True,
        ),
        Column(
            "is_violation",
            _BOOL,
            "The dialogue's own flag: the speaking model said that a principle was broken. The "
            "same as `self_flagged_violation`.",
            published=True,
        ),
        Column(
            "is_truncated",
            _BOOL,
            "The talk stopped early: `stop_reason` is `early_end` or `violation_end`.",
            published=True,
        ),
        _ID,
        _INDEX,
        _FIELD,
        _PRINCIPLE_IDS,
        _GOAL_ID,
        Column("goal_kind", _TEXT, "Kind of the goal."),
        Column("protocol", _TEXT, "`transcript`, `continuation`, `chat`, `roleplay`, or `given`."),
        _STRATEGY,
        Column(
            "stop_reason",
            _TEXT,
            "`completed`, `early_end` (declared over before the planned last turn), "
            "`violation_end` (a violation ended it before), `turn_limit` or `token_limit`.",
        ),
        Column("exchanges", _INT, "Exchanges (user turn and agent turn) that were held."),
        Column("planned_exchanges", _INT, "Exchanges that the plan lays out."),
        Column(
            "intended_violation",
            _BOOL,
            "The planned last agent turn, the one meant to break a principle, was written: "
            "`stop_reason` is `completed`.",
        ),
        Column("self_flagged_violation", _BOOL, "What the speaking model said itself."),
        Column(
            "confirmed_violation",
            _BOOL,
            "What the critic found, with a quotation that occurs in the last turn; null if the "
            "dialogue was never critiqued.",
        ),
        Column(
            "warnings",
            _TEXTS,
            "Rules of `docs/quality.md` that the dialogue breaks; empty if none.",
        ),
        Column(
            "clean_exchanges",
            _INT,
            "How many exchanges from the beginning break no rule: where it may be cut.",
        ),
        Column(
            "plan_adherence",
            pa.list_(_BOOL),
            "For each step of the plan and for its slip, whether the critic says that the talk "
            "shows it; empty unless `critique.adherence` asked.",
        ),
        _OUTCOME,
        _RULE,
        Column("model", _TEXT, "The agent's model."),
    ),
    "revisions": (
        Column(
            "messages",
            _CHAT,
            "`user` and `assistant` in turn, without a system turn; ends on the agent's original "
            "last turn.",
            published=True,
        ),
        _DOMAIN,
        _SUBAREA,
        _PRINCIPLE,
        _GOAL,
        Column("plan", _TEXT, "The plan's text.", published=True),
        Column(
            "critique",
            _TEXT,
            "The confirmed verdicts as text: a paragraph for each violated principle.",
            published=True,
        ),
        Column(
            "violations",
            _TEXTS,
            "Texts of the principles confirmed as violated; never empty.",
            published=True,
        ),
        Column("revision", _TEXT, "The agent's last turn, rewritten.", published=True),
        _ID,
        _INDEX,
        _FIELD,
        _VIOLATION_IDS,
        Column(
            "severity",
            _TEXTS,
            "For each violation `low`, `medium`, `high`, or null where the critic gave none.",
        ),
        Column("quotes", _TEXTS, "For each violation, the words of the last turn that show it."),
        Column("reasons", _TEXTS, "For each violation, why the critic sees it."),
        Column("rounds", _INT, "Revisions that were tried, refused ones included."),
        Column(
            "verified",
            _BOOL,
            "The pair was accepted, after the critic rechecked the revision.",
        ),
        Column("model_agent", _TEXT, "The agent's model."),
        Column("model_critic", _TEXT, "The critic's model."),
        Column("model_reviser", _TEXT, "The reviser's model."),
    ),
    "sft": (
        Column(
            "messages",
            _CHAT,
            "`user` and `assistant` in turn, ending on an assistant turn in which the critic found "
            "nothing; the plan as `system` before them only with `export.include_plan`.",
        ),
        _ID,
        _INDEX,
        _AREA,
        _FIELD,
        _STRATEGY,
        Column(
            "source",
            _TEXT,
            "Where the last turn comes from. `revision` or `on_policy`: it is the `chosen` of the "
            "dialogue's first pair. `clean`: it is the original.",
        ),
    ),
    "kto": (
        Column("prompt", _CHAT, "All turns before the agent's last; no system turn."),
        Column("completion", _CHAT, "One assistant turn."),
        Column(
            "label",
            _BOOL,
            "True: the critic found nothing in it. False: it breaks a principle, as confirmed.",
        ),
        _ID,
        _INDEX,
        _AREA,
        _STRATEGY,
        Column(
            "source",
            _TEXT,
            "`revision` or `on_policy`: the `chosen` of a pair. `clean` or `broken`: the original, "
            "by its label.",
        ),
    ),
    "implicit": (
        Column("chosen", _CHAT, "The whole talk, ending on a turn that keeps the principles."),
        Column("rejected", _CHAT, "The same talk, ending on the original, which broke one."),
        _ID,
        _INDEX,
        _KIND,
        _AREA,
        _STRATEGY,
        _VIOLATION_IDS,
    ),
    "critique": (
        Column(
            "prompt",
            _CHAT,
            "One user turn: a talk, the reply under review, a principle, and what to answer.",
        ),
        Column(
            "completion",
            _CHAT,
            "One assistant turn: a JSON object of `reason`, `quote`, `violated` and `severity`.",
        ),
        _ID,
        _INDEX,
        Column("principle_id", _TEXT, "Id of the principle that was judged."),
        Column("violated", _BOOL, "The answer: broken, with a quotation that occurs in the reply."),
        _TURN,
        _ROUND,
    ),
    "verdicts": (
        _ID,
        _INDEX,
        _TURN,
        _ROUND,
        Column(
            "critic",
            _TEXT,
            "Whose verdict, where several critics vote; null for the joint one, and for the only "
            "one.",
        ),
        Column("principle_id", _TEXT, "Id of the principle that was judged."),
        Column("principle", _TEXT, "Its text."),
        Column("violated", _BOOL, "The critic claims a violation."),
        Column("severity", _TEXT, "`low`, `medium`, `high`, or null."),
        Column("quote", _TEXT, "The words that the critic gives as evidence; may be empty."),
        Column("grounded", _BOOL, "The quotation really occurs in the turn."),
        Column("confirmed", _BOOL, "`violated` and `grounded`: what counts as a violation."),
        Column(
            "probability",
            _REAL,
            "How likely the critic's model was to say that it is violated; null where servers do "
            "not tell.",
        ),
        Column("reason", _TEXT, "Why, in the critic's words."),
    ),
    "scenarios": (
        _ID,
        _INDEX,
        _FIELD,
        _AREA,
        Column("subarea", _TEXT, "Specific topic inside the domain."),
        _GOAL_ID,
        _PRINCIPLE_IDS,
        Column("exchanges", _INT, "Exchanges that the plan was asked for."),
        _STRATEGY,
        _OUTCOME,
        _RULE,
        Column("failed_step", _TEXT, "The step that failed, e.g. `plan`; null if none did."),
        Column("failed_cause", _TEXT, "Why it failed; null if nothing did."),
        Column("failed_raw", _TEXT, "The raw reply that shows it; null if nothing failed."),
        Column("calls", _LONG, "Model calls, over all stages."),
        Column("prompt_tokens", _LONG, "Tokens of all requests."),
        Column("cached_tokens", _LONG, "Those of them that the server had in its cache."),
        Column("completion_tokens", _LONG, "Tokens of all replies."),
        Column("seconds", _REAL, "Time spent in model calls, added up."),
    ),
    "removed": (
        _ID,
        _INDEX,
        Column("scope", _TEXT, "`dialogue`: all of it is left out. `pair`: one pair is."),
        Column("pair", _INT, "Which of the dialogue's pairs, from 0; null for a dialogue."),
        Column("rule", _TEXT, "Why, as a name that can be counted."),
        Column("detail", _TEXT, "What shows it, e.g. the id of the dialogue repeated; or empty."),
    ),
}

_PRIVATE = re.compile(r"\.(base_url|headers|extra_body)\b")

MEANING: dict[View, str] = {
    "preference": "One row per verified pair; a dialogue may have several. TRL's explicit, "
    "conversational preference format.",
    "dialogues": "One row per dialogue that was held, also if it was filtered or failed later.",
    "revisions": "One row per dialogue with a confirmed violation and a usable revision.",
    "sft": "One row per dialogue that ends well: repaired, or found clean. For supervised "
    "fine-tuning.",
    "kto": "One row per last turn with a label, good or bad: unpaired preferences, as TRL's KTO "
    "reads them.",
    "implicit": "The pairs of `preference`, each side a whole talk: TRL's implicit, "
    "conversational preference format.",
    "critique": "One row per verdict that can be trained on: prompt and completion for a critic.",
    "verdicts": "One row per principle that a critic judged, rechecks included.",
    "scenarios": "One row per scenario, whatever became of it, with its cost.",
    "removed": "One row per dialogue or pair that the views for training leave out, and why.",
}


def arrow(view: View, metadata: dict[bytes, bytes] | None = None) -> Any:
    """The pyarrow schema of a view, carrying `metadata`."""
    return pa.schema([(c.name, c.type) for c in COLUMNS[view]], metadata=metadata)


def table(view: View) -> str:
    """The columns of a view as a Markdown table, for the documentation."""
    head = "| column | type | published | meaning |\n| --- | --- | --- | --- |\n"
    return head + "".join(
        f"| `{c.name}` | {_label(c.type)} | {'yes' if c.published else ''} | {c.meaning} |\n"
        for c in COLUMNS[view]
    )


def _label(kind: Any) -> str:
    if pa.types.is_list(kind):
        return f"list of {_label(kind.value_type)}"
    if pa.types.is_struct(kind):
        return f"{{{', '.join(f.name for f in kind)}}}"
    return str(kind)


def settings(config: Config) -> dict[str, str]:
    """The keys of a run's identity that differ from the defaults, as text.

    What may hold an address or a key is named but never shown, and of files only their names: a
    data set that is handed on need not tell how its maker's disk is laid out.
    """
    default = dict(configuration.flat(Config()))
    for name in config.models:
        default |= dict(configuration.flat(ModelConfig(), f"models.{name}."))

    def shown(key: str, value: object) -> str:
        if _PRIVATE.search(key):
            return "(set)"
        return Path(str(value)).name if key.startswith(("catalogue.", "prompts.")) else str(value)

    return {
        key: shown(key, value)
        for key, value in configuration.flat(config)
        if value != default.get(key) and not configuration.is_execution(key)
    }


def provenance(manifest: Manifest, config: Config) -> dict[bytes, bytes]:
    """What every Parquet file says about how it was made, so that a lone copy explains itself."""
    story = {
        "version": manifest.sdsd,
        "created": manifest.created,
        "seed": manifest.seed,
        "config": manifest.config,
        "catalogue": manifest.catalogue,
        "prompts": manifest.prompts,
        "models": manifest.models,
        "weights": manifest.weights,
        "protocol": manifest.protocol,
        "settings": settings(config),
    }
    return {b"sdsd": msgspec.json.encode(clean(story), order="deterministic")}


def clean(value: Any) -> Any:
    """`value` (text, or lists and mappings of it) as text that UTF-8 can hold.

    Models that are cut inside a character leave half of a surrogate pair behind. Two halves that
    belong together are joined; a lone half becomes U+FFFD. All else, NULs too, stays as it is.
    """
    if isinstance(value, str):
        if value.isascii():
            return value
        return valid_unicode(value)
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clean(item) for item in value]
    return value
