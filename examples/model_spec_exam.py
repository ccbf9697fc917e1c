"""Turn the good and bad replies of OpenAI's Model Spec into items for `sdsd exam`.

    python examples/model_spec_exam.py model_spec.md > model_spec.jsonl

`model_spec.md` is in https://github.com/openai/model_spec, in the public domain (CC0). A section's
title is the principle, and its other examples are shown to critics. Examples with a system or
developer message, or without either kind of reply, are left out.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PART = re.compile(r"^(?=#+ |\*\*Example\*\*)", re.MULTILINE)
TITLE = re.compile(r"#+ (.+?) \{#")
CHAT = re.compile(r"~~~xml\n(.*?)~~~", re.DOTALL)
TURN = re.compile(
    r"<(system|developer|user|assistant)\b[^>]*>(?: <!-- (GOOD|BAD)[^>]*-->)?\n(.*?)\n</\1>",
    re.DOTALL,
)
SHOWN = 3


def items(spec: str) -> Iterator[dict[str, Any]]:
    """Yield the items in the text of the Model Spec."""
    sections: dict[str, list[dict[str, Any]]] = {}
    section = ""
    for part in PART.split(spec):
        if title := TITLE.match(part):
            section = title[1]
        elif (chat := CHAT.search(part)) and (pair := pair_in(chat[1])):
            sections.setdefault(section, []).append(pair)
    for title_, pairs in sections.items():
        for pair in pairs:
            others = [other for other in pairs if other is not pair]
            yield {
                "principle": f"{title_}.",
                "category": "model-spec",
                **pair,
                "examples": others[:SHOWN],
            }


def pair_in(chat: str) -> dict[str, Any] | None:
    """Return the first good and the first bad reply to a user's message; None without both."""
    turns = TURN.findall(chat)
    good, bad = ([text for _, label, text in turns if label == want] for want in ("GOOD", "BAD"))
    before = [{"role": role, "content": text} for role, label, text in turns if not label]
    roles = [turn["role"] for turn in before]
    alternating = ["user", "assistant"] * len(roles)
    if not (good and bad and roles) or roles[-1] != "user" or roles != alternating[: len(roles)]:
        return None
    return {
        "user": before[-1]["content"],
        "satisfies": good[0],
        "violates": bad[0],
        "earlier": before[:-1],
    }


if __name__ == "__main__":
    for item in items(Path(sys.argv[1]).read_text("utf-8")):
        print(json.dumps(item, ensure_ascii=False))
