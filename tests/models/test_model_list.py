"""The list of models is read in the forms that servers give it."""

from __future__ import annotations

import pytest

from sdsd.models.model_list import alike, names_in


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"object": "list", "data": [{"id": "a"}, {"id": "b", "owned_by": null}]}', ["a", "b"]),
        (b'[{"id": "a", "type": "chat"}]', ["a"]),
        (b'{"models": [{"name": "a:latest", "model": "a:latest"}]}', ["a:latest"]),
        (b'{"data": [{"id": 7}, {"id": "a"}, {}, null, "b"]}', ["a"]),
        (b'{"data": null}', []),
        (b'{"data": {"id": "a"}}', []),
        (b"<html>", []),
        (b"[" * 100_000, []),
        (b"", []),
    ],
)
def test_names(body: bytes, names: list[str]) -> None:
    assert names_in(body) == names


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("gpt-4o", "openai/GPT-4o"),
        ("qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct"),
        ("openai/lama3", "llama3:latest"),
        ("nothing-like-it", "alpha"),
    ],
)
def test_the_names_that_may_have_been_meant_come_first(name: str, first: str) -> None:
    names = ["alpha", "Qwen/Qwen2.5-7B-Instruct", "openai/GPT-4o", "llama3:latest", "omega"]
    found = alike(name, names)
    assert found[0] == first
    assert [other for other in found if other != first] == [n for n in names if n != first]
