"""Chat templates read from a model's files, or had from a server that gives tokens only.

The families' templates are those of `test_template`, and some more in the layout in which
models' files have them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sdsd.errors import WeightsError
from sdsd.models import chat_templates
from sdsd.models.thinking import switch
from sdsd.text.chat_format import Template
from sdsd.types import Message
from tests.factories.chat_templates import (
    CHATML,
    FAMILIES,
    GEMMA,
    LLAMA_2,
    LLAMA_3,
    MISTRAL_BARE,
    learnt,
)

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TALK = (Message("user", "Hello?"), Message("assistant", "Hi."))

# As in a model's files: blocks on lines of their own, which `trim_blocks` and `lstrip_blocks` hide.
PHI_3 = """{% for message in messages %}
    {% if message['role'] == 'system' %}
{{'<|system|>\n' + message['content'] + '<|end|>\n'}}
    {%- elif message['role'] == 'user' %}
{{'<|user|>\n' + message['content'] + '<|end|>\n'}}
    {%- elif message['role'] == 'assistant' %}
{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}
    {%- endif %}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}
"""

# The date in the system turn, from the function that transformers has for it.
DATED = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now('%d %b %Y') %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set brief = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set brief = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + date_string + '\n\n' }}
{{- brief + '<|eot_id|>' }}
{%- for message in messages %}
    {%- if message.role == 'tool' %}{% continue %}{% endif %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}
    {%- generation %}{{- message.content | trim }}{% endgeneration %}
    {{- '<|eot_id|>' }}
{%- endfor %}
"""

TEMPLATES = {name: (row[0], row[1]) for name, row in FAMILIES.items()} | {
    "phi-3": (PHI_3, True),
    "llama-3.2": (DATED, True),
}
families = pytest.mark.parametrize("family", TEMPLATES)
texts = st.text("abcé .?\n’<>", min_size=1, max_size=40).map(str.strip).filter(bool)


def config(template: object, **more: object) -> str:
    return json.dumps({**SPECIAL, "chat_template": template, **more})


def configured(tmp_path: Path, template: object, **more: object) -> Path:
    path = tmp_path / "tokenizer_config.json"
    path.write_text(config(template, **more), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tokenizer's configuration of each family that writes the BOS token itself."""
    paths = {}
    for name, (template, _) in TEMPLATES.items():
        folder = tmp_path_factory.mktemp("model")
        paths[name] = configured(folder, template, add_bos_token=True)
    return paths


@families
def test_a_template_of_every_family_is_learnt(family: str, models: dict[str, Path]) -> None:
    _, takes_system = TEMPLATES[family]
    template, system = chat_templates.learn(models[family])
    assert system is takes_system
    assert not template.before_brief.startswith("<s>")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seams_are_those_of_a_server_that_renders(family: str, models: dict[str, Path]) -> None:
    rendered, _ = learnt(FAMILIES[family][0])
    template, _ = chat_templates.learn(models[family])
    assert template == Template(
        rendered.before_brief.removeprefix("<s>"),
        rendered.after_brief,
        rendered.to_agent,
        rendered.to_user,
    )


@families
@settings(max_examples=15)
@given(brief=texts, talk=st.lists(st.tuples(texts, texts), min_size=1, max_size=4), last=texts)
def test_the_seams_rebuild_any_longer_conversation(
    family: str, models: dict[str, Path], brief: str, talk: list[tuple[str, str]], last: str
) -> None:
    source, _ = TEMPLATES[family]
    template, system = chat_templates.learn(models[family])
    if system:
        messages = [Message("system", brief)]
    else:  # the brief is a turn of its own, with the nod that `after_brief` holds
        messages = [Message("user", brief), Message("assistant", "Understood. I am ready.")]
    stream = "<s>" if "bos_token" in source else ""
    stream += template.before_brief + brief + template.after_brief
    for asked, answered in talk:
        messages += [Message("user", asked), Message("assistant", answered)]
        stream += asked + template.to_agent + answered + template.to_user
    messages.append(Message("user", last))
    assert chat_templates.render(source, messages, special=SPECIAL).startswith(stream + last)


def test_a_bos_token_is_kept_unless_the_server_writes_it(tmp_path: Path) -> None:
    begins: dict[bool | None, str] = {}
    for adds in (True, False, None):
        path = configured(tmp_path, LLAMA_3, add_bos_token=adds)
        begins[adds] = chat_templates.learn(path)[0].before_brief
    header = "<|start_header_id|>system<|end_header_id|>\n\n"
    assert begins == {True: header, False: f"<s>{header}", None: header}


def test_a_bos_token_that_opens_every_turn_is_a_mark_where_nothing_says_more(
    tmp_path: Path,
) -> None:
    path = configured(tmp_path, LLAMA_2)
    assert chat_templates.learn(path)[0].before_brief == "<s>[INST] <<SYS>>\n"
    path = configured(tmp_path, LLAMA_2, tokenizer_class="LlamaTokenizer")
    assert chat_templates.learn(path)[0].before_brief == "[INST] <<SYS>>\n"


def test_seams_do_not_depend_on_the_day(tmp_path: Path) -> None:
    undated = DATED.replace("date_string", "day")  # so that it asks for the time
    assert "26 Jul 2024" in chat_templates.learn(configured(tmp_path, undated))[0].before_brief
    assert "26 Jul 2024" in chat_templates.learn(configured(tmp_path, DATED))[0].before_brief


def test_json_is_written_as_it_is() -> None:
    source = "{{ messages[0].content | tojson }}{{ {'a': [1]} | tojson(indent=1) }}"
    assert (
        chat_templates.render(source, (Message("user", "<é&'>"),))
        == '"<é&\'>"{\n "a": [\n  1\n ]\n}'
    )


@pytest.mark.parametrize(
    ("hostile", "said"),
    [
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ raise_exception.__globals__['json'] }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe|not safely callable"),
        ("{% for i in range(10**9) %}{% endfor %}", "100000 numbers"),
        ("{% for i in range(999) %}{% for j in range(999) %}{% endfor %}{% endfor %}", "100000"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{% if %}", "Expected"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ raise_exception('no\x1b[31m\nway') }}", r"no \[31m way"),
        ("{% include '/etc/passwd' %}", "loader"),
    ],
)
def test_a_hostile_template_is_an_error(hostile: str, said: str) -> None:
    with pytest.raises(WeightsError, match=said) as error:
        chat_templates.render(hostile, TALK, special=SPECIAL)
    assert "\x1b" not in str(error.value)


class TestFiles:
    """What `source` takes for the template and the special tokens."""

    def test_tokens_are_texts_or_objects(self, tmp_path: Path) -> None:
        eos = {"__type": "AddedToken", "content": "<end>", "special": True}
        path = configured(
            tmp_path, "T", eos_token=eos, bos_token=None, add_bos_token=True, pad_token=7
        )
        assert chat_templates.source(path) == chat_templates.Source(
            "T", {"eos_token": "<end>"}, True
        )

    def test_of_several_templates_it_is_the_default(self, tmp_path: Path) -> None:
        named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
        assert chat_templates.source(configured(tmp_path, named)).text == "yes"

    @pytest.mark.parametrize("template", [None, [], [{"name": "rag", "template": "no"}], [3], 3])
    def test_no_template(self, tmp_path: Path, template: object) -> None:
        with pytest.raises(WeightsError, match="has no chat template"):
            chat_templates.source(configured(tmp_path, template))

    def test_a_file_of_its_own_goes_first(self, tmp_path: Path) -> None:
        configured(tmp_path, "old")
        assert chat_templates.source(tmp_path).text == "old"
        (tmp_path / "chat_template.jinja").write_text("new é", encoding="utf-8")
        assert chat_templates.source(tmp_path) == chat_templates.source(
            tmp_path / "chat_template.jinja"
        )
        assert chat_templates.source(tmp_path) == chat_templates.Source("new é", SPECIAL)

    def test_a_lone_template_cannot_know_its_tokens(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.jinja"
        path.write_text("{{ messages[0].content + eos_token }}")
        with pytest.raises(WeightsError, match=r"eos_token.*tokenizer_config\.json"):
            chat_templates.source(path)
        path.write_text(FAMILIES["chatml"][0])
        assert chat_templates.learn(path)[0].before_brief == "<|im_start|>system\n"

    @pytest.mark.parametrize("content", ["", "[]", "{", '{"a": "\\ud800"}' * 2, "[" * 99999])
    def test_what_is_no_configuration(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "tokenizer_config.json"
        path.write_text(content)
        with pytest.raises(WeightsError, match=re.escape(str(path))):
            chat_templates.source(path)

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "a.gguf", tmp_path / "a.json", tmp_path / "a.jinja"):
            with pytest.raises(WeightsError, match=re.escape(str(path))):
                chat_templates.source(path)

    def test_a_gguf_file_is_refused_with_the_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"tiny\.gguf: .*not read.*chat_template\.jinja"):
            chat_templates.source(tmp_path / "tiny.gguf")

    def test_a_template_without_seams_says_why(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"loses or moves.*chat"):
            chat_templates.learn(configured(tmp_path, "{{ messages[0].content }}"))
        with pytest.raises(WeightsError, match=r"never.*chat"):
            chat_templates.learn(configured(tmp_path, "{{ raise_exception('never') }}"))


class Server:
    """vLLM's two routes for a template. Its tokens are marks, or else single characters."""

    def __init__(self, template: str, *, adds_bos: bool, damage: str = "") -> None:
        self.template = template
        self.adds_bos = adds_bos
        self.damage = damage
        """Taken out of every text that it makes of tokens."""
        self.asked: list[Mapping[str, object]] = []

    def tokens(self, text: str) -> list[int]:
        pieces = re.findall(r"</?s>|<\|\w+\|>|.", text, re.DOTALL)
        return [int.from_bytes(piece.encode(), "big") for piece in pieces]

    async def post(self, path: str, asked: Mapping[str, object]) -> dict[str, object] | None:
        self.asked.append(asked)
        if path == "/detokenize":
            tokens = asked["tokens"]
            assert isinstance(tokens, list)
            pieces = [t.to_bytes(32, "big").lstrip(b"\0").decode() for t in tokens]
            text = "".join(pieces)
            return {"prompt": text.replace(self.damage, "") if self.damage else text}
        assert path == "/tokenize"
        if "messages" not in asked:
            lead = "<s>" if self.adds_bos else ""
            return {"count": 0, "tokens": self.tokens(lead + str(asked["prompt"]))}
        messages = asked["messages"]
        assert isinstance(messages, list)
        turns = [Message(m["role"], m["content"]) for m in messages]
        try:
            opened, variables = (
                asked.get(name) for name in ("add_generation_prompt", "chat_template_kwargs")
            )
            assert isinstance(variables, dict)
            text = chat_templates.render(
                self.template, turns, special=SPECIAL, prompt=bool(opened), variables=variables
            )
        except WeightsError:
            return None  # HTTP 400
        return {"count": 0, "tokens": self.tokens(text), "max_model_len": 4096}


@families
async def test_a_server_of_tokens_shows_the_same_seams(
    family: str, models: dict[str, Path]
) -> None:
    template, takes_system = TEMPLATES[family]
    server = Server(template, adds_bos="bos_token" in template)
    assert await chat_templates.from_server(server.post, "tiny") == chat_templates.learn(
        models[family]
    )
    assert all(asked["model"] == "tiny" for asked in server.asked)
    assert takes_system or len(server.asked) > 3


# As Qwen3 and GLM-4.5 have it: the model thinks unless it is told not to.
OFF = "('' if enable_thinking | default(true) else '<think></think>')"
HYBRID = CHATML.replace("'<|im_start|>assistant\n' -", f"'<|im_start|>assistant\n' + {OFF} -")
NOISY = HYBRID.replace(
    "'<|im_end|>'", "('' if enable_thinking | default(true) else '/quiet') + '<|im_end|>'"
)
OPENING = CHATML + "{% if add_generation_prompt %}<think>{% endif %}"
# As Qwen3.5 and DeepSeek-V3.1: its thinking is begun for it, or ended.
EITHER = HYBRID.replace("('' if", "('<think>' if").replace("| default(true)", "| default(false)")


@pytest.mark.parametrize("thinks", [False, True])
@pytest.mark.parametrize(
    ("source", "silent", "loud"),
    [
        (HYBRID, "<think></think>", ""),
        (NOISY, "", ""),  # what the switch writes into turns, the model would write, too
        (EITHER, "<think></think>", "<think>"),
        (OPENING, "<think>\n\n</think>\n\n", "<think>"),
    ],
)
async def test_the_template_says_how_a_reply_begins_without_thinking(
    source: str, silent: str, loud: str, thinks: bool, tmp_path: Path
) -> None:
    plain, _ = chat_templates.learn(configured(tmp_path, CHATML))
    template, _ = chat_templates.learn(configured(tmp_path, source), thinks=thinks)
    assert template == replace(plain, opening=loud if thinks else silent)
    variables = switch(on=thinks)
    found = await chat_templates.from_server(Server(source, adds_bos=False).post, "tiny", variables)
    assert found is not None
    if source != NOISY:
        assert (found[0] if thinks else found[0].closed()) == template


async def test_a_server_that_adds_no_bos_token_leaves_it_to_us() -> None:
    learned = await chat_templates.from_server(Server(LLAMA_3, adds_bos=False).post, "tiny")
    assert learned is not None
    assert learned[0].before_brief.startswith("<s><|start_header_id|>")


async def test_text_that_is_not_what_the_tokens_were_is_not_trusted() -> None:
    for damage in (" ", "</s>"):
        server = Server(MISTRAL_BARE, adds_bos=True, damage=damage)
        assert await chat_templates.from_server(server.post, "tiny") is None


@pytest.mark.parametrize(
    "reply",
    [None, {}, {"tokens": None}, {"tokens": ["a"]}, {"tokens": [1], "prompt": 3}, {"error": "?"}],
)
async def test_a_server_without_the_routes_or_with_others_shows_nothing(
    reply: dict[str, object] | None,
) -> None:
    async def post(path: str, asked: Mapping[str, object]) -> dict[str, object] | None:
        return reply

    assert await chat_templates.from_server(post, "tiny") is None


def test_gemma_is_asked_without_a_system_turn() -> None:
    with pytest.raises(WeightsError, match="System role not supported"):
        chat_templates.render(GEMMA, (Message("system", "Be brief."), *TALK), special=SPECIAL)
