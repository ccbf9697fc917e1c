"""A user's own model backend, named in the configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import sdsd
from sdsd import config as configuration
from sdsd import run
from sdsd.errors import Busy, ConfigError, PluginError
from sdsd.models import fleet as fleets
from sdsd.models.doctor import examine
from sdsd.models.scripted import ScriptedModel
from sdsd.plugins import resolve, version
from sdsd.runs.directory import RunDir
from sdsd.runs.verify import verify
from sdsd.types import Completion, Request

pytestmark = pytest.mark.e2e

EXAMPLE = '''
from sdsd.config import ModelConfig
from sdsd.models.base import Capabilities
from sdsd.models.scripted import small_world
from sdsd.types import Answer, Completion, Request


class Table:
    """A backend with an answer to everything, from a function."""

    def __init__(self, config: ModelConfig) -> None:
        self.name = config.model
        self.capabilities = Capabilities()

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
        return Completion(small_world(request, seed), model=self.name)
'''


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory, as a user would have it."""
    (tmp_path / "my_backend_under_test.py").write_text(EXAMPLE)
    monkeypatch.chdir(tmp_path)
    return "my_backend_under_test:Table"


def config(backend: str, **keys: Any) -> Mapping[str, Any]:
    return {"n": 6, "models": {"default": {"model": "table", "backend": backend, **keys}}}


def test_a_run_on_a_backend_is_made_resumed_and_verified(backend: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert len(sdsd.run({**config(backend), "n": 2}, out=out)) == 2
    grown = sdsd.run(config(backend), out=out)
    assert len(grown) == 6
    assert all(record.plan and record.dialogue for record in grown.records())
    assert "my_backend_under_test:Table" in (out / "config.yaml").read_text()
    assert (found := verify(RunDir(out))).records == 6
    assert not found.defects
    manifest = RunDir(out).manifest()
    assert manifest
    assert manifest.parts[backend] == version(resolve(backend, "backends"))


def test_another_backend_is_another_run(backend: str) -> None:
    ours, theirs = (configuration.load(config(name)) for name in (backend, "other:Backend"))
    assert configuration.digest(ours) != configuration.digest(theirs)
    served = configuration.load(config(backend, parallel=3))
    assert configuration.digest(ours) == configuration.digest(served)


class Owning(ScriptedModel):
    """A backend that owns something, which must be let go of."""

    is_open = False

    def __init__(self, config: configuration.ModelConfig) -> None:
        super().__init__(name=config.model)

    async def __aenter__(self) -> Owning:
        Owning.is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        Owning.is_open = False


async def test_a_backend_that_is_a_context_manager_is_entered_and_left(tmp_path: Path) -> None:
    chosen = configuration.load(config(f"{__name__}:Owning", parallel=3))
    assert fleets.fetch(chosen) == {}
    async with fleets.start(chosen, {}, lambda text: None, tmp_path) as fleet:
        assert Owning.is_open
        assert {model.name for model in fleet.models.values()} == {"table"}
        assert fleet.capacity == 3
    assert not Owning.is_open


def test_the_doctor_examines_a_backend(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(configuration.dump(configuration.load(config(f"{__name__}:Owning"))))
    found = {diagnosis.name: diagnosis for diagnosis in examine(path)}
    assert found["auto"].text == "chooses `continuation`"
    assert found["chat"].ok
    assert found["sampling"].text == "the same seed gives the same text, another seed another"
    assert "with 1 at once" in found["speed"].text or "with 16 at once" in found["speed"].text


def test_the_doctor_names_a_backend_that_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad_backends.py").write_text(BAD_BACKENDS)
    (tmp_path / "my.yaml").write_text(
        "models: {default: {model: table, backend: 'bad_backends:Raising'}}"
    )
    monkeypatch.chdir(tmp_path)
    found = {diagnosis.name: diagnosis for diagnosis in examine(tmp_path / "my.yaml")}
    for name in ("chat", "sampling", "prefix cache", "speed"):  # every question that was asked
        assert found[name].ok is False
        assert found[name].text == (
            "model `mine` failed on a test request: "
            "RuntimeError: the GPU is gone (bad_backends.py, line 13)"
        )


def no_model(config: configuration.ModelConfig) -> object:
    return object()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            f"{__name__}:no_model",
            "returned a value of type `object`, which is not a model: it needs `name`",
        ),
        ("nowhere_to_be_found:Model", "No module named 'nowhere_to_be_found'"),
        ("unheard_of", "not one of the backends"),
    ],
)
def test_what_is_no_backend_is_refused_by_name(name: str, said: str, tmp_path: Path) -> None:
    async def started() -> None:
        async with fleets.start(configuration.load(config(name)), {}, print, tmp_path):
            pass

    with pytest.raises(PluginError, match=said) as caught:
        asyncio.run(started())
    assert f"`{name}`" in str(caught.value)


BAD_BACKENDS = """
from sdsd.models.base import Capabilities

class Unready:
    def __init__(self): ...

class Working:
    def __init__(self, config):
        self.name, self.capabilities = "mine", Capabilities()

class Raising(Working):
    async def complete(self, request, seed, dialogue=0):
        raise RuntimeError("the GPU is gone")

class Texting(Working):
    async def complete(self, request, seed, dialogue=0):
        return "Hello."
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Unready", "backend `bad_backends:Unready` failed on its configuration: TypeError"),
        (
            "Raising",
            "model `mine` failed on exam/.*: RuntimeError: the GPU is gone .bad_back",
        ),
        ("Texting", "model `mine` returned a value of type `str`; return a `Completion` or"),
    ],
)
def test_a_backend_that_breaks_its_contract_stops_the_run_by_its_name(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad_backends.py").write_text(BAD_BACKENDS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PluginError, match=said):
        sdsd.run(config(f"bad_backends:{name}"), out=tmp_path / "run")


class Nameless(ScriptedModel):
    def __init__(self, config: configuration.ModelConfig) -> None:
        super().__init__(name="\ud800")


class Unready(ScriptedModel):
    def __init__(self, config: configuration.ModelConfig) -> None:
        raise OSError("no driver")


class Unleavable(ScriptedModel):
    def __init__(self, config: configuration.ModelConfig) -> None:
        super().__init__()

    async def __aenter__(self) -> Unleavable:
        return self

    async def __aexit__(self, *error: object) -> None:
        raise OSError("stuck")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Nameless", "returned a model called"),
        ("Unready", "failed on its configuration: OSError: no driver"),
        ("Unleavable", "failed on shutdown: OSError: stuck"),
    ],
)
def test_a_backend_that_fails_by_itself_is_named(name: str, said: str, tmp_path: Path) -> None:
    async def started() -> None:
        chosen = configuration.load(config(f"{__name__}:{name}"))
        async with fleets.start(chosen, {}, print, tmp_path):
            pass

    with pytest.raises(PluginError, match=said) as caught:
        asyncio.run(started())
    assert f"{__name__}:{name}`" in str(caught.value)


class Answering(ScriptedModel):
    """Answers with a given value, or raises it."""

    def __init__(self, answer: Any) -> None:
        super().__init__(name="odd")
        self.answer = answer

    async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "returned a value of type `NoneType`"),
        ("hello", "returned a value of type `str`"),
        (Completion(5), "answered Completion\\(text=5"),  # type: ignore[arg-type]
        (Completion("", prompt_tokens="7"), "answered Completion"),  # type: ignore[arg-type]
        (ValueError("boo"), "failed on 000000-[0-9a-f]+ stake: ValueError: boo"),
        (SystemExit(0), "failed on 000000-[0-9a-f]+ stake: SystemExit: 0"),
        (asyncio.CancelledError(), "failed on 000000-[0-9a-f]+ stake: CancelledError"),
    ],
)
def test_an_answer_that_is_none_stops_the_run_and_is_not_recorded(
    answer: object, said: str, tmp_path: Path
) -> None:
    with pytest.raises(PluginError, match=f"model `odd` {said}"):
        run(n=3, out=tmp_path / "run", models={"default": Answering(answer)})
    assert not (tmp_path / "run").exists()


class Failing(Answering):
    def __init__(self, config: configuration.ModelConfig) -> None:
        super().__init__(ValueError("boo"))


class Busied(Answering):
    def __init__(self, config: configuration.ModelConfig) -> None:
        super().__init__(Busy("at its limit"))


class Speechless(Answering):
    def __init__(self, config: configuration.ModelConfig) -> None:
        super().__init__(None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Failing", "model `odd` failed on a test request: ValueError: boo"),
        ("Busied", "at its limit"),
        ("Speechless", "model `odd` returned a value of type `NoneType`"),
    ],
)
def test_the_doctor_finds_a_backend_that_fails(name: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(configuration.dump(configuration.load(config(f"{__name__}:{name}"))))
    found = {finding.name: finding for finding in examine(path)}
    for question in ("chat", "sampling", "prefix cache"):
        assert found[question].ok is False
        assert found[question].text.startswith(said)
    assert said in found["speed"].text
    assert found["auto"].ok  # nothing after it is lost


def test_models_that_are_given_must_be_models(tmp_path: Path) -> None:
    models: Any = {"default": "gpt-4"}
    with pytest.raises(PluginError, match="the model `default` is a value of type `str`"):
        run(n=3, out=tmp_path / "run", models=models)


@pytest.mark.parametrize("other", [{"launch": "vllm"}, {"transport": "batch"}])
def test_a_backend_excludes_other_ways_to_the_model(other: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"models\.default` has both `backend` and"):
        configuration.load(config("a:b", **other))
