"""Refuse words that the glossary in CONTRIBUTING.md replaces.

    python scripts/check_words.py [FILE ...]

Without a file: everything that people read, which is the package's code, the documentation and the
scripts. Prompts, strategies and the catalogue are data and may say what they like. A word that is
right in one place is allowed there, in `ALLOWED`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
READ = ("src/**/*.py", "docs/*.md", "*.md", "bench/README.md", "scripts/*", "examples/*")

INSTEAD = {
    r"anew": "again",
    r"belongs? into": "belongs in",
    r"beside": "next to, or compared with",
    r"doors?": "`ask`, extension or contract",
    r"dearer|too dear": "too expensive",
    r"doubts?": "warning",
    r"economy": "prefix-cache efficiency",
    r"gate": "semaphore",
    r"in the mean(?! ?time)": "on average",
    r"intact": "complete",
    r"lenders?": "answer cache",
    r"mend(s|ed|ing)?": "fix",
    r"(of )?(one's|a user's) own": "user-defined",
    r"onions?": "middleware",
    r"pace": "concurrency",
    r"slips?": "planned violation",
    r"spoilt": "unusable",
    r"talks?(?! (about|to|with)\b)": "conversation",
    r"that there (is|are) none": "unknown",
    r"half-way": "part-way through",
    r"hand(s|ed)? out": "return",
    r"(is|are) going to (take|need|cost)": "will take, need, cost",
    r"(is|are) to have": "should have",
    r"(runs?|programs?) goe?s? on": "the run continues",
    r"how far (a|each|every|the) (run|cell|experiment)( of the targets)? is": "progress",
    r"missing of": "missing from",
    r"takes? (it|one of them) out": "remove",
    r"what came of": "the outcome of",
    r"which is no (?!longer\b|more\b|less\b)": "which is not a",
    r"weigh(s|ed|ing)?": "choices",
    # Ordinary English as a verb, but not as the name of a function.
    r"(?<!\.)(hear|tell|told)(?= ?[(=:])": "emit, on_event",
}
"""Patterns of whole words, and what to write."""

ALLOWED: tuple[tuple[str, str], ...] = (
    ("CONTRIBUTING.md", r"^\|.*"),  # the glossary itself
    ("scripts/check_words.py", r".*"),
    ("*", r"\bSLIP\b"),  # the label in plans
    ("docs/small-model.md", r"^(?:[A-Z]+ {2,}| {11}).*"),  # what the model wrote
    ("docs/method.md", r"\b(anew|slips?)\b"),  # the packaged prompts' words
    ("CHANGELOG.md", r"^ *\|.*"),  # old names
    ("src/sdsd/checks/*.py", r'^\s+r?f?".*'),  # what the rules look for in texts
    ("src/sdsd/dataset/views/verdicts.py", "A person talks with"),  # a prompt in the data
)
"""Where a pattern is right: a glob of paths, and the part of a line that is exempt."""

_BANNED = [(re.compile(rf"\b(?:{p})\b", re.IGNORECASE), said) for p, said in INSTEAD.items()]


def banned_words(path: str, text: str) -> Iterator[str]:
    """Yield one line for each banned word in `text`: where it is, and what to write instead."""
    exempt = [re.compile(part) for glob, part in ALLOWED if fnmatch(path, glob)]
    for number, line in enumerate(text.splitlines(), 1):
        rest = line
        for part in exempt:
            rest = part.sub("", rest)
        for banned, instead in _BANNED:
            for found in banned.finditer(rest):
                yield f"{path}:{number}: `{found[0]}`: {instead}"


def main(names: list[str]) -> int:
    """Print what is found in these files, or in all; return the exit code."""
    wanted = {path for glob in READ for path in ROOT.glob(glob) if path.is_file()}
    paths = {Path(name).resolve() for name in names} & wanted if names else wanted
    found = [
        line
        for path in sorted(paths)
        for line in banned_words(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
