"""The list of models is read in the forms that servers give it."""

from __future__ import annotations

import pytest

from sdsd.models.model_list import names_in


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
