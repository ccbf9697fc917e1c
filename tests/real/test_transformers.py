"""`transformers serve`: another implementation of the API, which can do much less."""

from __future__ import annotations

import json
import urllib.error
from pathlib import Path
from typing import Any

import pytest

import sdsd
from tests.helpers.real_servers import Served
from tests.helpers.small_runs import answers, assert_sound, config, seen

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("train")]  # they share the model

SHAPE = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}


def model(server: Served, small: Path) -> dict[str, Any]:
    return {"model": str(small), "base_url": server.url}


def yes(truth: object) -> str:
    return "yes" if truth else "no"


def test_what_doctor_says_is_true(transformers_server: Served, small: Path) -> None:
    server = transformers_server
    said = {name: d.text for name, d in seen(model(server, small)).items()}

    def chat(question: str = "Name three colours.", **more: Any) -> Any:
        """The choices of a reply; none if the server refuses the request."""
        messages = [{"role": "user", "content": question}]
        body = {"model": str(small), "messages": messages, "max_tokens": 12, "temperature": 0}
        try:
            return server.ask("/v1/chat/completions", body | more)["choices"]
        except urllib.error.HTTPError:
            return []

    def has(path: str, body: dict[str, Any] | None = None) -> bool:
        try:
            return bool(server.ask(path, body))
        except urllib.error.HTTPError:
            return False

    (plain,) = chat()
    assert said["chat"].startswith("yes: ")
    prompt = {"model": str(small), "prompt": "One, two,", "max_tokens": 4}
    assert said["completions"] == yes(has("/v1/completions", prompt))
    tokens = {"model": str(small), "messages": [{"role": "user", "content": "Hello"}]}
    shows = has("/tokenize", tokens) or has("/apply-template", tokens)
    assert said["template"] == yes(shows)
    assert said["auto"] == f"chooses `{'continuation' if shows else 'chat'}`"
    assert (said["system turn"], said["thinks first"]) == ("yes", "no")
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": SHAPE}}
    held = chat(response_format=wanted)
    assert said["JSON schema"] == yes(held and held[0]["message"]["content"].startswith("{"))
    probable = chat(logprobs=True, top_logprobs=5)
    assert said["logprobs"] == yes(probable and probable[0].get("logprobs"))
    assert said["scores given text"].startswith("no; ")  # it has neither of the three ways
    hot = {json.dumps(chat(temperature=1, seed=n)[0]["message"]["content"]) for n in (1, 2, 3)}
    assert said["sampling"].startswith("without effect") is (len(hot) == 1)
    assert said["n"] == yes(len(chat(n=2, temperature=1)) == 2)
    assert said["metrics"] == yes(has("/metrics"))
    assert said["prefix cache"] == "not reported"
    assert plain["finish_reason"] == "length"


def test_a_run_ends(transformers_server: Served, small: Path, plans: Path, tmp_path: Path) -> None:
    chosen = config(model(transformers_server, small), plans)
    made = sdsd.run(chosen, out=tmp_path / "run")
    assert_sound(made, 2)
    recorded = answers(made.path)
    sdsd.run(chosen, out=made.path)
    assert answers(made.path) == recorded
