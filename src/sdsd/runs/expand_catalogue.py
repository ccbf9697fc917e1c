"""`sdsd catalogue expand`: let a model write more subareas for every domain.

The paper's models wrote 20 for each domain. A proposal is kept if it is specific enough in form
and no near-duplicate of anything in the catalogue. Answers go through the same journal as a run's,
so stopping and starting again loses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from sdsd.config import TOP_P, Config
from sdsd.errors import CatalogueError, SdsdError, StageFailed, Stopped, Unparseable
from sdsd.files import write_atomic
from sdsd.models.base import Model
from sdsd.pipeline.prompts import load_prompt
from sdsd.pipeline.retry import ask_until_parsed
from sdsd.runs.drafting import asking, journaled
from sdsd.runs.events import Noted, OnEvent
from sdsd.runs.session import Needs
from sdsd.scenarios import catalogue as catalogues
from sdsd.scenarios.similarity import near_duplicates
from sdsd.text import prompt_files
from sdsd.text.parsing import readable
from sdsd.types import AskFn, Completion, Domain, Message, Request

ALIKE = 0.6
"""Jaccard similarity of content words from which two subareas count as the same."""
_LINE = re.compile(r"^[ \t]*(?:\d+[.):]|[-*•])[ \t]*(.+?)[ \t]*$", re.MULTILINE)
_FORM = re.compile(r"[^\n:;{}<>|]{8,110}")
_WORDS = (3, 16)
_ROUNDS = 6
_OFFERS = 12


class Grown(Struct, frozen=True):
    """Numbers of subareas."""

    before: int
    after: int
    stopped: str = ""
    """Why it stopped before the last domain; empty if it did not."""


def expand(
    out: Path,
    topics: Path | None,
    config: Config,
    *,
    per_domain: int = 20,
    only: Sequence[str] = (),
    on_event: OnEvent = lambda event: None,
    models: Mapping[str, Model] | None = None,
) -> Grown:
    """Write topic files like those at `topics` into `out`, each domain with `per_domain` subareas.

    `only` names fields. Raises `CatalogueError` if it names one that is not there.
    """
    loaded = catalogues.load(topics)
    unknown = [name for name in only if name not in loaded.fields]
    if unknown:
        raise CatalogueError(
            f"no field `{unknown[0]}` in the topics; the fields are {', '.join(loaded.fields)}"
        )
    chosen = [d for d in loaded.domains if not only or d.field in only]

    work = partial(_grow_all, chosen, loaded, per_domain)
    grown, stopped = journaled(out / ".expand", config, on_event, models, work)
    _write_files(out, grown)
    before, after = (sum(len(d.subareas) for d in domains) for domains in (chosen, grown))
    return Grown(before, after, stopped)


async def _grow_all(
    domains: Sequence[Domain], loaded: catalogues.Catalogue, per_domain: int, needs: Needs
) -> tuple[list[Domain], str]:
    """Return every domain, grown one after the other, and why it stopped early, if it did.

    Each is compared with all before it.
    """
    config = needs.config
    prompts = load_prompt("expand")
    taken = [s for d in loaded.domains for s in d.subareas]
    grown: list[Domain] = []
    async with asking(needs) as ask_of:
        for number, domain in enumerate(domains):
            ask = ask_of(f"{domain.field}/{domain.name}", number)
            try:
                larger = await grow(domain, ask, prompts, taken, per_domain, config)
            except Stopped:
                return grown + list(domains[number:]), needs.stop.reason
            grown.append(larger)
            done = f"[{number + 1}/{len(domains)}] {domain.name}"
            before, after = len(domain.subareas), len(larger.subareas)
            needs.on_event(Noted(f"{done}: {before} -> {after} subareas"))
    return grown, ""


async def grow(
    domain: Domain,
    ask: AskFn,
    prompts: prompt_files.Prompt,
    taken: list[str],
    per_domain: int,
    config: Config,
) -> Domain:
    """Return a domain with up to `per_domain` subareas; adds the new ones to `taken`."""
    subareas = list(domain.subareas)
    for number in range(_ROUNDS):
        wanted = per_domain - len(subareas)
        if wanted <= 0:
            break
        values = {
            "field": domain.field,
            "domain": domain.name,
            "subareas": "\n".join(f"- {s}" for s in subareas),
            "count": str(_OFFERS),  # not `wanted`: a larger `per_domain` must repeat the request
        }
        request = Request(
            role="planner",
            messages=(
                Message("system", prompts.fill("system")),
                Message("user", prompts.fill("user", **values)),
            ),
            max_tokens=config.plan.max_tokens,
            temperature=config.plan.temperature,
            top_p=TOP_P,
        )
        try:
            offered = await ask_until_parsed(
                ask, f"expand/{number}", request, _offered, config.attempts
            )
        except StageFailed:
            break
        new = fresh(offered, taken)[:wanted]
        subareas += new
        taken += new
    return replace(domain, subareas=tuple(subareas))


def fresh(offered: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Return those of `offered` that resemble nothing in `taken` and nothing before them."""
    texts = [*taken, *offered]
    pairs = near_duplicates(texts, ALIKE)
    first_offer = len(taken)
    doubles = {max(i, j) for i, j, _ in pairs if max(i, j) >= first_offer}
    return [texts[i] for i in range(first_offer, len(texts)) if i not in doubles]


def _offered(completion: Completion) -> list[str]:
    """Return the listed lines that have the form of a subarea."""
    lines = (m.group(1).strip(" .*_\"'") for m in _LINE.finditer(readable(completion.text)))
    least, most = _WORDS
    kept = [s for s in lines if _FORM.fullmatch(s) and least <= len(s.split()) <= most]
    if not kept:
        raise Unparseable("no numbered line of a few words")
    return kept


def _write_files(out: Path, domains: Sequence[Domain]) -> None:
    """Write one YAML file for each field, in the catalogue's format."""
    import yaml

    fields: dict[str, list[Any]] = {}
    for domain in domains:
        entry = {"name": domain.name, "subareas": list(domain.subareas)}
        fields.setdefault(domain.field, []).append(entry)
    for field, entries in fields.items():
        tree = {"field": field, "name": field, "domains": entries}
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=200)
        name = re.sub(r"[^\w-]+", "-", field.casefold()).strip("-") or "field"
        try:
            write_atomic(out / f"{name}.yaml", text.encode())
        except OSError as error:
            raise SdsdError(f"{out}: cannot be written: {error}") from None
