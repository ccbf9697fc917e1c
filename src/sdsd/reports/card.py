"""The data set's card: the `README.md` that people, hubs and `load_dataset` read first.

Its YAML head names a configuration for every view that has rows, with its splits and columns, so
that `load_dataset(<run directory>, "preference")` works on the directory itself and wherever it is
uploaded. What users or models wrote is escaped: it cannot become markup or break the head.
"""

from __future__ import annotations

import html
import re
from pathlib import PurePath
from typing import Any

from markupsafe import Markup
from msgspec.structs import replace

from sdsd import config as configuration
from sdsd.config import CatalogueConfig, Config
from sdsd.config.manifest import Manifest
from sdsd.dataset.export import Counts, exported_views
from sdsd.dataset.provenance import settings
from sdsd.dataset.splits import SPLITS
from sdsd.dataset.view import View
from sdsd.models.hand_written import is_hand_written
from sdsd.models.weights import KNOWN
from sdsd.reports.card_charts import plots
from sdsd.reports.html import page
from sdsd.reports.metrics.figures import Figures
from sdsd.reports.stats import Proportion
from sdsd.text.normalize import encodable
from sdsd.text.prompt_files import is_path

_OPEN = frozenset(model.name for model in KNOWN if model.licence == "Apache-2.0")
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_TAGS = ("synthetic", "dialogue", "multi-turn", "preference", "dpo", "constitutional-ai", "sdsd")
_FILES = re.compile(r"(catalogue|prompts)\.(?!scope$)|source\.path$|models\..*\.extra_body\b")
_MARKUP = re.compile(r"([\\`*_\[\]#|~$@]|:(?=//))")


def card(manifest: Manifest, config: Config, counts: Counts, figures: Figures) -> str:
    """Return the text of `README.md` for one exported run. It can always be encoded as UTF-8.

    It refers to the files of `sdsd.reports.card_charts.plots`, which belong in `plots/` next to it.
    """
    views = exported_views(manifest, config.export)
    filled = {name: view for name, view in views.items() if counts.rows[name]}
    template = page.environment().overlay(finalize=_plain).get_template("card.md")
    body = template.render(
        title=_title(manifest, config),
        manifest=manifest,
        config=config,
        counts=counts,
        figures=figures,
        models=_models(manifest),
        digests=_digests(manifest),
        views=views,
        filled=list(filled),
        used=[s for s in SPLITS if any(s in found for found in counts.splits.values())],
        drawn={name: title for name, (title, _) in plots(figures).items()},
        steps=page.STEPS,
        share=_share,
        open=_is_open(manifest, config),
        by_hand=is_hand_written(config),
        wrote=sorted(set(manifest.models.values())),
        own=_own(config),
        changed=settings(config),
    )
    text: str = encodable(f"{_head(manifest, config, counts, filled)}\n\n{_tidy(body)}")
    return text


def _head(manifest: Manifest, config: Config, counts: Counts, filled: dict[str, View]) -> str:
    import yaml

    head: dict[str, Any] = {
        "pretty_name": _title(manifest, config),
        "license": "apache-2.0" if _is_open(manifest, config) else "other",
        "task_categories": ["text-generation"],
        "tags": list(_TAGS),
        "size_categories": [_size_category(counts.rows["dialogues"])],
    }
    if not _is_open(manifest, config):
        head["license_name"] = "terms-of-the-generating-models"
    # The language of other lists is unknown; affinities are not a text.
    if replace(config.catalogue, affinities="") == CatalogueConfig() or is_hand_written(config):
        head["language"] = ["en"]
    # `datasets` refuses to load a split without rows, so an empty view is a file, but not listed.
    # The number of files is part of the pattern, so files of two exports never mix. The digest is
    # for its cache: it identifies a local directory by its last name and this head alone, and
    # would otherwise go on serving the rows of an earlier export, or of a namesake.
    head["configs"] = [
        {
            "config_name": view,
            **({"default": True} if view == next(iter(filled)) else {}),
            "description": f"{counts.rows[view]} rows, sha256 {counts.digests[view]}",
            "data_files": [
                {"split": split, "path": f"data/{view}/{split}-*-of-{found.files:05d}.parquet"}
                for split, found in counts.splits[view].items()
            ],
        }
        for view in filled
    ]
    head["dataset_info"] = [_info(view, counts) for view in filled.values()]
    return f"---\n{yaml.safe_dump(encodable(head), sort_keys=False, allow_unicode=True)}---"


def _info(view: View, counts: Counts) -> dict[str, Any]:
    """Describe columns and size as `datasets` does: it casts to these types without checking."""
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


def _title(manifest: Manifest, config: Config) -> str:
    if is_hand_written(config):
        return "A demonstration of sdsd: dialogues and revisions written by hand"
    return f"Dialogues and revisions by {PurePath(manifest.models['agent']).name}"


def _is_open(manifest: Manifest, config: Config) -> bool:
    """Whether known models with open weights wrote everything, or it was written by hand; otherwise
    the models' terms decide."""
    if is_hand_written(config):
        return True
    known = all(name in _OPEN for name in manifest.models.values())
    models = [config.model_for(role) for role in config.role_models]
    served = any(model.urls or model.backend for model in models)
    return known and not served and not config.source.path


def _size_category(rows: int) -> str:
    return next((name for limit, name in _SIZES if rows < limit), "n>1M")


def _models(manifest: Manifest) -> dict[str, str]:
    """Return who wrote what. Outside role play, the agent's model writes the user's turns, too."""
    own_user = manifest.protocol == "roleplay"
    return {
        role: manifest.models["agent" if role == "user" and not own_user else role]
        for role in manifest.models
    }


def _digests(manifest: Manifest) -> dict[str, str]:
    return {
        "configuration": manifest.config,
        "catalogue": manifest.catalogue,
        **{f"prompt {name}": digest for name, digest in sorted(manifest.prompts.items())},
        **{f"weights of {name}": digest for name, digest in sorted(manifest.weights.items())},
    }


def _share(found: Proportion) -> str:
    if not found.n:
        return "no data"
    interval = f"95% interval {found.low:.1%} to {found.high:.1%}"
    return f"{found.share:.1%} ({found.k:,} of {found.n:,}; {interval})"


def _own(config: Config) -> list[Markup]:
    """Name the settings that the run depends on and that are not published with it."""
    plain = dict(configuration.flat(config))
    own = [f"`{key}`" for key, value in plain.items() if value and _FILES.match(key)]
    if any(map(is_path, config.scenarios.strategies)):
        own.append("strategies of its own")
    own += ["`targets`"] if config.targets.on else []
    own += ["the addresses of servers"] if any(m.urls for m in config.models.values()) else []
    return [Markup(name) for name in own]  # noqa: S704  # keys of the configuration


def _plain(value: object) -> Markup:
    """Escape text so that Markdown shows it as it is, on one line: no markup, no HTML."""
    if isinstance(value, Markup):
        return value
    text = html.escape(" ".join(str(value).split()), quote=False)
    return Markup(_MARKUP.sub(r"\\\1", text))  # noqa: S704


def _tidy(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
