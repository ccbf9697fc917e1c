"""Help as plain text in groups: `rich_help_panel` names the group of a command or an option.

Typer shows these groups only in frames, which cut long options in a narrow terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from typer.core import TyperCommand, TyperGroup

EXIT_CODES = {
    0: "Done.",
    1: "`verify` or `doctor` found a problem.",
    2: "Usage, configuration or files: the message says what to do.",
    3: "Stopped, for example by the budget: the same command continues.",
    4: "A model or its server failed, or every dialogue did.",
    130: "Interrupted by Ctrl-C or a signal: the same command continues.",
}
"""What scripts can tell from the exit code of any command."""
SETTINGS = {"help_option_names": ["-h", "--help"]}


class Command(TyperCommand):
    """A command whose options are listed in groups."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        names = ((_name(each), each.required) for each in self.params if _is_argument(each))
        return ["[OPTIONS]", *(name if required else f"[{name}]" for name, required in names)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write(_parameters(self, ctx), formatter)


class Group(TyperGroup):
    """Commands, listed in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        commands = (self.commands[name] for name in self.list_commands(ctx))
        rows = ((_group(each, "Commands"), (each.name or "", _summary(each))) for each in commands)
        _write([*rows, *_parameters(self, ctx)], formatter)


class Root(Group):
    """The command line itself, whose help ends with the exit codes."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write((("Exit codes", (str(k), text)) for k, text in EXIT_CODES.items()), formatter)


def _parameters(command: Any, ctx: Any) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the group, the spelling and the meaning of each parameter; arguments come first."""
    found = sorted(command.get_params(ctx), key=lambda each: not _is_argument(each))
    own = [each for each in found if _group(each, "")]
    for each in sorted(found, key=own.__contains__):
        if (row := each.get_help_record(ctx)) is not None:
            if _is_argument(each):
                yield "Arguments", (_name(each), each.help or "")
            else:
                yield _group(each, "Options"), row


def _write(rows: Iterable[tuple[str, tuple[str, str]]], formatter: Any) -> None:
    """Write a section for each group, in the order in which the groups first occur."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for group, row in rows:
        groups.setdefault(group, []).append(row)
    for group, found in groups.items():
        with formatter.section(group):
            formatter.write_dl(found)


def _group(what: Any, default: str) -> str:
    return getattr(what, "rich_help_panel", None) or default


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _summary(command: Any) -> str:
    """Return the first paragraph of a command's help, which is one line."""
    return " ".join((command.help or "").split("\n\n")[0].split())
