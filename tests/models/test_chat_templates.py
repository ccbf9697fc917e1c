"""Chat templates read from a model's files, or had from a server that gives tokens only.

The families' templates are those of `test_template`, and some more in the layout in which
models' files have them. The GGUF files are written here, byte by byte.
"""

from __future__ import annotations

import contextlib
import json
import re
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdsd.errors import WeightsError
from sdsd.models import chat_templates
from sdsd.text.chat_format import Template
from sdsd.types import Message
from tests.factories.chat_templates import FAMILIES, GEMMA, LLAMA_2, LLAMA_3, MISTRAL_BARE, learnt

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


def test_without_jinja_the_extra_is_named(tmp_path: Path) -> None:
    path = configured(tmp_path, LLAMA_3)
    program = (
        "import sys; sys.modules['jinja2'] = None\n"
        "from pathlib import Path; from sdsd.models import chat_templates\n"
        f"chat_templates.learn(Path({str(path)!r}))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "pip install 'sdsd[template]'" in done.stderr


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

    def test_a_template_without_seams_says_why(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"loses or moves.*chat"):
            chat_templates.learn(configured(tmp_path, "{{ messages[0].content }}"))
        with pytest.raises(WeightsError, match=r"never.*chat"):
            chat_templates.learn(configured(tmp_path, "{{ raise_exception('never') }}"))


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def pair(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def strings(*items: str) -> bytes:
    return struct.pack("<IQ", 8, len(items)) + b"".join(map(string, items))


def gguf(*pairs: bytes, version: int = 3, count: int | None = None) -> bytes:
    number = len(pairs) if count is None else count
    return b"GGUF" + struct.pack("<IQQ", version, 0, number) + b"".join(pairs)


TEMPLATE_PAIR = pair("tokenizer.chat_template", 8, string(LLAMA_3))
BOS_PAIR = pair("tokenizer.ggml.bos_token_id", 4, struct.pack("<I", 1))
EOS_PAIR = pair("tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 2))
TOKENS_PAIR = pair("tokenizer.ggml.tokens", 9, strings("<unk>", "<s>", "</s>", "a"))
WHOLE = (
    pair("general.name", 8, string("tiny")),
    pair("general.file_type", 4, struct.pack("<I", 7)),
    pair("llama.rope.freq_base", 6, struct.pack("<f", 1e4)),
    pair("llama.size", 10, struct.pack("<Q", 1)),
    BOS_PAIR,
    pair("tokenizer.ggml.scores", 9, struct.pack("<IQ4f", 6, 4, 0, 0, 0, 0)),
    TOKENS_PAIR,
    pair("tokenizer.ggml.merges", 9, strings("a b", "b c")),
    EOS_PAIR,
    TEMPLATE_PAIR,
)


class TestGguf:
    """The header of a GGUF file: whole, cut, or made to hurt."""

    def write(self, tmp_path: Path, data: bytes) -> Path:
        path = tmp_path / "tiny.gguf"
        path.write_bytes(data)
        return path

    @pytest.mark.parametrize("version", [2, 3])
    def test_a_whole_one(self, tmp_path: Path, version: int) -> None:
        path = self.write(tmp_path, gguf(*WHOLE, version=version) + b"tensors")
        assert chat_templates.source(path) == chat_templates.Source(LLAMA_3, SPECIAL)
        assert chat_templates.learn(path)[1] is True

    @pytest.mark.parametrize(
        ("more", "adds"),
        [
            ((), None),
            ((pair("tokenizer.ggml.model", 8, string("gpt2")),), None),
            ((pair("tokenizer.ggml.model", 8, string("llama")),), True),
            ((pair("tokenizer.ggml.add_bos_token", 7, b"\x01"),), True),
            (
                (
                    pair("tokenizer.ggml.model", 8, string("llama")),
                    pair("tokenizer.ggml.add_bos_token", 7, b"\x00"),
                ),
                False,
            ),
        ],
    )
    def test_who_writes_the_bos_token(
        self, tmp_path: Path, more: tuple[bytes, ...], adds: bool | None
    ) -> None:
        assert chat_templates.source(self.write(tmp_path, gguf(*WHOLE, *more))).adds_bos is adds

    def test_cut_anywhere_it_is_an_error(self, tmp_path: Path) -> None:
        whole = gguf(*WHOLE)
        for end in range(0, len(whole), 7):
            with pytest.raises(WeightsError, match=r"tiny\.gguf"):
                chat_templates.source(self.write(tmp_path, whole[:end]))

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (b"GGML" + gguf(*WHOLE)[4:], "begin"),
            (gguf(*WHOLE, version=1), "version 1"),
            (gguf(*WHOLE, version=3 << 24), "version"),  # another byte order
            (gguf(count=1 << 60), "keys"),
            (gguf(struct.pack("<Q", 1 << 62)), "string of"),
            (gguf(pair("a", 8, struct.pack("<Q", 1 << 63))), "cut short"),
            (gguf(pair("a", 9, struct.pack("<IQ", 0, 1 << 63))), "cut short"),
            (gguf(pair("a", 9, struct.pack("<IQ", 12, (1 << 64) - 1))), "cut short"),
            (gguf(pair("a", 9, struct.pack("<IQ", 8, 1 << 63))), "strings"),
            (gguf(pair("a", 9, struct.pack("<IQ", 9, 1))), "type 9"),
            (gguf(pair("a", 13, b"")), "type 13"),
            (gguf(pair("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 4, 0))), "not texts"),
            (gguf(TEMPLATE_PAIR, BOS_PAIR), "token 1 of 0"),
            (gguf(TOKENS_PAIR, BOS_PAIR), "no chat template"),
            (gguf(pair("tokenizer.chat_template", 4, struct.pack("<I", 1))), "no chat template"),
        ],
    )
    def test_a_hostile_one_is_an_error(self, tmp_path: Path, data: bytes, said: str) -> None:
        with pytest.raises(WeightsError, match=said):
            chat_templates.source(self.write(tmp_path, data))

    @settings(max_examples=200)
    @given(at=st.integers(0, len(gguf(*WHOLE)) - 1), byte=st.integers(0, 255))
    def test_any_changed_byte_gives_a_template_or_an_error(
        self, tmp_path_factory: pytest.TempPathFactory, at: int, byte: int
    ) -> None:
        data = bytearray(gguf(*WHOLE))
        data[at] = byte
        path = self.write(tmp_path_factory.getbasetemp(), bytes(data))
        with contextlib.suppress(WeightsError):  # and nothing else
            assert isinstance(chat_templates.source(path).text, str)


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
            text = chat_templates.render(self.template, turns, special=SPECIAL)
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
