"""How the documentation becomes a site and `docs/llms.txt`; mkdocs calls the functions `on_...`.

`docs/README.md` is the one list of pages: its headings and tables are the groups and pages of the
navigation and of `llms.txt`. The pages are read on a code host too. There, links that lead out of
`docs` are relative; on the site they lead to the repository.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page as SitePage

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


class Page(Struct, frozen=True):
    """A row of `docs/README.md`."""

    title: str
    file: str
    contents: str


def groups(text: str) -> dict[str, list[Page]]:
    """Read the groups of pages from the text of `docs/README.md`: a table below each heading."""
    _, *parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    row = re.compile(r"^\| \[(.+?)\]\((.+?)\) \| (.+?) \|$", re.MULTILINE)
    found = {
        name: [Page(*cells) for cells in row.findall(table)]
        for name, table in zip(parts[::2], parts[1::2], strict=True)
    }
    return {name: pages for name, pages in found.items() if pages}


def llms() -> str:
    """Return `docs/llms.txt`, which tells a language model what to read (see llmstxt.org)."""
    text = (DOCS / "README.md").read_text("utf-8")
    about = text.partition("\n\n")[2].partition("\n\n")[0]
    return "\n".join(
        ["# sdsd", "", *(f"> {line}" for line in about.splitlines()), *_llms(text), ""]
    )


def _llms(text: str) -> Iterator[str]:
    for name, pages in groups(text).items():
        yield f"\n## {name}\n"
        yield from (f"- [{p.title}]({p.file}): {p.contents}" for p in pages)


def slug(heading: str, separator: str) -> str:
    """Return the anchor that code hosts give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def on_config(config: MkDocsConfig) -> None:
    """Set the navigation, and the anchors of headings."""
    config.mdx_configs["toc"]["slugify"] = slug
    found = groups((DOCS / "README.md").read_text("utf-8"))
    config.nav = [
        {"Home": "README.md"},
        *({name: [{p.title: p.file} for p in pages]} for name, pages in found.items()),
    ]


def on_page_markdown(markdown: str, page: SitePage, config: MkDocsConfig, files: Files) -> str:
    """Let links out of `docs` lead to the repository, and put the page's Markdown into the site."""
    text = re.sub(r"\]\(\.\./", f"]({config.extra['repository']}/blob/main/", markdown)
    copy = Path(config.site_dir) / page.file.src_uri
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(text, "utf-8")  # for `llms.txt`, whose links are relative
    if page.is_homepage:
        page.meta["hide"] = ["navigation"]  # the page itself lists everything
    return text


def on_page_content(html: str, page: SitePage, config: MkDocsConfig, files: Files) -> str:
    r"""Show `\|` in the code of a table as `|`, as code hosts do."""
    return re.sub(r"<td.*?</td>", lambda cell: cell[0].replace(r"\|", "|"), html, flags=re.DOTALL)
