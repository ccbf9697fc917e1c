"""The real embedded engine with the real small model: the machinery, not the prose.

The model file (98 MB) is fetched on first use, as a user's would be. Set SDSD_TEST_ENGINE=0 to
leave these tests out where nothing can be fetched.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdsd import run
from sdsd.errors import WeightsError
from sdsd.models import llamacpp, weights
from sdsd.models.openai_server import HttpModel
from sdsd.models.probing import probe
from sdsd.runs.events import Called, Event
from sdsd.runs.run import Run
from sdsd.types import Completion, Message, Request

pytestmark = [
    pytest.mark.engine,
    pytest.mark.xdist_group("engine"),  # they share a server
    pytest.mark.skipif(os.environ.get("SDSD_TEST_ENGINE") == "0", reason="SDSD_TEST_ENGINE=0"),
]

NAME = "smollm2-135m"
SMALL = {
    "n": 2,
    "model": NAME,
    "scenarios": {"exchanges": [1, 2], "principles": [1, 1]},
    "plan": {"max_tokens": 120},
    "dialogue": {"max_tokens": 48},
    "critique": {"max_tokens": 100, "exam": 0},
    "revise": {"max_tokens": 60, "rounds": 1},
}


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with llamacpp.serve(weights.locate(NAME), slots=2, context=2048) as url:
        yield url


async def test_it_is_found_out_what_the_engine_can_do(base_url: str) -> None:
    async with HttpModel(NAME, base_url) as model:
        can = await probe(model)
    assert (can.chat, can.completions, can.schema, can.system) == (True, True, True, True)
    assert can.template is not None
    assert can.template.to_agent == "<|im_end|>\n<|im_start|>assistant\n"


async def test_a_conversation_that_grows_is_one_prefix(base_url: str) -> None:
    async with HttpModel(NAME, base_url) as model:
        template = (await probe(model)).template
        assert template is not None
        stream = template.open("A short chat about lighthouses. " * 12)
        for speaker, seam in (("user", template.to_agent), ("agent", template.to_user)) * 2:
            stop = template.stops(speaker)
            answer = await model.complete(Request("agent", 24, prompt=stream, stop=stop), seed=1)
            assert isinstance(answer, Completion)
            stream += template.cut(answer.text) + seam
            last = answer
    assert last.cached_tokens > 0.8 * last.prompt_tokens


async def test_the_same_seed_gives_the_same_words_and_a_schema_holds(base_url: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    words = Request("agent", 16, (Message("user", "Name a colour."),), temperature=1.0)
    held = Request("critic", 32, (Message("user", "True?"),), schema=schema)
    async with HttpModel(NAME, base_url) as model:
        await probe(model)
        first, second, constrained = [
            await model.complete(request, seed=7) for request in (words, words, held)
        ]
    assert isinstance(first, Completion)
    assert isinstance(second, Completion)
    assert isinstance(constrained, Completion)
    assert first.text == second.text
    assert "".join(constrained.text.split()) in ('{"a":true}', '{"a":false}')


REPLIES = (
    "It is red.",
    "I would say blue, since most people name it first when they are asked.",
    "Colours are a matter of wavelength; red has the longest, at about 700 nanometres.",
    "Naïve question! ☕",
    "Red 🟥, blue 🟦 or שלום: 👩‍🍳 knows.",
)


@pytest.mark.train  # needs PyTorch
@pytest.mark.parametrize("system", ["Be brief.", "You are a rude assistant."])
async def test_given_text_is_scored_as_the_reference_implementation_does(
    base_url: str, system: str
) -> None:
    """Close rather than equal: the engine computes with 8-bit activations."""
    torch = pytest.importorskip("torch")
    training = importlib.import_module("training")
    model, tokenizer = training.start(training.SMALL)
    chat = (Message("system", system), Message("user", "Name a colour."))

    def reference(reply: str) -> float:
        turns = [{"role": m.role, "content": m.content} for m in chat]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        before = tokenizer(text, add_special_tokens=False)["input_ids"]
        own = tokenizer(reply, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([before + own])).logits[0, len(before) - 1 : -1]
        chosen = torch.log_softmax(logits.float(), -1)[range(len(own)), own]
        # The engine gives none for a token that leaves a character open.
        whole = [not tokenizer.decode(own[: k + 1]).endswith("\ufffd") for k in range(len(own))]
        return float(chosen[torch.tensor(whole)].sum())

    async with HttpModel(NAME, base_url) as server:
        await probe(server)
        for reply in REPLIES:
            answer = await server.complete(Request("critic", 1, chat, given=reply), 0)
            assert isinstance(answer, Completion)
            print(f"{answer.logprob:9.3f} {reference(reply):9.3f}  {reply}")
            assert answer.logprob == pytest.approx(reference(reply), abs=0.05, rel=0.02)


async def test_a_prompt_beyond_the_context_is_refused_not_retried(base_url: str) -> None:
    async with HttpModel(NAME, base_url) as model:
        answer = await model.complete(Request("agent", 8, prompt="word " * 5000), seed=0)
    assert not isinstance(answer, Completion)
    assert answer.cause == "HTTP 400"
    assert "context" in answer.raw


def test_a_whole_run_then_again_then_verified(tmp_path: Path) -> None:
    calls: list[Event] = []
    first = run(SMALL, out=tmp_path / "run", on_event=calls.append)
    assert len(first) == first.status().n == 2
    assert sum(isinstance(event, Called) for event in calls) >= 2
    assert (first.path / "report.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    calls.clear()
    again: Run = run(SMALL, out=tmp_path / "run", on_event=calls.append)
    assert again.status().outcomes == first.status().outcomes
    assert not [event for event in calls if isinstance(event, Called)]
    checked = first.verify()
    assert (checked.records, checked.defects) == (2, ())


@pytest.mark.parametrize("content", [b"GGUF" + b"\x00" * 4096, b"GGUF\x03\x00\x00\x00rubbish"])
def test_an_unreadable_model_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"broken\.gguf"), llamacpp.serve(file):
        pass
