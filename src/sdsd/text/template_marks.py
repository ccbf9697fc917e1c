"""The marks of chat templates: what separates turns for a model, and must not be in a text."""

from __future__ import annotations

import re

from sdsd.text.thinking_marks import sure_mark

_ANGLE = (
    r"[|｜][^<>|｜\s]{1,48}[|｜]>"  # <|im_end|>, <|eot_id|>, <｜User｜>
    r"|/?(?:start_of_turn|end_of_turn|tool_call|tool_response|seed:\w{1,12})>"
    r"|(?:bos|eos|pad|eoa|eoh|sop|eop|(?:unused|reserved_|extra_id_|special_)\d{1,4})>"
    r"|/s>(?=\s*(?:\Z|</?s>|\[INST\]))|</?SYS>>"  # elsewhere </s> may be HTML
)
_SQUARE = (
    r"/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|gMASK)\]"
    r"|\|[a-z_]{1,24}\|\]"  # [|assistant|]
    r"|e~\["  # MiniMax
)
MARK = rf"<(?:{_ANGLE})|\[(?:{_SQUARE})"
"""A pattern of them, whatever the template's family. To be matched whatever the case."""
AFTER_FIRST = f"{_ANGLE}|{_SQUARE}"
"""What follows the first character of a mark."""
_ANY = re.compile(rf"[<\[](?i:{AFTER_FIRST})")


def template_mark(text: str) -> str:
    """Return a mark of a chat template, or else of thinking, in `text`; empty if there is none."""
    found = _ANY.search(text)
    return found.group() if found else sure_mark(text)
