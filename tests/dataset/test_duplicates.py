"""Dialogues that repeat an earlier one: what is found, what stays, and what stands before all."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsd.config import DuplicatesConfig
from sdsd.dataset.duplicates import Duplicates, Repeat
from sdsd.errors import ConfigError
from tests.factories.essays import changed, essay
from tests.helpers.counting import is_linear

np = pytest.importorskip("numpy")

ASKED = "How long does bread dough need to rise before I can bake it in a wood fired oven?"
AGAIN = "how long does  bread dough need to rise\nbefore I can bake it in a wood fired oven?"
TOPIC = "Which flour makes bread dough rise best if I want to bake it in a wood fired oven?"


def letters(text: str) -> Any:
    """A stand-in for an embedding: how often each letter occurs."""
    return np.array([text.lower().count(chr(97 + k)) for k in range(26)], np.float32)


def finder(find: Any, **keys: Any) -> Duplicates:
    return Duplicates(DuplicatesConfig(method=find, **keys), embed=letters)


def test_the_same_words_are_found_and_the_first_stays() -> None:
    duplicates = finder("exact")
    assert duplicates.find("a", ASKED) is None
    assert duplicates.find("b", TOPIC) is None
    assert duplicates.find("c", AGAIN) == Repeat("duplicate_exact", "a")
    assert duplicates.find("d", f"{ASKED} Thanks.") is None


def test_nearly_the_same_words_are_found_and_the_same_topic_stays() -> None:
    text = essay(1)
    duplicates = finder("near")
    assert duplicates.find("a", " ".join(text)) is None
    assert duplicates.find("b", changed(text, 0.02)) == Repeat("duplicate_near", "a")
    assert duplicates.find("c", " ".join(text).upper()) == Repeat("duplicate_exact", "a")
    assert duplicates.find("d", changed(text, 0.3)) is None
    assert duplicates.find("e", ASKED) is None
    assert duplicates.find("f", TOPIC) is None


def test_the_same_in_other_words_is_found_by_its_embedding() -> None:
    duplicates = finder("semantic", semantic=0.999)
    assert duplicates.find("a", "listen to the stone") is None
    assert duplicates.find("b", "silent to the stone!") == Repeat("duplicate_semantic", "a")
    assert duplicates.find("c", "LISTEN to the stone") == Repeat("duplicate_exact", "a")
    assert duplicates.find("d", "a quick zebra") is None


def test_what_is_left_out_for_its_meaning_is_no_first_for_its_words() -> None:
    duplicates = finder("semantic", semantic=0.999, near=0.9)
    duplicates.find("a", "listen to the stone")
    assert duplicates.find("b", "silent to the stone") == Repeat("duplicate_semantic", "a")
    assert duplicates.find("c", "silent to the stone") == Repeat("duplicate_semantic", "a")


def test_texts_without_a_vector_are_like_nothing() -> None:
    duplicates = finder("semantic")
    assert duplicates.find("a", "???") is None
    assert duplicates.find("b", "!!!") is None
    assert duplicates.find("c", "\ud800") is None


def test_vectors_beyond_one_block_are_compared_too() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((9_000, 16)).astype(np.float32)

    def embed(text: str) -> Any:
        return vectors[int(text.split()[1])] * 3

    duplicates = Duplicates(DuplicatesConfig(method="semantic", semantic=0.999), embed=embed)
    assert all(duplicates.find(f"id{k}", f"text {k}") is None for k in range(9_000))
    for k in (0, 4_095, 4_096, 8_999):
        assert duplicates.find("x", f"again {k}") == Repeat("duplicate_semantic", f"id{k}")


def test_off_finds_nothing_and_reads_nothing() -> None:
    duplicates = finder("off", against=("nowhere",))
    assert duplicates.find("a", ASKED) is None
    assert duplicates.find("b", ASKED) is None


TEXTS = st.lists(st.sampled_from(["", "a b c", "A b  c", "a b c d e f g", "a b c d e f h", "z"]))


@given(TEXTS, st.integers(0, 8), st.sampled_from(["exact", "near", "semantic"]))
def test_the_first_stays_and_growth_changes_nothing(texts: list[str], cut: int, find: str) -> None:
    def decide(texts: list[str]) -> list[Repeat | None]:
        duplicates = finder(find)
        return [duplicates.find(str(k), text) for k, text in enumerate(texts)]

    found = decide(texts)
    assert found[:cut] == decide(texts[:cut])
    assert not any(found[:1])
    for k, hit in enumerate(found):
        assert hit is None or (int(hit.first) < k and found[int(hit.first)] is None)
    kept = [text for text, hit in zip(texts, found, strict=True) if hit is None]
    assert decide(kept) == [None] * len(kept)


# -- other data sets -----------------------------------------------------------------------


def chat(*turns: str) -> list[dict[str, str]]:
    roles = ("system", "user", "assistant")
    return [{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)]


@pytest.mark.parametrize("place", ["data/dialogues/train-00000-of-00001.parquet", "own.parquet"])
def test_dialogues_of_other_data_sets_stand_before(tmp_path: Path, place: str) -> None:
    file = tmp_path / "old run" / place
    file.parent.mkdir(parents=True)
    rows = [{"messages": chat("The plan.", ASKED, "An hour.")}, {"messages": []}]
    pq.write_table(pa.Table.from_pylist(rows), file)
    duplicates = finder("exact", against=(str(tmp_path / "old run"),))
    hit = duplicates.find("a", f"{AGAIN}\n\nAn hour.")
    assert hit == Repeat("duplicate_exact", f"old run/{place}:row 1")
    assert str(tmp_path) not in hit.first
    assert duplicates.find("b", ASKED) is None


def test_another_data_set_that_is_not_there_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"export\.duplicates\.against: .*nowhere.*check the path"
    ):
        finder("exact", against=("nowhere",))


def test_another_data_set_that_is_broken_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "old.jsonl"
    file.write_text('{"messages": 1}\n')
    with pytest.raises(ConfigError, match=r"export\.duplicates\.against: .*old\.jsonl:1"):
        finder("near", against=(str(file),))


# -- cost ----------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", ["word ", "\u4e2d", "\u202e<b>\x00", "`x` "])
def test_the_work_grows_with_the_text_at_most(piece: str) -> None:
    assert is_linear(lambda n: finder("semantic").find("a", piece * n), 2_000)
    finder("semantic").find("a", piece * (200_000 // len(piece)))


def test_a_dialogue_is_remembered_in_few_bytes() -> None:
    duplicates = finder("exact")
    tracemalloc.start()
    for k in range(20_000):
        duplicates.find(f"{k:06d}-0abc", f"{k} {ASKED}")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / 20_000 < 300


# -- the embeddings of the extra -----------------------------------------------------------


def python(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": ":".join(sys.path), "HOME": str(home)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True)


def test_without_the_extra_the_remedy_is_named(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['wordllama'] = None  # as if it were not there\n"
        "from sdsd.config import DuplicatesConfig\n"
        "from sdsd.dataset.duplicates import Duplicates\n"
        "from sdsd.errors import SdsdError\n"
        "try: Duplicates(DuplicatesConfig(method='semantic'))\n"
        "except SdsdError as error: print(error)\n"
    )
    assert "pip install 'sdsd[semantic]'" in python(code, tmp_path).stdout


needs_extra = pytest.mark.skipif(find_spec("wordllama") is None, reason="the extra `semantic`")


@needs_extra
def test_word_llama_knows_what_is_alike() -> None:
    duplicates = Duplicates(DuplicatesConfig(method="semantic", semantic=0.7))
    assert duplicates.find("a", "Where can I buy a cheap used car?") is None
    assert duplicates.find("b", "How does bread dough rise?") is None
    hit = duplicates.find("c", "Where do I buy a used vehicle cheaply?")
    assert hit == Repeat("duplicate_semantic", "a")


@needs_extra
def test_word_llama_asks_no_network_and_leaves_logging_alone(tmp_path: Path) -> None:
    code = (
        "import logging, socket\n"
        "def no(*a, **k): raise SystemExit('asked the network')\n"
        "socket.socket.connect = socket.getaddrinfo = no\n"
        "from sdsd.text.embeddings import word_llama\n"
        "print(word_llama()('hello').shape, logging.getLogger().handlers)\n"
    )
    assert python(code, tmp_path).stdout == "(256,) []\n"
    assert not list(tmp_path.iterdir())
