"""The hub's token is known wherever its client finds it, and shown nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdsd.config.hub import hub_secrets, hub_words

TOKEN = "hf_Planted0123456789"


@pytest.mark.parametrize(
    ("variable", "file"),
    [
        ("HF_TOKEN", ""),
        ("HUGGING_FACE_HUB_TOKEN", ""),
        ("HF_TOKEN_PATH", "any"),
        ("HF_HOME", "token"),
        ("XDG_CACHE_HOME", "huggingface/token"),
    ],
)
def test_a_token_is_found_where_the_hubs_client_looks(
    tmp_path: Path, variable: str, file: str
) -> None:
    if file:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{TOKEN}\n")
    place = {"HF_TOKEN_PATH": tmp_path / "any"}.get(variable, tmp_path)
    env = {"HF_HOME": str(tmp_path / "none")} if not file else {}
    env[variable] = str(place) if file else TOKEN
    assert hub_words(f"401 for\n  {TOKEN}!", env) == "401 for ***!"


def test_without_a_token_nothing_is_hidden(tmp_path: Path) -> None:
    for name in (str(tmp_path), "~nobody-of-this-name", "\0"):
        env = {"HF_HOME": name, "HF_ENDPOINT": "http://[::1"}
        assert hub_secrets(env) == ()
        assert hub_words("no such data set", env) == "no such data set"


def test_user_info_of_a_mirror_is_hidden() -> None:
    mirror = "https://alice:s3cret@mirror.example"
    env = {"HF_TOKEN_PATH": "/none", "HF_ENDPOINT": mirror}
    assert hub_words(f"no {mirror}", env) == "no https://***:***@mirror.example"


def test_a_token_is_hidden_before_the_text_is_cut() -> None:
    for before in range(280, 300):
        assert "hf_" not in hub_words("x" * before + f" {TOKEN}", {"HF_TOKEN": TOKEN})
