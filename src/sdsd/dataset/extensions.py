"""User-defined views, filters and quality checks, as `export` names them.

A filter decides whether a dialogue stays; what it returns is the rule shown in the view `removed`:

    def keep(record: Record) -> str | None:
        return "too_polite" if "please" in record.dialogue.last_reply else None

A check marks turns. Its name becomes a rule, for `export.exclude` and the column `warnings`, and
the first line of its docstring says what the rule finds:

    def shouting(dialogue: Dialogue, plan: Plan | None) -> Iterable[int]:
        \"\"\"A turn in capitals.\"\"\"
        return [k for k, m in enumerate(dialogue.messages) if m.content.isupper()]

All of them must be pure functions: `sdsd verify` calls them again and compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from sdsd import plugins
from sdsd.checks import revision_rules
from sdsd.checks.dialogue_rules import QualityCheck
from sdsd.checks.rules import RULES
from sdsd.config import EXCLUDED_RULES, ExportConfig
from sdsd.errors import ConfigError, PluginError
from sdsd.types import Dialogue, Plan, Record

if TYPE_CHECKING:
    from sdsd.dataset.view import Row, Selected, View

Filter = Callable[[Record], str | None]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
"""A name that can be a directory, a rule and part of a card's paths."""


def plugins_of(export: ExportConfig) -> dict[str, str]:
    """Return the group (see `sdsd.plugins`) of every part that `export` names, by its name."""
    groups = {"views": export.views, "filters": export.filters, "checks": export.checks}
    return {name: group for group, names in groups.items() for name in names}


def versions(export: ExportConfig) -> dict[str, str]:
    """Return the version of every part that `export` names, by its name."""
    named = plugins_of(export).items()
    return {name: plugins.version(plugins.resolve(name, group)) for name, group in named}


def validate(export: ExportConfig) -> None:
    """Raise `ConfigError` or `PluginError` for a rule or a part that does not exist.

    To be called before anything is spent.
    """
    rules = [*RULES, *checks_of(export)]
    _known("exclude", excluded_rules(export), rules)
    _known("pairs.exclude_warnings", export.pairs.exclude_warnings, revision_rules.WARNINGS)
    filters_of(export)
    if export.views:  # imports pyarrow
        views_of(export)
    if export.tokenizer:
        from sdsd.dataset.tokens import tokenizer

        tokenizer(export.tokenizer)


def excluded_rules(export: ExportConfig) -> tuple[str, ...]:
    """Return the rules that `export.exclude` names, with those that `default` stands for."""
    named = (EXCLUDED_RULES if name == "default" else (name,) for name in export.exclude)
    return tuple(dict.fromkeys(rule for rules in named for rule in rules))


def _known(key: str, named: tuple[str, ...], rules: Any) -> None:
    for rule in named:
        if rule not in rules:
            raise ConfigError(f"`export.{key}` names `{rule}`; the rules are {', '.join(rules)}")


def views_of(export: ExportConfig) -> dict[str, View]:
    """Return the packaged views and those of `export.views`, by name."""
    from sdsd.dataset.view import View
    from sdsd.dataset.views import VIEWS

    views = dict(VIEWS)
    for name in export.views:
        view = plugins.resolve(name, "views", tuple(VIEWS))
        if not isinstance(view, View):
            raise PluginError(f"`{name}` is not a view; make it a `sdsd.dataset.view.View`")
        _require_types(name, view)
        if not _NAME.fullmatch(view.name) or view.name in views:
            raise PluginError(
                f"`{name}`: a view cannot be called `{view.name}`; use lower-case letters, digits "
                f"and `_`, and none of {', '.join(views)}"
            )
        views[view.name] = _checked(name, view)
    return views


def _require_types(name: str, view: View) -> None:
    from sdsd.dataset.columns import Column

    columns = view.columns
    sound = isinstance(view.doc, str) and isinstance(columns, tuple) and callable(view.rows)
    if not sound or not all(isinstance(column, Column) for column in columns):
        raise PluginError(
            f"`{name}`: a view has a `doc`, a tuple of `Column` values and a function `rows`"
        )
    names = [column.name for column in columns]
    if not names or len(set(names)) < len(names) or not all(map(_NAME.fullmatch, names)):
        raise PluginError(
            f"`{name}`: a view needs columns, each with its own name of lower-case letters, digits "
            f"and `_`, not {', '.join(map(repr, names)) or 'none'}"
        )


def _checked(name: str, view: View) -> View:
    """Return the view with rows that are checked against its columns."""
    expected = {column.name for column in view.columns if not column.value}

    def rows(selected: Selected) -> Iterator[Row]:
        with plugins.blamed(f"view `{name}`", selected.record.scenario.id):
            for row in view.rows(selected):
                if row.keys() != expected:
                    wrong = ", ".join(sorted(row.keys() ^ expected))
                    raise PluginError(
                        f"view `{name}`: a row's keys must be its columns without a `value`; "
                        f"missing or unknown: {wrong}"
                    )
                yield row

    return replace(view, rows=rows)


def filters_of(export: ExportConfig) -> list[Filter]:
    return [_filter(name) for name in export.filters]


def _filter(name: str) -> Filter:
    keep = plugins.function(name, "filters")

    def checked(record: Record) -> str | None:
        with plugins.blamed(f"filter `{name}`", record.scenario.id):
            rule = keep(record)
        if rule is None or (isinstance(rule, str) and _NAME.fullmatch(rule)):
            return rule
        raise PluginError(
            f"filter `{name}` returned {rule!r:.80}; return a rule's name, or None; a name has "
            "lower-case letters, digits and `_`"
        )

    return checked


def checks_of(export: ExportConfig) -> dict[str, QualityCheck]:
    """Return the checks of `export.checks` by the name of their rule."""
    checks: dict[str, QualityCheck] = {}
    for name in export.checks:
        rule = name.rpartition(":")[2]
        if rule in RULES or rule in checks:
            raise PluginError(f"`{name}`: the rule `{rule}` exists already; use another name")
        checks[rule] = _check(name)
    return checks


def _check(name: str) -> QualityCheck:
    check = plugins.function(name, "checks")

    def checked(dialogue: Dialogue, plan: Plan | None) -> list[int]:
        with plugins.blamed(f"check `{name}`", "this dialogue"):
            turns = list(check(dialogue, plan))
        if all(isinstance(k, int) and -1 <= k < len(dialogue.messages) for k in turns):
            return turns
        raise PluginError(
            f"check `{name}` yielded {turns!r}; yield indices into `dialogue.messages`, or -1 for "
            "the dialogue as a whole"
        )

    return checked


def meanings_of(export: ExportConfig) -> dict[str, str]:
    """Return every rule on dialogues and what it finds, those of `export.checks` included."""
    own = {name.rpartition(":")[2]: plugins.function(name, "checks") for name in export.checks}
    return RULES | {
        rule: ((check.__doc__ or "").strip() or rule).splitlines()[0] for rule, check in own.items()
    }
