"""The marks of chat templates: what separates turns for a model, and must not be in a text."""

from __future__ import annotations

import re

MARK = (
    r"<[|｜][^<>|｜\s]{1,48}[|｜]>"  # <|im_end|>, <|eot_id|>, <｜User｜>
    r"|</?(?:start_of_turn|end_of_turn|tool_call|tool_response|seed:\w{1,12})>"
    r"|<(?:bos|eos|pad|eoa|eoh|sop|eop|unused\d{1,4}|reserved_\d{1,4}|extra_id_\d{1,4})>"
    r"|</s>(?=\s*(?:\Z|</?s>|\[INST\]))|<</?SYS>>"  # elsewhere it may be HTML
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|gMASK)\]"
    r"|\[\|[a-z_]{1,24}\|\]"  # [|assistant|]
)
"""A pattern of them, whatever the template's family. To be matched whatever the case."""
_THINKING = (
    r"</?(?:think|thinking|thought|seed:think|antthinking)>|\[/?THINK\]|◁/?think▷"
    r"|<\|channel>|<channel\|>"
)
_ANY = re.compile(f"{MARK}|{_THINKING}", re.IGNORECASE)


def template_mark(text: str) -> str:
    """Return the first mark of a chat template, or of thinking, in `text`; empty if none is."""
    if "<" not in text and "[" not in text and "◁" not in text:
        return ""
    found = _ANY.search(text)
    return found.group() if found else ""
