"""Parse a generated page, and object to markup that a hostile text could have smuggled in."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from hypothesis import strategies as st

TAGS = frozenset(
    "html head meta title style body main header section article div p h1 h2 h3 h4 ul ol li dl dt "  # noqa: SIM905
    "dd b i q small strong code span mark del ins details summary table thead tbody tr th td svg g "
    "rect circle line path text".split()
)

VOID = {"meta"}

ATTRIBUTES = frozenset(
    "lang charset http-equiv content name class id dir open colspan title role aria-label width "  # noqa: SIM905
    "height viewbox preserveaspectratio x y x1 y1 x2 y2 cx cy r d transform".split()
)


class Page(HTMLParser):
    """Reads a page and objects to anything that is not ours."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        assert tag in TAGS, tag
        assert {name for name, _ in attrs} <= ATTRIBUTES, attrs
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


HOSTILE = st.sampled_from(
    [
        "<script>alert(1)</script>",
        "</title></style><script>",
        "\"'><img src=x onerror=alert(1)>",
        "<!-- ",
        "]]>",
        "&lt;&#x3c;&amp",
        "\u202e\u2066\u200f\u0000\u001b[31m",
        "\ud800",
        "z" + "\u0337" * 50,
        "{{placeholder}} %s {0}",
    ]
)

ANYTHING = st.lists(st.text(max_size=30) | HOSTILE, max_size=4).map("".join)
