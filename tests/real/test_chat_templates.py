"""The models' own chat templates: what `continuation` sends is the official rendering.

The templates are those that TRL ships. transformers renders and tokenises a conversation, and so
does vLLM; the stream that is written from the seams must have the same tokens. Where it has not,
the test says what is different, and why.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from sdsd.errors import WeightsError
from sdsd.models import chat_templates
from sdsd.models.thinking import switch
from sdsd.text.chat_format import Template, switched
from sdsd.types import Message
from tests.helpers.real_servers import Served

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("train")]  # they share the model

SILENT = switch(on=False)
DATE = {"date_string": "26 Jul 2024"}
BRIEF = "Follow this plan:\n\n1. Talk."
TURNS = ("Is it bad? It’s <b>urgent</b>.", "It may be a cold.", "Should I wait?", "No.", "Bye.")
MARK = re.compile(r"<\|[^<>|\n{}']{1,40}\|>|<｜[^<>｜\n{}']{1,40}｜>|</?\w+>|<\|?\w+\|?>|\[gMASK\]")
"""Control tokens in a template."""
BOS = {
    "deepseek": "<｜begin▁of▁sentence｜>", "gemma": "<bos>", "llama": "<|begin_of_text|>",
    "muse": "<|begin_of_text|>", "cohere": "<BOS_TOKEN>", "lfm2": "<|startoftext|>",
}  # fmt: skip


class Other(Struct, frozen=True):
    """How a stream differs from the official rendering: what that has, and what stands there."""

    why: str
    official: str = ""
    ours: str = ""
    everywhere: bool = False
    """Else at the end alone, where the next reply begins."""

    def of(self, official: str) -> str:
        """Return what we should send."""
        if self.everywhere:
            return official.replace(self.official, self.ours)
        return official.removesuffix(self.official) + self.ours


NO_SWITCH = Other("no switch for thinking: it is closed at once", "\n", "\n\n</think>\n\n")
OTHERS = {
    "deepseek_r1_distill": NO_SWITCH,
    "deepseekv3": NO_SWITCH,
    "glm4moe": Other("its switch writes into user turns; replies begin as earlier ones do"),
    "gptoss": Other("the reply is to be the final one", "", "<|channel|>final<|message|>"),
    "muse_glimmer": Other("the reply is to be the user's", "", " to=user<|message|>"),
}
SAME = (
    "cohere", "cohere2", "gemma", "gemma3", "gemma4", "lfm2", "llama3", "llama3_1", "llama3_2",
    "nemotron_3_nano", "nemotron_3_super", "phi3", "qwen2_5", "qwen3", "qwen3_5_nothink",
    "qwen3_5_think", "qwen3_6", "qwen3_8", "qwen3_instruct_2507",
)  # fmt: skip
PICTURES = ("idefics3", "llava_next", "smolvlm")
"""Their turns are lists of parts, which may be pictures."""


@pytest.fixture(scope="session")
def templates() -> Path:
    trl = pytest.importorskip("trl", reason="trl is not installed; docs/training.md says how")
    return Path(trl.__file__).parent / "chat_templates"


@pytest.fixture(scope="session")
def transformers() -> Any:
    return importlib.import_module("transformers")


def tokenizer(name: str, text: str, small: Path, transformers: Any) -> Any:
    """The small model's tokenizer with a template, and with the template's control tokens."""
    made = transformers.AutoTokenizer.from_pretrained(small)
    bos = next((mark for family, mark in BOS.items() if family in name), "<|endoftext|>")
    made.add_special_tokens({
        "bos_token": bos,
        "eos_token": "<|im_end|>",
        "additional_special_tokens": sorted({*MARK.findall(text)} - {bos, "<|im_end|>"}),
    })  # fmt: skip
    made.chat_template = text
    return made


def stream(template: Template, *, system: bool) -> tuple[str, list[Message]]:
    """What is sent for the last reply of a conversation, and the conversation's messages."""
    chat = [Message("system" if system else "user", BRIEF)]
    if not system:
        chat.append(Message("assistant", "Understood. I am ready."))
    text = template.open(BRIEF)
    for k, turn in enumerate(TURNS):
        text += turn + (template.to_user if k % 2 else template.to_agent)
        chat.append(Message("assistant" if k % 2 else "user", turn))
    return template.begun(text), chat


@pytest.mark.parametrize("name", [*SAME, *OTHERS])
def test_a_stream_has_the_tokens_of_the_official_rendering(
    name: str, templates: Path, small: Path, transformers: Any, tmp_path: Path
) -> None:
    source = (templates / f"{name}.jinja").read_text()
    official = tokenizer(name, source, small, transformers)
    official.save_pretrained(tmp_path)
    template, system = chat_templates.learn(tmp_path)
    sent, chat = stream(template, system=system)
    messages = [{"role": m.role, "content": m.content} for m in chat]
    rendered = official.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False, **DATE,
        **({} if name == "glm4moe" else SILENT),
    )  # fmt: skip
    if name == "gptoss":  # asks for today's date, and gets that of every run
        rendered = re.sub(r"date: \d{4}-\d\d-\d\d", "date: 2024-07-26", rendered)
    if name == "glm4moe":
        rendered += "\n<think></think>\n"
    expected = OTHERS.get(name, Other("")).of(rendered)
    if rendered.startswith(official.bos_token):  # a server adds it
        sent = official.bos_token + sent
    ours, theirs = (official(text, add_special_tokens=False).input_ids for text in (sent, expected))
    assert official.convert_ids_to_tokens(ours) == official.convert_ids_to_tokens(theirs)


@pytest.mark.parametrize("name", PICTURES)
def test_a_template_for_pictures_is_refused(
    name: str, templates: Path, small: Path, transformers: Any, tmp_path: Path
) -> None:
    source = (templates / f"{name}.jinja").read_text()
    tokenizer(name, source, small, transformers).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="protocol: chat` needs no"):
        chat_templates.learn(tmp_path)


@pytest.mark.parametrize(
    "name", ["qwen2_5", "qwen3", "qwen3_5_think", "phi3", "nemotron_3_nano", "glm4moe", "gemma3"]
)
async def test_a_server_that_tokenises_gives_the_same_stream(
    name: str, server: Served, templates: Path
) -> None:
    """Here the seams are learnt from a real vLLM, which is sent the template with each request."""
    source = (templates / f"{name}.jinja").read_text()

    async def post(path: str, asked: Any) -> Any:
        return server.ask(path, asked | ({"chat_template": source} if "messages" in asked else {}))

    plain = await chat_templates.from_server(post, "smol")
    silent = await chat_templates.from_server(post, "smol", SILENT)
    assert plain is not None
    template = switched(plain[0], silent and silent[0]).closed()
    sent, chat = stream(template, system=plain[1])
    messages = [{"role": m.role, "content": m.content} for m in chat]
    asked = {"model": "smol", "messages": messages, "add_generation_prompt": True}
    quiet = {} if name == "glm4moe" else SILENT
    official = await post("/tokenize", asked | {"chat_template_kwargs": quiet})
    ours = await post("/tokenize", {"model": "smol", "prompt": sent})
    expected = official["tokens"]
    if name == "glm4moe":
        end = {"model": "smol", "prompt": "\n<think></think>\n", "add_special_tokens": False}
        expected += (await post("/tokenize", end))["tokens"]
    assert ours["tokens"] == expected
