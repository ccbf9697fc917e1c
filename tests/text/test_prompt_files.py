"""Prompt files: filled in one pass, faults named, and every placeholder filled by a stage."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsd.errors import PromptError
from sdsd.pipeline.method import PROMPTS
from sdsd.pipeline.prompts import load_prompt
from sdsd.text import prompt_files
from sdsd.text.prompt_files import Prompt


def write(folder: Path, text: str | bytes) -> str:
    path = folder / "mine.md"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@given(st.text(), st.text())
def test_values_are_inserted_as_they_are(a: str, b: str) -> None:
    filled = Prompt("", "", {"s": "{{a}}|{{ b }}|{{a}}"}).fill("s", a=a, b=b)
    assert filled == f"{a}|{b}|{a}"


def test_a_value_cannot_smuggle_in_a_placeholder() -> None:
    both = Prompt("", "", {"s": "{{a}} {{b}}"})
    assert both.fill("s", a="{{b}} {{c}} \\1", b="{{a}}") == "{{b}} {{c}} \\1 {{a}}"


def test_a_file_is_its_sections_and_what_stands_before_them_is_for_people(tmp_path: Path) -> None:
    path = write(
        tmp_path, "\ufeffFor {{people}}.\r\n\r\n## one\r\n\r\nHi {{a}}.\r\n##  two \r\n### x\r\n"
    )
    read = prompt_files.read(Path(path))
    assert read.sections == {"one": "Hi {{a}}.", "two": "### x"}
    assert read.source == path


def test_the_digest_changes_with_the_text(tmp_path: Path) -> None:
    digests = {prompt_files.read(Path(write(tmp_path, f"## s\n{k}"))).digest for k in range(3)}
    assert len(digests) == 3


@pytest.mark.parametrize("name", PROMPTS)
def test_a_copy_of_a_packaged_prompt_takes_its_place(name: str, tmp_path: Path) -> None:
    packaged = load_prompt(name)
    assert packaged.sections
    own = write(tmp_path, Path(packaged.source).read_text("utf-8") + "\n## more\n{{anything}}")
    copied = load_prompt(name, own)
    assert packaged.sections.items() <= copied.sections.items()
    assert copied.digest != packaged.digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no `## section`"),
        ("just text", "no `## section`"),
        ("## system\nHello.", "`## user` is missing"),
        ("## system\n{{topic}}\n## user\nx", "`{{topic}}` in `## system` .*there are: none"),
        (
            "## system\nx\n## user\n{{gaol}}",
            "`{{gaol}}` in `## user` .*goal, last, opening, others",
        ),
        (b"## system\n\xff", ":2: the byte 0xff is not UTF-8"),
    ],
)
def test_a_fault_in_ones_own_file_is_named(text: str | bytes, said: str, tmp_path: Path) -> None:
    own = write(tmp_path, text)
    with pytest.raises(PromptError, match=said) as fault:
        load_prompt("plan", own)
    assert str(fault.value).startswith(own)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.md", tmp_path):
        with pytest.raises(PromptError, match=r"cannot be read"):
            load_prompt("plan", str(path))


def test_numbered_lines_begin_at_one() -> None:
    assert prompt_files.numbered(["a", "b"]) == "1. a\n2. b"
    assert prompt_files.numbered([]) == ""
