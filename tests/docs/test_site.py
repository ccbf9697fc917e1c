"""The site holds: strict, complete, the same text as on a code host, and nothing from elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import aiohttp
import docs_site
import pytest
import yaml
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from sdsd import config
from sdsd.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `scripts/site` builds it; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def html_of(site: Path, page: Path) -> str:
    name = "index" if page.name == "README.md" else page.stem
    return (site / f"{name}.html").read_text("utf-8")


class Text(HTMLParser):
    """Collects the text of a page, without white space that means nothing."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"br", "h1", "h2", "h3", "h4", "li", "p", "pre", "td", "th"}:
            self.pieces.append(" ")

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    def __str__(self) -> str:
        return " ".join("".join(self.pieces).split())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_site_shows_what_a_code_host_shows(site: Path, page: Path) -> None:
    host = MarkdownIt("commonmark").enable("table").render(page.read_text("utf-8"))
    (shown,) = re.findall(r"<article[^>]*>(.*?)</article>", html_of(site, page), re.DOTALL)
    shown = re.sub(r'<a class="headerlink".*?</a>', "", shown)
    assert str(Text(shown)) == str(Text(host))
    for element in ("<li", "<tr", "<pre", "<img", "<blockquote", "<h2", "<h3"):
        assert shown.count(element) == host.count(element), element


def test_the_navigation_has_four_groups_and_every_page_once() -> None:
    groups = docs_site.groups((DOCS / "README.md").read_text("utf-8"))
    assert list(groups) == ["Start", "How-to", "Reference", "Explanation"]
    files = [page.file for pages in groups.values() for page in pages]
    assert sorted(files) == sorted(p.name for p in PAGES if p.name != "README.md")
    measured = {"benchmarks.md", "small-model.md"}
    assert measured <= {page.file for page in groups["Explanation"]}


def test_a_language_model_finds_every_page_as_markdown(site: Path) -> None:
    listed = re.findall(r"^- \[.+?\]\((.+?)\): ", (site / "llms.txt").read_text("utf-8"), re.M)
    assert len(listed) == len(PAGES) - 1
    for name in listed:
        page = (site / name).read_text("utf-8")
        assert page.startswith("# ")
        assert "](../" not in page


class Loaded(HTMLParser):
    """Collects what a browser fetches to show a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") not in {"next", "prev", "canonical"}:
            self.addresses.append(given.get("href") or "")
        self.addresses += [given[key] or "" for key in ("src", "srcset", "data") if key in given]


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        for address in Loaded(path.read_text("utf-8")).addresses:
            assert not re.match(r"(https?:)?//", address), (path.name, address)
            assert path.name == "404.html" or (path.parent / address.split("?")[0]).exists()
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text("utf-8"))


@contextlib.asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A tab of a browser that reaches no host, driven by Chrome's DevTools protocol."""
    process = await asyncio.create_subprocess_exec(
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={profile}",
        "about:blank", stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        port = None
        while port is None:
            line = (await process.stderr.readline()).decode()
            assert line, "the browser ended"
            port = re.search(r"ws://127\.0\.0\.1:(\d+)/", line)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port[1]}") as session:
            async with session.get("/json/list") as answer:
                (tab,) = (t for t in await answer.json() if t["type"] == "page")
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield socket
    finally:
        process.kill()
        await process.communicate()


SEARCH = """
(async () => {
  const until = async (found) => {
    while (!found()) await new Promise((done) => setTimeout(done, 50));
    return found();
  };
  const field = await until(() => document.querySelector(".md-search__input"));
  await until(() => document.readyState === "complete");
  field.focus();
  field.value = "recheck";
  const results = () => {
    field.dispatchEvent(new Event("keyup", {bubbles: true}));
    return [...document.querySelectorAll(".md-search-result__link")];
  };
  return (await until(() => results().length && results())).map((link) => link.href);
})()
"""


@pytest.mark.e2e
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
async def test_opened_as_a_file_it_can_be_searched_offline(site: Path, tmp_path: Path) -> None:
    requested: list[str] = []
    async with browser(tmp_path) as tab:
        number = 0

        async def call(method: str, **parameters: Any) -> Any:
            nonlocal number
            number += 1
            await tab.send_json({"id": number, "method": method, "params": parameters})
            while (message := await tab.receive_json(timeout=60)).get("id") != number:
                if message.get("method") == "Network.requestWillBeSent":
                    requested.append(message["params"]["request"]["url"])
            return message["result"]

        await call("Network.enable")
        await call("Emulation.setFocusEmulationEnabled", enabled=True)
        await call("Page.enable")
        await call("Page.navigate", url=(site / "index.html").as_uri())
        while (await tab.receive_json(timeout=60)).get("method") != "Page.loadEventFired":
            pass
        evaluated = await call(
            "Runtime.evaluate", expression=SEARCH, awaitPromise=True, returnByValue=True
        )
    found = evaluated["result"]["value"]
    assert any("method.html" in link for link in found)
    assert requested
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requested), requested


# -- recipes -------------------------------------------------------------------------------


def yaml_blocks(page: str) -> list[Any]:
    fences = re.findall(r"^```yaml\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.M | re.S)
    return [document for block in fences for document in yaml.safe_load_all(block)]


def configurations(document: Any) -> Iterator[Any]:
    """The configurations of sdsd in a document: itself, or what others carry to sdsd."""
    if "kind" in document:  # Kubernetes
        carried = document.get("data", {}) if document["kind"] == "ConfigMap" else {}
        yield from (yaml.safe_load(text) for text in carried.values())
    elif "services" in document:  # Compose
        yield from (yaml.safe_load(c["content"]) for c in document.get("configs", {}).values())
    else:
        yield document


RECIPES = [
    pytest.param(found, id=f"{page}-{number}")
    for page in ("choosing-a-model.md", "recipes.md", "deployment.md")
    for number, document in enumerate(yaml_blocks(page))
    for found in configurations(document)
]


def test_every_kind_of_recipe_is_found() -> None:
    assert len(RECIPES) >= 12


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_passes_the_checks_of_a_run(recipe: Any) -> None:
    loaded = config.load(recipe)
    assert all(model.base_url or model.launch for model in loaded.models.values())


@pytest.mark.e2e
@pytest.mark.parametrize("page", ["choosing-a-model.md", "recipes.md", "deployment.md"])
def test_a_recipe_can_be_rehearsed(page: str, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(next(configurations(yaml_blocks(page)[0]))), "utf-8")
    done = CliRunner().invoke(app, ["run", str(path), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "dialogues to make" in done.output


def test_the_job_scripts_parse() -> None:
    text = (DOCS / "deployment.md").read_text("utf-8")
    scripts = re.findall(r"^```bash\n(#!.*?)^```$", text, re.M | re.S)
    assert scripts
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("*.md")], ids=lambda path: path.name)
def test_no_row_of_a_table_is_broken_over_two_lines(page: Path) -> None:
    for line in page.read_text("utf-8").splitlines():
        assert not line.startswith("| ") or line.endswith("|"), line


# -- figures -------------------------------------------------------------------------------


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, row by row."""
    below = (DOCS / page).read_text("utf-8").partition(heading)[2]
    table = re.findall(r"^\|.*\|$", below.partition("\n\n| ")[2].partition("\n\n")[0], re.M)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table[1:]]


def test_figures_are_those_that_were_measured() -> None:
    measured = (DOCS / "benchmarks.md").read_text("utf-8")
    found = rows("comparison.md", "\n## Measured\n")
    assert len(found) == 9
    for _, cpu, cached, repeated in found:
        assert not cpu or f"| {cpu} [" in measured
        assert not cached or f"| 0.{cached.strip('%')} [" in measured
        for again, answered in re.findall(r"(\d+) of (\d+)", repeated):
            assert f"| {answered} | {again} |" in measured


def test_the_exam_that_is_quoted_is_that_of_the_exam_page() -> None:
    examined = rows("exam.md", "\n## The embedded model's exam\n")
    quoted = rows("choosing-a-model.md", "**What one answer looks like.**")
    assert len(quoted) == 3
    assert all(row in [cells[:3] for cells in examined] for row in quoted)
