"""The configuration: what is loaded is what was written, and a fault names its key and remedy.

Two laws: dumping and loading gives the same configuration; and the digest changes with every key
that decides what is made, and with no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sdsd import config
from sdsd.config import Config, ModelConfig
from sdsd.config.keys import keys
from sdsd.errors import ConfigError
from sdsd.models.fleet import protocols

FAULTS = {
    # unknown keys, at every depth
    "dialog: {}": "unknown key `dialog`; did you mean `dialogue`?",
    "modl: x": "unknown key `modl`; did you mean `model`?",
    "zzz: 1": "unknown key `zzz`; known here: n, seed, models, roles,",
    "dialogue: {protocl: x}": "unknown key `dialogue.protocl`; did you mean `protocol`?",
    "dialogue: {1: x}": "unknown key `dialogue.1`; known here: protocol,",
    "models: {default: {modle: x}}": "unknown key `models.default.modle`; did you mean `model`?",
    "models: {big: {base_urll: x}}": "unknown key `models.big.base_urll`; did you mean `base_url`?",
    "models: {big: {price: {promt: 1}}}": "unknown key `models.big.price.promt`; did you mean",
    "export: {splits: {tset: 0.1}}": "unknown key `export.splits.tset`; did you mean `test`?",
    # wrong types
    "n: '3'": "`n`: Expected `int`, got `str`",
    "n: true": "`n`: Expected `int`, got `bool`",
    "seed: 1.5": "`seed`: Expected `int`, got `float`",
    "dialogue: 3": "`dialogue`: Expected `object`, got `int`",
    "models: []": "`models`: Expected `object`, got `array`",
    "models: {big: null}": "`models.big`: Expected `object`, got `null`",
    "models: {big: {headers: {x: 1}}}": "`models.big.headers`: Expected `str`, got `int`",
    "model: 3": "`models.default.model`: Expected `str`, got `int`; put it in quotation marks",
    "models: {big: {timeout: '10:00'}}": "`models.big.timeout`: Expected `float`, got `str`",
    "n: 1:30": "`n`: Expected `int`, got `str`",
    "n: 010": ":1: 010 is another number to YAML than to people; leave the zero out, or put it in",
    "models: {big: {<<: {model: m}}}": ":1: `<<` is not read; write the keys out",
    "n:3\nmodel:m": "must be a mapping of keys, with a space after each colon",
    "scenarios: {principles: [1]}": "`scenarios.principles`: Expected `array` of length 2",
    # out of bounds
    "n: -1": "`n`: Expected `int` >= 0",
    "n: 0": "`n` must be at least 1 (0 only with `targets` or `source`)",
    "{targets: {pairs: 1}, source: {path: x}}": "`targets` decide which dialogues are made",
    "attempts: 10": "`attempts`: Expected `int` <= 9",
    "dialogue: {temperature: 2.1}": "`dialogue.temperature`: Expected `float` <= 2.0",
    # numbers that a run's own files cannot hold
    "dialogue: {temperature: .nan}": "`dialogue.temperature` must be a finite number, not nan",
    "models: {big: {timeout: .inf}}": "`models.big.timeout` must be a finite number, not inf",
    "models: {big: {extra_body: {x: [1, -.inf]}}}": "`models.big.extra_body.x.1` must be a finite",
    "budget: {money: 1e999}": "`budget.money` must be a finite number, not inf",
    "models: {big: {timeout: 0}}": "`models.big.timeout`: Expected `float` > 0.0",
    "scenarios: {exchanges: [0, 2]}": "`scenarios.exchanges[0]`: Expected `int` >= 1",
    "models: {big: {parallel: -1}}": "`models.big.parallel`: Expected `int` >= 0",
    # values that a list does not have
    "dialogue: {self_check: evry}": "unknown value `evry`; did you mean `every`? allowed: every",
    "source: {kind: alpaca}": "`source.kind`: unknown value `alpaca`; allowed: auto, messages",
    "models: {big: {api_key_env: sk-0123456789}}": "`models.big.api_key_env` must be the name of",
    "models: {big: {api_key_env: '${KEY}'}}": "such as OPENAI_API_KEY: not the key itself, and no",
    "models: {big: {transport: bach}}": "`models.big.transport`: unknown value `bach`; did you",
    "critique: {critics: {a: {wording: x}}}": "unknown value `x`; allowed: plain, defend, stranger",
    "pairs: [contrast, revison]": "unknown value `revison`; did you mean `revision`? allowed: ",
    "pairs: none": "unknown value `none`; ",
    # contradictions
    "roles: {critic: judge}": "`roles.critic` names `judge`, which is not under `models` (default)",
    "scenarios: {principles: [3, 1]}": "`scenarios.principles`: [3, 1] must be [fewest, most]",
    "scenarios: {exchanges: [1, 9]}": "asks for up to 9, but `dialogue.max_exchanges` is 8",
    "model: ' '": "`models.default.model` is empty",
    "export: {splits: {validation: 0.5, test: 0.5}}": "leave nothing to train on",
    "models: {a.b: {}}": "`models` has the name `a.b`",
    "models: {'': {}}": "`models` has the name ``",
    # no mapping, or no YAML
    "- n": "must be a mapping of keys",
    "n: 1\nseed: [": ":3: ",
    "n: 1\n\nseed: a: b": ":3: mapping values are not allowed in this context",
    "n: 2020-13-45": ":1: '2020-13-45' is not of the type timestamp (month must be in 1..12)",
    "models: {default: {extra_body: &a {x: *a}}}": ":1: aliases are not read; write the value out",
    "? [1, 2]\n: x": ":1: a key must be text",
    "seed: !!python/name:os.system ''": ":1: the tag ",
    "[" * 50_000: ":1: nested more than 32 deep",
    "n: 1\n---\nn: 2": ":2: a second document in one file",
    # the same thing said twice
    "n: 1\nseed: 2\nn: 3": ":3: the key 'n' occurs twice, first on line 1",
    "models:\n  a: {}\n  b: {}\n  a: {}": ":4: the key 'a' occurs twice, first on line 2",
    "models:\n  big:\n    headers: {x: a, y: b, x: c}": ":3: the key 'x' occurs twice, first on li",
    "models: {}\nn: 5\n'models':\n  judge: {}": ":3: the key 'models' occurs twice",
    "targets:\n  cells: {1: 2, '1': 3}": ":2: the key '1' occurs twice",
    "model: a\nmodels: {default: {model: b}}": "both `model` and `models.default.model` name the",
}


@pytest.mark.parametrize(
    ("tree", "section"),
    [
        ({"caf\udce9": 1}, ""),
        ({"models": {"caf\udce9": {}}}, " in `models`"),
        ({"models": {"big": {"headers": {"caf\udce9": "x"}}}}, " in `models.big.headers`"),
        (
            {"models": {"big": {"extra_body": {"a": [{"caf\udce9": 1}]}}}},
            " in `models.big.extra_body.a.0`",
        ),
        ({"targets": {"cells": {"caf\udce9": 1}}}, " in `targets.cells`"),
    ],
)
def test_a_key_that_no_file_can_hold_is_refused(tree: dict[str, Any], section: str) -> None:
    with pytest.raises(ConfigError) as fault:
        config.load(tree)
    said = f"configuration: the key 'caf\\udce9'{section} is not UTF-8; rename it"
    assert str(fault.value) == said


@pytest.mark.parametrize("text", FAULTS)
def test_a_fault_names_the_file_the_key_and_the_remedy(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as fault:
        config.load(path)
    assert str(fault.value).startswith(f"{path}:")
    assert FAULTS[text] in str(fault.value)


@pytest.mark.parametrize("word", ["off", "Off", "OFF", "no", "false", "'off'"])
def test_the_words_for_a_truth_value_are_what_a_key_takes(word: str, tmp_path: Path) -> None:
    """YAML 1.1 takes `off` for false, which would make `thinking: off` an error."""
    path = tmp_path / "config.yaml"
    keys = f"models: {{default: {{model: {word}, thinking: {word}, headers: {{x: {word}}}}}}}"
    if word == "false":
        keys = keys.replace(f"model: {word}", "model: m").replace(f"x: {word}", "x: y")
    path.write_text(f"{keys}\ndialogue: {{agent_sees_plan: {word}}}", "utf-8")
    found = config.load(path)
    assert (found.models["default"].thinking, found.dialogue.agent_sees_plan) == ("off", False)
    assert found.models["default"].model in (word.strip("'"), "m")
    override = dict([config.assignment(f"models.default.thinking={word}")])
    assert config.load(None, override).models["default"].thinking == "off"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file; `sdsd init`"):
        config.load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"model: caf\xe9")
    wrong = r"latin\.yaml:1: the byte 0xe9 is not UTF-8 \(byte 11 of its line\); save the file"
    with pytest.raises(ConfigError, match=wrong):
        config.load(tmp_path / "latin.yaml")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_how_to_read_a_file(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes("model: café\r\nn: 5\r\n".encode(encoding))
    loaded = config.load(path)
    assert (loaded.models["default"].model, loaded.n) == ("café", 5)


def test_a_number_may_have_an_exponent() -> None:
    timeout = config.load({}, dict([config.assignment("models.default.timeout=1e3")]))
    assert timeout.models["default"].timeout == 1000.0
    assert config.load({}, dict([config.assignment("n=2E2")])).n == 200
    assert config.assignment("x='1e3'") == ("x", "1e3")


def test_what_only_looks_like_a_number_is_still_text_after_a_dump(tmp_path: Path) -> None:
    written = config.load({"models": {"default": {"headers": {"1e3": "5e10", "x": "1.e5"}}}})
    (tmp_path / "config.yaml").write_text(config.dump(written), "utf-8")
    assert config.load(tmp_path / "config.yaml") == written


def test_a_number_that_no_file_can_hold_is_refused_from_a_program_too() -> None:
    with pytest.raises(ConfigError, match=r"`models\.default\.timeout` must be a finite"):
        config.load({}, {"models.default.timeout": float("inf")})


@given(st.text("nsed:model-[]{}'\"&*!|>%@`,? \n\t01.#~=\\\x00\ud800é", max_size=40))
def test_any_file_is_loaded_or_refused(text: str) -> None:
    try:
        key, value = config.assignment(f"models={text}")
        assert config.load({}, {key: value})
    except ConfigError:
        return


# -- where values come from ----------------------------------------------------------------


def test_nothing_said_means_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert config.load(tmp_path / "empty.yaml") == config.load(None) == config.load({}) == Config()


def test_model_is_short_for_the_default_model() -> None:
    long = config.load({"models": {"default": {"model": "a"}}})
    assert config.load({"model": "a"}) == config.load(None, {"model": "a"}) == long
    assert config.load({"model": "b"}, {"model": "a"}) == long
    assert config.load({"model": "b"}, {"models.default.model": "a"}) == long


def test_overrides_reach_every_depth_and_touch_nothing_else() -> None:
    source = {"seed": 7, "models": {"big": {"model": "b", "context": 1024}}}
    overrides = {"dialogue.max_tokens": 9, "models.big.model": "c", "roles.critic": "big", "n": 5}
    loaded = config.load(source, overrides)
    assert source == {"seed": 7, "models": {"big": {"model": "b", "context": 1024}}}
    assert loaded.dialogue == msgspec.structs.replace(Config().dialogue, max_tokens=9)
    assert loaded.models == {
        "default": ModelConfig(),
        "big": ModelConfig(model="c", context=1024),
    }
    assert (loaded.seed, loaded.n) == (7, 5)
    assert loaded.model_for("critic").model == "c"
    assert loaded.model_for("agent") == ModelConfig()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("dialogue.protocol=roleplay", "roleplay"),
        ("n=3", 3),
        ("models.big.headers={A: b=c}", {"A": "b=c"}),
        ("catalogue.topics=", None),
        ("x={2020-01-01: 1}", {"2020-01-01": 1}),
    ],
)
def test_an_assignment_is_a_key_and_a_yaml_value(text: str, value: object) -> None:
    assert config.assignment(text) == (text.partition("=")[0], value)


@pytest.mark.parametrize("text", ["", "n", "=3", "n=[", "n=2020-13-45", "n=" + "[" * 1000])
def test_an_assignment_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        config.assignment(text)


def test_file_names_are_relative_to_the_configuration_that_names_them(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("catalogue: {topics: mine/topics}\nprompts: {plan: /plan.md, review: ''}\n")
    loaded = config.load(path, {"catalogue.goals": "goals.yaml"})
    assert loaded.catalogue.topics == str(tmp_path / "mine" / "topics")
    assert loaded.catalogue.goals == str(Path("goals.yaml").absolute())
    against = {
        "export": {
            "duplicates": {"against": ["a", "/b", "hf:c/d"]},
            "contamination": {"sets": ["~/c"]},
        }
    }
    export = config.load(against).export
    assert export.duplicates.against == (str(Path("a").absolute()), "/b", "hf:c/d")
    assert export.contamination.sets == (str(Path.home() / "c"),)
    assert loaded.catalogue.principles == ""
    assert (loaded.prompts.plan, loaded.prompts.review) == (str(Path("/plan.md").absolute()), "")


def test_a_home_that_nobody_has_is_named() -> None:
    with pytest.raises(ConfigError, match=r"`prompts.plan`: .*write the path out"):
        config.load({"prompts": {"plan": "~nobody-of-that-name/plan.md"}})


# -- written down --------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
models = st.builds(
    ModelConfig,
    model=texts.map(lambda name: f"m{name}"),
    base_url=texts,
    headers=st.dictionaries(texts, texts, max_size=2),
    extra_body=st.dictionaries(texts, json_values, max_size=3),
    parallel=st.integers(0, 99),
    timeout=st.floats(0.001, 1e9),
)
configs = st.builds(
    Config,
    n=st.integers(1, 10**9),
    seed=st.integers(),
    models=st.dictionaries(st.text("aB9_-", min_size=1), models, max_size=2).map(
        lambda named: {"default": ModelConfig(), **named}
    ),
    catalogue=st.builds(config.CatalogueConfig, topics=texts.map(lambda name: f"./{name}")),
    plan=st.builds(config.PlanConfig, temperature=st.floats(0, 2)),
)


@settings(max_examples=50)
@given(configs)
def test_a_dump_loads_back(written: Config) -> None:
    made = config.load(config.tree(written))
    loaded = config.load(yaml.safe_load(config.dump(made)))
    assert loaded == made
    assert config.digest(loaded) == config.digest(made)


def test_a_dump_loads_back_from_a_file(tmp_path: Path) -> None:
    made = config.load({"n": 9, "models": {"big": {"extra_body": {"a": {"b": [1, None]}}}}})
    path = tmp_path / "config.yaml"
    path.write_text(config.dump(made), "utf-8")
    assert config.load(path) == made


def test_the_explained_defaults_load_back_to_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config.explained(), "utf-8")
    assert config.load(path) == Config()
    assert set(dict(config.flat(yaml.safe_load(config.explained())))) == set(
        dict(config.flat(Config()))
    )


def sections(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    yield kind
    for key in keys(kind).values():
        if key.section:
            yield from sections(key.section)


def test_every_key_is_described() -> None:
    for section in sections(Config):
        for key in keys(section).values():
            assert key.description.endswith("."), key


def test_the_json_schema_has_every_key_with_its_description() -> None:
    schema = config.json_schema()
    assert msgspec.json.encode(schema)
    assert "description" in schema["properties"].pop("model")  # short for `models.default.model`
    described = {"Config": schema} | schema["$defs"]
    for section in sections(Config):
        shown = described.pop(section.__name__, None) or {}
        assert list(shown.get("properties", keys(section))) == list(keys(section))
        for name, shape in shown.get("properties", {}).items():
            known = keys(section)[name]
            assert known.section or shape["description"] == known.description
    assert not described


def test_the_json_schema_refuses_what_loading_refuses() -> None:
    schema = config.json_schema()
    assert schema["additionalProperties"] is False
    assert not any(shape.get("required") for shape in schema["$defs"].values())
    assert schema["$defs"]["DialogueConfig"]["properties"]["temperature"]["maximum"] == 2.0
    assert "never" in schema["$defs"]["DialogueConfig"]["properties"]["self_check"]["enum"]


def test_the_json_schema_writes_equal_bounds_alike() -> None:
    """`Annotated[float, Meta(ge=0)]` and `Meta(ge=0.0)` are one cached type, the first one met."""
    assert re.search(r"(?m): \d+\.0,?$", config.json_schema_text()) is None


# -- identity ------------------------------------------------------------------------------

EXECUTION = {
    "n": 4,
    "max_open_dialogues": 4,
    "models.default.base_url": "http://localhost:1/v1",
    "models.default.api_key_env": "KEY",
    "models.default.headers": {"X.Y": "z"},
    "models.default.parallel": 4,
    "models.default.threads": 4,
    "models.default.timeout": 4.0,
    "models.default.retries": 4,
    "models.default.chat_template": "/mine.jinja",
    "models.default.launch": "vllm",
    "models.default.arguments": ["--dtype=half"],
    "models.default.start_timeout": 9.0,
    "models.default.transport": "batch",
    "models.default.batch.max_requests": 9,
    "models.default.batch.window": "1h",
    "models.default.outage": 9.0,
    "models.default.requests_per_minute": 9.0,
    "models.default.tokens_per_minute": 9.0,
    "models.default.price.prompt": 9.0,
    "models.default.price.cached": 9.0,
    "models.default.price.completion": 9.0,
    "budget.tokens": 9,
    "budget.money": 9.0,
    "telemetry.port": 9,
    "export.exclude": ["echo"],
    "export.truncate": True,
    "export.include_plan": True,
    "export.canary": "a canary of some length",
    "export.tokenizer": "hf:org/name",
    "export.views": ["mine:lengths"],
    "export.filters": ["mine:keep"],
    "export.checks": ["mine:shouting"],
    "export.duplicates.method": "near",
    "export.duplicates.near": 0.5,
    "export.duplicates.semantic": 0.5,
    "export.duplicates.against": ["earlier"],
    "export.contamination.sets": ["evaluation.jsonl"],
    "export.contamination.words": 8,
    "export.pairs.exclude_warnings": ["lost_facts"],
    "export.pairs.max_similarity": 0.9,
    "export.pairs.max_length_ratio": 3.0,
    "export.pairs.min_critic_margin": 0.1,
    "export.balance.by": "field",
    "export.balance.shares": {"Astronomy": 2.0},
    "export.balance.max_pairs": 9,
    "export.splits.by": "field",
    "export.splits.validation": 0.1,
    "export.splits.test": 0.1,
}
IDENTITY: dict[str, Any] = {
    "seed": 1,
    "attempts": 1,
    "models.default.model": "another",
    "models.default.backend": "mine:Model",
    "models.default.extra_body": {"top_k": 1},
    "models.default.context": 1024,
    "models.second.model": "another",
    **{f"roles.{role}": "second" for role in ("planner", "user", "agent", "critic", "reviser")},
    **{
        f"catalogue.{name}": "mine.yaml" for name in ("topics", "principles", "goals", "affinities")
    },
    "catalogue.scope": "decidable",
    "scenarios.principles": [1, 2],
    "scenarios.exchanges": [1, 2],
    "scenarios.strategies": ["subtle"],
    "source.path": "chats.jsonl",
    "source.kind": "sharegpt",
    "models.default.thinking": "off",
    "models.default.thinking_tokens": 9,
    "source.split": "train",
    "targets.by": "category",
    "targets.pairs": 9,
    "targets.cells": {"no-betrayal-advice": 9},
    "targets.cost": 9.0,
    "plan.max_tokens": 9,
    "plan.temperature": 0.1,
    "dialogue.protocol": "roleplay",
    "dialogue.max_exchanges": 9,
    "dialogue.agent_sees_plan": False,
    "dialogue.candidates": 2,
    "dialogue.self_check": "never",
    "dialogue.siblings": 2,
    "pairs": ["contrast"],
    "dialogue.max_tokens": 9,
    "dialogue.temperature": 0.1,
    "critique.critics": {"a": {"wording": "defend"}},
    "critique.vote": "all",
    "critique.method": "contrast",
    "critique.examples": 2,
    "critique.precision": 0.8,
    "critique.exam": 9,
    "critique.turns": "every",
    "critique.adherence": True,
    "critique.max_tokens": 9,
    "critique.temperature": 0.1,
    "revise.rounds": 1,
    "revise.recheck": False,
    "revise.vote": "all",
    "revise.style": "principle",
    "revise.max_tokens": 9,
    "revise.temperature": 0.1,
    "pipeline": "json:dumps",
    **{f"prompts.{name}": "mine.md" for name in Config().prompts.__struct_fields__},
}
BASE: dict[str, Any] = {"models": {"second": {}}}


def test_every_key_is_either_of_execution_or_of_identity() -> None:
    keys = dict(config.flat(Config()))
    assert set(keys) == (EXECUTION.keys() | IDENTITY.keys()) - {"models.second.model"}


@pytest.mark.parametrize("key", EXECUTION)
def test_how_a_run_is_executed_does_not_change_its_identity(key: str) -> None:
    base, changed = config.load(BASE), config.load(BASE, {key: EXECUTION[key]})
    assert changed != base
    assert config.digest(changed) == config.digest(base)
    assert config.differences(changed, base) == []


@pytest.mark.parametrize("key", IDENTITY)
def test_what_a_run_makes_changes_its_identity(key: str) -> None:
    base, changed = config.load(BASE), config.load(BASE, {key: IDENTITY[key]})
    assert config.digest(changed) != config.digest(base)
    lines = config.differences(changed, base)
    assert lines
    assert all(line.startswith(key) for line in lines)


def test_differences_name_key_and_both_values() -> None:
    theirs = config.load({"seed": 1, "n": 1, "plan": {"temperature": 0.5}})
    ours = config.load({"seed": 2, "n": 9, "plan": {"temperature": 0.9}})
    assert config.differences(ours, theirs) == ["seed: 1 -> 2", "plan.temperature: 0.5 -> 0.9"]
    assert config.differences(ours, ours) == []


def test_auto_prefers_the_growing_stream() -> None:
    assert protocols(Config()) == ("continuation", "chat")
    blind = config.load({"dialogue": {"agent_sees_plan": False}})
    two = config.load({"models": {"other": {}}, "roles": {"user": "other"}})
    assert protocols(blind) == protocols(two) == ("roleplay",)
    chosen = config.load({"dialogue": {"protocol": "transcript"}})
    assert protocols(chosen) == ("transcript",)


@pytest.mark.parametrize("other", [{"base_url": "http://a/v1"}, {"transport": "batch"}])
def test_a_launched_server_is_the_only_one_of_its_model(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"`models.default` has .*remove one of them"):
        config.load({"models": {"default": {"launch": "vllm", **other}}})
