"""Models found, started and given their roles, over real sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sdsd import config as configuration
from sdsd.config import Config, ModelConfig
from sdsd.errors import ConfigError, ServerGone
from sdsd.models import fleet as fleets
from sdsd.models.fleet import OPENAI, addresses
from sdsd.models.pool import Pool
from simoptions import Options
from simulator import serving


def server(model: str = "sim", **keys: Any) -> ModelConfig:
    return configuration.load({"models": {"default": {"model": model, **keys}}}).models["default"]


@pytest.mark.parametrize(
    ("chosen", "env", "found"),
    [
        (server(base_url="http://a/v1"), {"OPENAI_BASE_URL": "http://b/v1"}, ("http://a/v1",)),
        (server(base_url=["http://a/v1", "http://b/v1"]), {}, ("http://a/v1", "http://b/v1")),
        (server("gpt-x"), {"OPENAI_BASE_URL": "http://b/v1"}, ("http://b/v1",)),
        (server("gpt-x"), {"OPENAI_API_KEY": "k"}, (OPENAI,)),
        (server("gpt-x"), {}, ()),
        # These are files: they are loaded here, whatever the environment says.
        (server("smollm2-135m"), {"OPENAI_BASE_URL": "http://b/v1"}, ()),
        (server("./mine.gguf"), {"OPENAI_BASE_URL": "http://b/v1"}, ()),
        (server("hf:org/repo/x.gguf"), {"OPENAI_API_KEY": "k"}, ()),
    ],
)
def test_where_a_model_is_served(
    chosen: ModelConfig, env: dict[str, str], found: tuple[str, ...]
) -> None:
    assert addresses(chosen, env) == found


async def started(config: Config, folder: Path) -> tuple[fleets.Fleet, list[str]]:
    notes: list[str] = []
    async with fleets.start(config, {}, notes.append, folder) as fleet:
        return fleet, notes


async def test_servers_of_one_model_are_one_pool_and_a_dead_one_does_not_matter(
    tmp_path: Path,
) -> None:
    async with serving(Options(instant=True)) as one, serving(Options(instant=True)) as two:
        dead = two.url
        await two.stop()
        config = configuration.load(
            {"models": {"default": {"model": "sim", "base_url": [dead, one.url]}}}
        )
        fleet, notes = await started(config, tmp_path)
    pool = fleet.models["agent"]
    assert isinstance(pool, Pool)
    assert len(pool.servers) == 2
    assert pool.capabilities.completions
    assert all(server.model.capabilities == pool.capabilities for server in pool.servers)
    assert [dead in note for note in notes] == [True]
    assert len({id(model) for model in fleet.models.values()}) == 1


async def test_no_server_at_all(tmp_path: Path) -> None:
    async with serving(Options(instant=True)) as one:
        url = one.url
    config = configuration.load({"models": {"default": {"model": "sim", "base_url": url}}})
    with pytest.raises(ServerGone, match=r"is the server running"):
        await started(config, tmp_path)


async def test_two_models_in_different_roles(tmp_path: Path) -> None:
    async with serving(Options(instant=True)) as one, serving(Options(instant=True)) as two:
        models = {
            "default": {"model": "writer", "base_url": one.url, "parallel": 3},
            "judge": {"model": "judge", "base_url": two.url, "parallel": 5},
        }
        config = configuration.load({"models": models, "roles": {"critic": "judge"}})
        fleet, _ = await started(config, tmp_path)
    assert {role: pool.name for role, pool in fleet.models.items()} == {
        "planner": "writer", "user": "writer", "agent": "writer", "critic": "judge",
        "reviser": "writer",
    }  # fmt: skip
    assert fleet.capacity == 8


async def test_a_protocol_that_the_server_cannot_hold(tmp_path: Path) -> None:
    async with serving(Options(instant=True, apply_template=False)) as one:
        models = {"default": {"model": "sim", "base_url": one.url}}
        auto, _ = await started(configuration.load({"models": models}), tmp_path)
        assert auto.protocol(configuration.load({"models": models})) == "chat"
        demanded = configuration.load({"models": models, "dialogue": {"protocol": "continuation"}})
        with pytest.raises(ConfigError, match="raw completions and a chat template"):
            auto.protocol(demanded)


async def test_a_chat_template_of_one_s_own_makes_continuation_possible(tmp_path: Path) -> None:
    template = tmp_path / "chatml.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    async with serving(Options(instant=True, apply_template=False)) as one:
        models = {"default": {"model": "sim", "base_url": one.url, "chat_template": str(template)}}
        config = configuration.load({"models": models})
        fleet, _ = await started(config, tmp_path)
    assert fleet.protocol(config) == "continuation"


async def test_capacity_follows_what_the_servers_take(tmp_path: Path) -> None:
    """With an explicit limit it is reached within moments, and those who wait hear of it."""
    async with serving(Options(time_scale=0.05)) as one:
        models = {"default": {"model": "sim", "base_url": one.url, "parallel": 100}}
        config = configuration.load({"models": models})
        async with fleets.start(config, {}, lambda text: None, tmp_path) as fleet:
            assert fleet.capacity == 16
            pool = fleet.models["agent"]
            assert isinstance(pool, Pool)
            gate = pool.servers[0].permits
            async with asyncio.timeout(5):
                while fleet.capacity < 100:
                    gate.busy = gate.limit  # as if all permits were taken
                    fleet.changed.clear()
                    await fleet.changed.wait()
