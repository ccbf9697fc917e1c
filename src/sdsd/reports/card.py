"""The data set's card: the `README.md` that a person, a hub and `load_dataset` read first.

Its YAML head names a configuration for every view that has rows, with its splits, its columns and
their sizes, so that `load_dataset(<run directory>, "preference")` works on the directory itself and
wherever it is uploaded. What users or models wrote is escaped: it cannot become markup or break the
head.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from sdsd import config as configuration
from sdsd.config import CatalogueConfig, Config, is_file
from sdsd.config.manifest import Manifest
from sdsd.dataset.export import Counts
from sdsd.dataset.extensions import views_of
from sdsd.dataset.provenance import settings
from sdsd.dataset.splits import SPLITS
from sdsd.dataset.view import View
from sdsd.models.weights import ROWS
from sdsd.reports.card_charts import plots
from sdsd.reports.html.text import plural
from sdsd.reports.metrics.figures import Figures
from sdsd.reports.rates import Rate
from sdsd.text.unicode import encodable

_OPEN = frozenset(row.name for row in ROWS if row.licence == "Apache-2.0")
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_TAGS = ("synthetic", "dialogue", "multi-turn", "preference", "dpo", "constitutional-ai", "sdsd")
_FILES = re.compile(r"(catalogue|prompts)\.|source\.path$|models\..*\.extra_body\b")
_MARKUP = re.compile(r"([\\`*_\[\]#|~$@]|:(?=//))")


def card(manifest: Manifest, config: Config, counts: Counts, figures: Figures) -> str:
    """The text of `README.md` for one exported run. Always encodable as UTF-8.

    It shows the files of `sdsd.reports.card_charts.plots`, which belong into `plots/` beside it.
    """
    parts = (
        _head(manifest, config, counts),
        _summary(manifest, counts),
        _WARNING,
        _making(manifest, config),
        _contents(config, counts),
        _course(counts, figures),
        _principles(figures),
        _LOADING,
        _licence(manifest, config),
        _limits(manifest, config),
        _reproducing(manifest, config, figures),
    )
    text: str = encodable("\n\n".join(parts) + "\n")
    return text


def _head(manifest: Manifest, config: Config, counts: Counts) -> str:
    import yaml

    views = views_of(config.export)
    filled = [view for view in views if counts.rows[view]]
    head: dict[str, Any] = {
        "pretty_name": _title(manifest),
        "license": "apache-2.0" if _is_open(manifest, config) else "other",
        "task_categories": ["text-generation"],
        "tags": list(_TAGS),
        "size_categories": [_size_category(counts.rows["dialogues"])],
    }
    if not _is_open(manifest, config):
        head["license_name"] = "terms-of-the-generating-models"
    if config.catalogue == CatalogueConfig():  # of another catalogue we cannot know the language
        head["language"] = ["en"]
    # `datasets` refuses to load a split without rows, so an empty view is a file, but not listed.
    # The number of files is part of the pattern: files of two exports are never mixed. The digest
    # is for its cache, which knows a local directory by its last name and this head alone, and
    # would otherwise go on serving the rows of an earlier export, or of a namesake.
    head["configs"] = [
        {
            "config_name": view,
            **({"default": True} if view == filled[0] else {}),
            "description": f"{counts.rows[view]} rows, sha256 {counts.digests[view]}",
            "data_files": [
                {"split": split, "path": f"data/{view}/{split}-*-of-{found.files:05d}.parquet"}
                for split, found in counts.splits[view].items()
            ],
        }
        for view in filled
    ]
    head["dataset_info"] = [_info(views[view], counts) for view in filled]
    return f"---\n{yaml.safe_dump(encodable(head), sort_keys=False, allow_unicode=True)}---"


def _info(view: View, counts: Counts) -> dict[str, Any]:
    """Columns and size, as `datasets` writes them: it casts to these types without looking."""
    return {
        "config_name": view.name,
        "features": [{"name": column.name} | _feature(column.type) for column in view.columns],
        "download_size": counts.bytes[view.name],
    }


def _feature(kind: Any) -> dict[str, Any]:
    import pyarrow as pa

    if pa.types.is_list(kind):
        inner = _feature(kind.value_type)
        return {"list": inner.get("struct", inner.get("dtype"))}
    if pa.types.is_struct(kind):
        return {"struct": [{"name": field.name} | _feature(field.type) for field in kind]}
    return {"dtype": {"double": "float64"}.get(str(kind), str(kind))}


def _title(manifest: Manifest) -> str:
    return f"Dialogues and revisions by {PurePath(manifest.models['agent']).name}"


def _is_open(manifest: Manifest, config: Config) -> bool:
    """Whether known models with open weights wrote everything; else their terms decide."""
    known = all(name in _OPEN for name in manifest.models.values())
    served = any(config.model_for(role).urls for role in config.cast)
    return known and not served and not config.source.path


def _size_category(rows: int) -> str:
    return next((name for limit, name in _SIZES if rows < limit), "n>1M")


def _summary(manifest: Manifest, counts: Counts) -> str:
    return (
        f"# {_plain(_title(manifest))}\n\n"
        f"{plural(counts.rows['dialogues'], 'synthetic multi-turn dialogue')} and "
        f"{plural(counts.rows['preference'], 'preference pair')}, made by "
        f"sdsd {_plain(manifest.sdsd)}. In each dialogue a language model talks to itself after "
        "a plan that it wrote beforehand, towards a last agent turn that breaks a principle. A "
        "critic judges that turn principle by principle, and a revision repairs it. Original and "
        "revision make a pair: `rejected` and `chosen`."
    )


_WARNING = """\
## Warning

**The rejected turns break principles on purpose.** They, the last agent turns in `dialogues` and
in the `messages` of `revisions`, and the quotations in `verdicts` may be offensive, false, unfair
or dangerous to follow. They are there to be trained *against*. Do not show them to people as
advice, and do not fine-tune on them as good answers."""


def _making(manifest: Manifest, config: Config) -> str:
    """Who wrote what, with which protocol and seed, and the digests of all inputs."""
    own_user = manifest.protocol == "roleplay"  # else the agent's model writes both sides
    models = {
        role: manifest.models["agent" if role == "user" and not own_user else role]
        for role in manifest.models
    }
    digests = {
        "configuration": manifest.config,
        "catalogue": manifest.catalogue,
        **{f"prompt {name}": digest for name, digest in sorted(manifest.prompts.items())},
        **{f"weights of {name}": digest for name, digest in sorted(manifest.weights.items())},
    }
    recheck = "rechecked by the critic" if config.revise.recheck else "not rechecked"
    return (
        "## How it was made\n\n"
        f"{_table(('role', 'model'), models.items())}\n\n"
        f"Protocol `{manifest.protocol}`, seed {manifest.seed}, up to {config.revise.rounds} "
        f"revisions a dialogue, {recheck}. Made with sdsd {_plain(manifest.sdsd)} on Python "
        f"{_plain(manifest.python)}; started {_plain(manifest.created)}.\n\n"
        f"{_folded('What it was made from', _table(('file', 'SHA-256'), digests.items()))}"
    )


def _contents(config: Config, counts: Counts) -> str:
    """Rows by view and split."""
    used = [split for split in SPLITS if any(split in each for each in counts.splits.values())]
    rows: list[tuple[object, ...]] = []
    for view, each in views_of(config.export).items():
        found = counts.splits.get(view, {})
        by_split = (f"{found[s].rows:,}" if s in found else "" for s in used) if used[1:] else ()
        meaning = each.doc.replace("`", "") if counts.rows[view] else "Empty: not listed."
        rows.append((view, f"{counts.rows[view]:,}", *by_split, meaning))
    head = ("view", "rows", *(used if used[1:] else ()), "content")
    parts = ["## What is in it", _table(head, rows)]
    if used[1:]:
        parts.append("What a dialogue is about decides its split: no topic is in two of them.")
    parts.append(
        "All columns are described in the `docs/formats.md` of sdsd. Columns that carry the names "
        "of `allenai/sdsd-dialogues` and `allenai/sdsd-revisions` have their types and meaning. "
        "On a hub, `records/` has every dialogue whole, what the views leave out as well; "
        "`sdsd pull` makes a run of it."
    )
    return "\n\n".join(parts)


def _course(counts: Counts, figures: Figures) -> str:
    """What became of the scenarios, how the dialogues came out, and what was taken out."""
    total = max(figures.finished, 1)
    funnel = ((step.name, f"{step.n:,}", f"{step.n / total:.1%}") for step in figures.funnel)
    outcomes = ((o.outcome, o.rule, f"{o.n:,}") for o in figures.outcomes)
    measured = (
        ("confirmed violations, of dialogues judged", _share(figures.violating)),
        ("accepted pairs, of all scenarios", _share(figures.pairs)),
        ("own flag agrees with the critic", _share(figures.agreement.same)),
        ("messages per dialogue, the plan included", f"{figures.messages_mean:.1f}"),
        ("domains used", f"{figures.domains.used:,}"),
        ("share of the largest domain", f"{figures.domains.largest:.1%}"),
    )
    parts = ["## How it came out"]
    parts += [f"![{title}](plots/{name})" for name, (title, _) in plots(figures).items()]
    parts += [
        _table(("scenarios", "number", "share"), funnel),
        _table(("outcome", "rule", "number"), outcomes),
        _table(("measured", "value"), measured),
    ]
    if counts.removed:
        removed = ((rule, f"{n:,}") for rule, n in counts.removed.items())
        parts += [
            "Left out of the views for training, and listed in `removed`:",
            _table(("rule", "dialogues or pairs"), removed),
        ]
    return "\n\n".join(parts)


def _principles(figures: Figures) -> str:
    judged = [p for p in figures.principles if p.confirmed.n]
    if not judged:
        return "## Principles\n\nNo turn was judged."
    rows = ((p.text, p.id, f"{p.confirmed.n:,}", f"{p.confirmed.k:,}") for p in judged)
    return (
        "## Principles\n\nEvery dialogue was judged on one or more of them; the numbers count "
        "dialogues.\n\n"
        + _folded(
            f"All {len(judged):,}, the most broken first",
            _table(("principle", "id", "judged", "broken"), rows),
        )
    )


def _share(rate: Rate) -> str:
    if not rate.n:
        return "no data"
    interval = f"95% interval {rate.low:.1%} to {rate.high:.1%}"
    return f"{rate.share:.1%} ({rate.k:,} of {rate.n:,}; {interval})"


_LOADING = """\
## How to load it

`HERE` is this directory, or the name of the data set on a hub.

```python
from datasets import load_dataset

pairs = load_dataset("HERE", "preference", split="train")
```

```python
import pyarrow.parquet as pq

dialogues = pq.read_table("HERE/data/dialogues")
```

Preference training with TRL:

```python
from trl import DPOConfig, DPOTrainer

trainer = DPOTrainer(
    model="YOUR/MODEL",
    args=DPOConfig(output_dir="out"),
    train_dataset=pairs.select_columns(["prompt", "chosen", "rejected"]),
)
trainer.train()
```"""


def _licence(manifest: Manifest, config: Config) -> str:
    wrote = ", ".join(map(_plain, sorted(set(manifest.models.values()))))
    if _is_open(manifest, config):
        return (
            "## Licence\n\nApache-2.0. Everything was written by models whose weights are open "
            f"under that licence: {wrote}."
        )
    text = (
        "## Licence\n\nThe terms of those who provide the models that wrote this apply to it: "
        f"{wrote}. Read them before you train on it or hand it on; some forbid to train models "
        "that compete with theirs."
    )
    if config.source.path:
        text += " It begins with other data, whose licence applies as well."
    return text


def _limits(manifest: Manifest, config: Config) -> str:
    points = [
        "Nobody read these dialogues before they were counted. Plans, talks, verdicts and "
        "revisions are all written by language models, with their errors and their biases.",
        "A confirmed violation means that the critic claimed it and that its quotation occurs in "
        "the turn. It does not mean that a person would agree.",
        "An accepted revision keeps the principles as far as the critic can tell; its facts were "
        "not checked.",
    ]
    if not config.export.balance.by:
        points.append(
            "The shares of principles among the pairs differ, because some are broken more readily "
            "than others. Rebalance before training (`export.balance`)."
        )
    if not config.revise.recheck:
        points.append("Rechecking was switched off: no revision was judged at all.")
    if manifest.models["critic"] == manifest.models["agent"]:
        points.append("The critic is the agent's own model: it judges what it wrote itself.")
    if not _is_open(manifest, config):
        points.append("The licence depends on the terms of the models named above.")
    return "## Limits\n\n" + "\n".join(f"- {point}" for point in points)


def _reproducing(manifest: Manifest, config: Config, figures: Figures) -> str:
    changed = settings(config)
    text = (
        "## How to make it again\n\n"
        "```\nsdsd run config.yaml --out again\n```\n\n"
        f"`config.yaml` is the one beside this file. Any run of {figures.finished:,} dialogues "
        "with the digests above has the same scenarios and sampling seeds; its texts are the same "
        "as far as the model servers repeat themselves. "
    )
    if own := _own(config):
        text += f"On a hub, `config.yaml` is without {own}, which its maker has: add them before. "
    if not changed:
        return text + "All settings that decide what is made have their default values."
    return (
        f"{text}Settings that differ from the defaults of sdsd {_plain(manifest.sdsd)}:\n\n"
        f"{_table(('setting', 'value'), changed.items())}"
    )


def _own(config: Config) -> str:
    """Names of the settings that a run depends on and that are not handed on with it."""
    plain = dict(configuration.flat(config))
    own = [f"`{key}`" for key, value in plain.items() if value and _FILES.match(key)]
    if any(map(is_file, config.scenarios.strategies)):
        own.append("strategies of its own")
    own += ["`targets`"] if config.targets.on else []
    own += ["the addresses of servers"] if any(m.urls for m in config.models.values()) else []
    return ", ".join(own)


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [head, ("---",) * len(head)]
    lines += [tuple(_plain(str(cell)) for cell in row) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _folded(summary: str, body: str) -> str:
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line: no markup, no HTML, no cell borders."""
    return _MARKUP.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))
