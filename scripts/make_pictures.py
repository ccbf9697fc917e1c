"""Draw the pictures in docs/pictures from runs of the scripted model.

    python scripts/make_pictures.py

The pages need a Chromium, which makes the screenshots; the terminal is drawn by rich. Look at the
pictures before you commit them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from sdsd import Event, Noted, Recorded, Run, ScriptedModel, run
from sdsd.runs.progress import Screen, headline

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Write every picture."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        terminal(root / "runs" / "scripted")
        new = made(root / "runs" / "strategies", **{"scenarios.strategies": ["all"]})
        old = made(root / "runs" / "direct")
        shot(new.report(), "report.png", 1200, 1560)
        shot(new.report(against=old), "compare.png", 1200, 1400)


def made(path: Path, **keys: Any) -> Run:
    """Make a run of 300 dialogues."""
    models = {"default": ScriptedModel()}
    keys = {"n": 300, "dialogue.candidates": 2, **keys}
    return run(out=path, models=models, progress=False, **keys)


def terminal(path: Path) -> None:
    """Draw the terminal when 14 of 20 dialogues of a run are done."""
    console = Console(record=True, width=100, file=sys.stderr, force_terminal=True)
    screen, lines, drawn = Screen(quiet=True), list[str](), list[str]()

    def on_event(event: Event) -> None:
        time.sleep(0.005)  # a picture with plausible rates
        screen.on_event(event)
        if isinstance(event, Recorded):
            lines.append(f"dialogue {event.record.scenario.index}: {headline(event.record)}")
        elif isinstance(event, Noted):
            lines.append(event.text)
        if len(lines) == 14 and not drawn:
            console.print("$ sdsd run -n 20", style="bold", highlight=False)
            for line in lines[-5:]:
                console.print(Text(line), no_wrap=True, overflow="ellipsis")
            console.print(screen)
            drawn.append(console.export_svg(title="sdsd run", unique_id="terminal"))

    run(n=20, out=path, models={"default": ScriptedModel()}, on_event=on_event)
    (PICTURES / "terminal.svg").write_text(drawn[0].replace(str(path.parents[1]) + "/", ""))


def shot(page: Path, name: str, width: int, height: int) -> None:
    """Take a screenshot of the top of a page."""
    browser = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    if browser is None:
        raise SystemExit(f"no Chromium: install one of {', '.join(_CHROMIUM)}")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-sync", "--hide-scrollbars",
            f"--user-data-dir={profile}", f"--window-size={width},{height}",
            f"--screenshot={PICTURES / name}", page.resolve().as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
