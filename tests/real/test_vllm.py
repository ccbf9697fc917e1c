"""A real vLLM, on the CPU: what doctor says of it is true, and runs on it survive its death."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

import sdsd
from sdsd.runs.events import Called, Event, Noted
from tests.helpers.real_servers import VLLM, Served, vllm
from tests.helpers.small_runs import answers, assert_sound, config, rows, seen

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("train")]  # they share the model

HELLO = [{"role": "user", "content": "Name three colours, and one thing of each colour."}]
SHAPE = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}


def chat(server: Served, **more: Any) -> dict[str, Any]:
    body = {"model": "smol", "messages": HELLO, "max_tokens": 8, "temperature": 0, **more}
    reply = server.ask("/v1/chat/completions", body)
    assert isinstance(reply, dict)
    return reply


def test_what_doctor_says_is_true(server: Served) -> None:
    said = {name: d.text for name, d in seen({"model": "smol", "base_url": server.url}).items()}
    assert said["serves"] == ", ".join(m["id"] for m in server.ask("/v1/models")["data"])
    assert said["completions"] == "yes"
    assert server.ask("/v1/completions", {"model": "smol", "prompt": "One,"})["choices"]
    # The template has a system turn, and neither begins nor ends any thinking.
    brief = [{"role": "system", "content": "Be blunt."}, *HELLO]
    tokens = server.ask("/tokenize", {"model": "smol", "messages": brief})["tokens"]
    text = server.ask("/detokenize", {"model": "smol", "tokens": tokens})["prompt"]
    assert "system\nBe blunt." in text
    assert text.endswith("<|im_start|>assistant\n")
    assert (said["template"], said["system turn"], said["thinks first"]) == ("yes", "yes", "no")
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": SHAPE}}
    held = chat(server, response_format=wanted, max_tokens=64)["choices"][0]["message"]["content"]
    assert isinstance(json.loads(held)["a"], bool)
    assert said["JSON schema"] == "yes"
    places = chat(server, logprobs=True, top_logprobs=5)["choices"][0]["logprobs"]["content"]
    assert len(places[0]["top_logprobs"]) == 5
    assert said["logprobs"] == "yes"
    scored = {"model": "smol", "prompt": "One, two", "max_tokens": 1, "prompt_logprobs": 0}
    assert server.ask("/v1/completions", scored)["choices"][0]["prompt_logprobs"][1:]
    assert said["scores given text"].startswith("by prompt_logprobs; ")
    hot = [chat(server, temperature=1, seed=n, max_tokens=16) for n in (1, 1, 2)]
    first, again, other = (reply["choices"][0]["message"]["content"] for reply in hot)
    assert first == again != other
    assert said["sampling"] == "the same seed gives the same text, another seed another"
    assert len(chat(server, n=2, temperature=1)["choices"]) == 2
    assert said["n"] == "yes"
    assert "vllm:num_requests_running" in server.ask("/metrics")
    assert said["metrics"] == "yes"
    cached = chat(server)["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached % 16 == 0  # whole blocks of its cache
    reported = re.fullmatch(r"reported \((\d+) tokens of a repeated prompt\)", said["prefix cache"])
    assert reported is not None
    assert int(reported[1]) % 16 == 0
    assert said["limits"] == "max_tokens; an unknown number of requests at once"
    assert said["auto"] == "chooses `continuation`"


@pytest.mark.parametrize("protocol", ["transcript", "continuation", "chat", "roleplay"])
def test_every_protocol_ends_and_nothing_is_asked_twice(
    protocol: str, server: Served, plans: Path, tmp_path: Path
) -> None:
    chosen = config({"model": "smol", "base_url": server.url}, plans, protocol)
    before = answered(server)
    made = sdsd.run(chosen, out=tmp_path / "run")
    assert_sound(made, 2)
    recorded = answers(made.path)
    assert {step.split("/")[0] for _, step in recorded} >= {"turn"}
    # The server has answered what is recorded, and the few requests of the probe.
    asked, probes = answered(server) - before, 30
    assert len(recorded) <= asked <= len(recorded) + probes
    before = answered(server)
    sdsd.run(chosen, out=made.path)
    assert (answered(server), answers(made.path)) == (before, recorded)


def answered(server: Served) -> int:
    """Requests that the server has answered in its life."""
    found = re.findall(
        r"^vllm:request_success_total\{.*\} ([\d.e+]+)$", server.ask("/metrics"), re.M
    )
    return int(sum(map(float, found)))


@pytest.mark.parametrize("protocol", ["continuation", "chat"])
@pytest.mark.usefixtures("on_path")
def test_a_launched_server_that_is_killed_comes_back(
    protocol: str, small: Path, plans: Path, tmp_path: Path
) -> None:
    """And what had been answered before is not asked again."""
    model = {"model": str(small), "launch": "vllm", "arguments": list(VLLM), "parallel": 4}
    out, notes, calls = tmp_path / "run", list[str](), list[tuple[str, str]]()
    killed: list[int] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Noted):
            notes.append(event.text)
        if isinstance(event, Called):
            calls.append((event.call.scenario, event.call.step))
            if len(calls) == 4:
                log = (out / "models" / "default" / "vllm.log").read_text()
                killed.append(int(re.findall(r"APIServer pid=(\d+)", log)[-1]))
                os.kill(killed[0], signal.SIGKILL)

    made = sdsd.run(config(model, plans, protocol), out=out, on_event=on_event)
    assert_sound(made, 2)
    assert killed
    assert any("killed by signal 9" in note and "Restarting it" in note for note in notes)
    assert len(calls) == len(set(calls)) == len(answers(out))
    assert not Path(f"/proc/{killed[0]}").exists()


@pytest.fixture(scope="module")
def thinking(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with marks of thinking in place of two tokens that nothing here uses, and a
    chat template that begins the thinking."""
    folder = tmp_path_factory.mktemp("thinking")
    tokens = (small / "tokenizer.json").read_text()
    for unused, mark in (("<jupyter_start>", "<think>"), ("<jupyter_text>", "</think>")):
        tokens = tokens.replace(unused, mark)
    read = json.loads(tokens)
    for token in read["added_tokens"]:  # as those of reasoning models: part of the text
        token["special"] &= not token["content"].endswith("think>")
    template = (small / "chat_template.jinja").read_text()
    begun = "{%- if add_generation_prompt -%}{{- '<think>\\n' -}}{%- endif -%}"
    changed = {"tokenizer.json": json.dumps(read), "chat_template.jinja": template + begun}
    for file in small.iterdir():
        if file.name in changed:
            (folder / file.name).write_text(changed[file.name])
        else:
            (folder / file.name).symlink_to(file)
    return folder


@pytest.mark.usefixtures("programs")
def test_thinking_that_the_server_takes_out_is_in_no_row(
    thinking: Path, plans: Path, tmp_path: Path
) -> None:
    options = (
        *("--reasoning-parser", "deepseek_r1"),
        *("--structured-outputs-config", '{"enable_in_reasoning": true}'),
    )
    with vllm(thinking, tmp_path / "log", *options) as server:
        # The model has not learnt to think: it is made to, for some words.
        shape = "[a-z ]{40,80}</think>[A-Z][a-z ]{20,60}[.]"
        model = {
            "model": "smol",
            "base_url": server.url,
            "thinking_tokens": 64,
            "extra_body": {"structured_outputs": {"regex": shape}},
        }
        said = {name: d.text for name, d in seen(model).items()}
        assert said["thinks first"].startswith("yes")
        made = sdsd.run(config(model, plans), out=tmp_path / "run")
        assert_sound(made, 2)
        bodies = [json.loads(body) for body in answers(made.path).values()]
        thoughts = [body.get("thinking", "").strip() for body in bodies]
        assert any(len(thought) >= 40 for thought in thoughts)
        published = rows(made.path)
        assert any(body.get("text") and body["text"] in published for body in bodies)
        assert "think>" not in published
        assert not any(len(thought) >= 40 and thought in published for thought in thoughts)


@pytest.mark.usefixtures("programs")
def test_a_full_server_s_503s_end_no_run(small: Path, plans: Path, tmp_path: Path) -> None:
    limits = ("--max-num-seqs", "2", "--max-num-queued-reqs", "3")
    with vllm(small, tmp_path / "log", *limits) as server:
        made = sdsd.run(
            config({"model": "smol", "base_url": server.url}, plans, n=8), out=tmp_path / "run"
        )
        refused = server.log.read_text().count('completions HTTP/1.1" 503')
    assert refused
    assert_sound(made, 8)
    assert not any("503" in cause for cause in made.status().failures)
