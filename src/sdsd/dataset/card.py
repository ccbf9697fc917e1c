"""The data set's card: the `README.md` that a person, a hub and `load_dataset` read first.

Its YAML head names a configuration for every view that has rows, so that
`load_dataset(<run directory>, "preference")` works on the directory itself and wherever it is
uploaded. What users or models wrote is escaped: it cannot become markup or break the head.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from sdsd.analysis.figures import Figures, Rate
from sdsd.config import CatalogueConfig, Config
from sdsd.dataset.export import Counts
from sdsd.dataset.schema import MEANING, VIEWS, clean, settings
from sdsd.rundir import Manifest
from sdsd.weights import ROWS

_OPEN = frozenset(row.name for row in ROWS if row.licence == "Apache-2.0")
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_TAGS = ("synthetic", "dialogue", "multi-turn", "preference", "dpo", "constitutional-ai", "sdsd")
_MARKUP = re.compile(r"([\\`*_\[\]#|~$@]|:(?=//))")


def card(manifest: Manifest, config: Config, counts: Counts, figures: Figures) -> str:
    """The text of `README.md` for one exported run. Always encodable as UTF-8."""
    parts = (
        _head(manifest, config, counts),
        _summary(manifest, counts),
        _WARNING,
        _making(manifest, config),
        _contents(counts, figures),
        _LOADING,
        _limits(manifest, config),
        _reproducing(manifest, config, figures),
    )
    text: str = clean("\n\n".join(parts) + "\n")
    return text


def _head(manifest: Manifest, config: Config, counts: Counts) -> str:
    import yaml

    filled = [view for view in VIEWS if counts.rows[view]]
    head: dict[str, Any] = {
        "pretty_name": _title(manifest),
        "license": _licence(config),
        "task_categories": ["text-generation"],
        "tags": list(_TAGS),
        "size_categories": [_size_category(counts.rows["dialogues"])],
    }
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
                {
                    "split": "train",
                    "path": f"data/{view}/train-*-of-{counts.files[view]:05d}.parquet",
                }
            ],
        }
        for view in filled
    ]
    return f"---\n{yaml.safe_dump(clean(head), sort_keys=False, allow_unicode=True)}---"


def _title(manifest: Manifest) -> str:
    return f"Dialogues and revisions by {PurePath(manifest.models['agent']).name}"


def _licence(config: Config) -> str:
    """Apache-2.0 if known models of that licence wrote everything; else the user must say."""
    models = [config.model_for(role) for role in config.cast]
    known = all(model.model in _OPEN and not model.base_url for model in models)
    return "apache-2.0" if known else "other"


def _size_category(rows: int) -> str:
    return next((name for limit, name in _SIZES if rows < limit), "n>1M")


def _summary(manifest: Manifest, counts: Counts) -> str:
    return (
        f"# {_plain(_title(manifest))}\n\n"
        f"{counts.rows['dialogues']:,} synthetic multi-turn dialogues and "
        f"{counts.rows['preference']:,} preference pairs, made by "
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
        f"{_table(('made from', 'SHA-256'), digests.items())}"
    )


def _contents(counts: Counts, figures: Figures) -> str:
    """Rows by view, what became of the scenarios, and how the dialogues came out."""
    meaning = {
        view: MEANING[view] if n else "Empty: not listed." for view, n in counts.rows.items()
    }
    views = ((view, f"{counts.rows[view]:,}", meaning[view]) for view in VIEWS)
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
    return "\n\n".join(
        [
            "## What is in it",
            _table(("view", "rows", "content"), views),
            _table(("scenarios", "number", "share"), funnel),
            _table(("outcome", "rule", "number"), outcomes),
            _table(("measured", "value"), measured),
            "All columns are described in the `docs/formats.md` of sdsd. Columns that carry the "
            "names of `allenai/sdsd-dialogues` and `allenai/sdsd-revisions` have their types and "
            "meaning.",
        ]
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


def _limits(manifest: Manifest, config: Config) -> str:
    points = [
        "Nobody read these dialogues before they were counted. Plans, talks, verdicts and "
        "revisions are all written by language models, with their errors and their biases.",
        "A confirmed violation means that the critic claimed it and that its quotation occurs in "
        "the turn. It does not mean that a person would agree.",
        "An accepted revision keeps the principles as far as the critic can tell; its facts were "
        "not checked.",
        "The shares of principles among the pairs differ, because some are broken more readily "
        "than others. Rebalance before training.",
    ]
    if not config.revise.recheck:
        points.append("Rechecking was switched off: no revision was judged at all.")
    if manifest.models["critic"] == manifest.models["agent"]:
        points.append("The critic is the agent's own model: it judges what it wrote itself.")
    if _licence(config) == "other":
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
    if not changed:
        return text + "All settings that decide what is made have their default values."
    return (
        f"{text}Settings that differ from the defaults of sdsd {_plain(manifest.sdsd)}:\n\n"
        f"{_table(('setting', 'value'), changed.items())}"
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [head, ("---",) * len(head)]
    lines += [tuple(_plain(str(cell)) for cell in row) for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line: no markup, no HTML, no cell borders."""
    return _MARKUP.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))
