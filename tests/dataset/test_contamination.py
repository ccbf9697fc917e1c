"""Runs of words that an evaluation set has as well: found in any file, row, script and place."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdsd.config import ContaminationConfig
from sdsd.dataset.contamination import Contamination, Hit
from sdsd.errors import ConfigError
from sdsd.text.words import words
from tests.helpers.counting import is_linear

QUESTION = (
    "A baker sells 48 loaves in the morning and half as many in the afternoon, "
    "so how many loaves does he sell?"
)
RUN = "a baker sells 48 loaves in the morning and half as many in"


def contamination(*sets: object, words: int = 13) -> Contamination:
    return Contamination(ContaminationConfig(sets=tuple(map(str, sets)), words=words))


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    return lines(tmp_path / "exam.jsonl", {"question": QUESTION, "answer": 72})


def test_thirteen_words_in_a_row_are_found(exam: Path) -> None:
    found = contamination(exam).find(f"Try this one.\n\n{QUESTION} Go on!")
    assert found == Hit("exam.jsonl", RUN)


def test_case_punctuation_and_line_ends_do_not_matter(exam: Path) -> None:
    text = QUESTION.upper().replace(",", " --").replace(" in the", "\n**in the**")
    assert contamination(exam).find(text) == Hit("exam.jsonl", RUN)


def test_twelve_words_in_a_row_are_too_few(exam: Path) -> None:
    own = QUESTION.split()
    for begin in range(len(own) - 12):
        piece = " ".join(own[begin : begin + 12])
        assert contamination(exam).find(f"Well {piece} well") is None
        assert contamination(exam, words=12).find(f"Well {piece} well")


def test_a_text_of_the_same_topic_stays(exam: Path) -> None:
    other = "A baker sells loaves in the morning and in the afternoon. How many does he sell a day?"
    assert contamination(exam).find(other) is None


def test_a_short_text_is_found_as_a_whole(tmp_path: Path) -> None:
    exam = lines(
        tmp_path / "short.jsonl",
        {"q": "What is the capital of Burundi?", "a": "Gitega"},
        {"q": "Name the capital of Burundi and its largest lake, please."},
    )
    found = contamination(exam)
    assert found.find("So, what is the capital of Burundi? Gitega.") == Hit(
        "short.jsonl", "what is the capital of burundi"
    )
    assert found.find("What is the capital of Peru?") is None
    assert found.find("What is the capital of") is None  # what it begins with is not the whole
    assert found.find("Name the capital of Burundi and its largest lake") is None
    assert found.find("Gitega") is None  # fewer than five words


def test_every_text_of_a_row_counts_however_deep(tmp_path: Path) -> None:
    exam = tmp_path / "nested.json"
    exam.write_text(json.dumps([{"a": [None, 1, {"b": [{"c": QUESTION}]}]}, ["x", True]]))
    assert contamination(exam).find(QUESTION)
    assert contamination(exam).find("a b c d e f g") is None


def parquet(path: Path) -> None:
    rows = [{"id": 1, "chat": [{"role": "user", "content": QUESTION}], "raw": b"\xff\x00"}]
    pq.write_table(pa.Table.from_pylist(rows), path)


def zipped(path: Path) -> None:
    path.write_bytes(gzip.compress(json.dumps([QUESTION]).encode()))


def prose(path: Path) -> None:
    path.write_bytes(
        b"\xef\xbb\xbfExam \xc3\xa9\n\n" + QUESTION.replace(" ", "\n").encode() + b"\n"
    )


def table(path: Path) -> None:
    path.write_text(f'id;question\n1;"{QUESTION}"\n', "utf-8")


def recoded(path: Path) -> None:
    path.write_bytes(f"\n{QUESTION}\n".encode("utf-16"))


def big_endian(path: Path) -> None:
    path.write_bytes(b"\xfe\xff" + f'q,a\n"{QUESTION}",72\n'.encode("utf-16-be"))


def with_a_mark(path: Path) -> None:
    path.write_text(json.dumps({"q": QUESTION}) + "\n", "utf-8-sig")


def unheaded(path: Path) -> None:
    """As MMLU's: the first line is a row, and has a cell twice."""
    separator = "\t" if path.suffix == ".tsv" else ","
    cell = QUESTION if path.suffix == ".tsv" else f'"{QUESTION}"'
    path.write_text(separator.join([cell, "24", "72", "72", "C"]), "utf-8")


def of_several_lines(path: Path) -> None:
    broken = QUESTION.replace(" in the", "\r\nin the")
    path.write_text(f'q,a\r\n"{broken}",72\r\n', "utf-8")


def packed(path: Path) -> None:
    path.write_bytes(gzip.compress(f"Exam\n\n{QUESTION}\n".encode()))


def packed_and_recoded(path: Path) -> None:
    path.write_bytes(gzip.compress((json.dumps({"q": QUESTION}) + "\n").encode("utf-16")))


def keyed(path: Path) -> None:
    path.write_text(json.dumps({QUESTION: 72}))


def unmarked(path: Path) -> None:
    """Texts as Hive and Impala write them, and a mapping, which has pairs for rows."""
    kind = pa.map_(pa.string(), pa.binary())
    pq.write_table(pa.table({"q": pa.array([[("en", QUESTION.encode())]], kind)}), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.parquet", parquet), ("a.json.gz", zipped), ("a.TXT", prose), ("a.csv", table),
     ("b.tsv", table), ("b.txt", recoded), ("c.csv", big_endian), ("c.jsonl", with_a_mark),
     ("d.csv", unheaded), ("d.tsv", unheaded), ("e.csv", of_several_lines), ("e.txt", packed),
     ("e.txt.gz", packed), ("f.jsonl.gz", packed_and_recoded), ("f.json", keyed),
     ("f.parquet", unmarked)],
)  # fmt: skip
def test_files_of_every_kind_are_read_alone_and_in_a_directory(
    tmp_path: Path, name: str, write: Any
) -> None:
    folder = tmp_path / "exams" / "2024"
    folder.mkdir(parents=True)
    write(folder / name)
    (folder / "notes.docx").write_bytes(b"\x00")
    assert contamination(folder / name).find(QUESTION) == Hit(name, RUN)
    assert contamination(tmp_path / "exams").find(QUESTION) == Hit("exams", RUN)


def test_a_directory_is_read_to_its_last_corner_but_for_what_is_hidden(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "exams", tmp_path / "elsewhere"
    (folder / ".git").mkdir(parents=True)
    elsewhere.mkdir()
    lines(elsewhere / "exam.jsonl", QUESTION)
    (folder / ".git" / "broken.json").write_bytes(b"{")
    (folder / "._exam.jsonl").write_bytes(b"\x00\x05\x16\x07")  # as macOS leaves them
    (folder / "linked").symlink_to(elsewhere)
    (folder / "round").symlink_to(folder)
    assert contamination(folder).find(QUESTION) == Hit("exams", RUN)
    (folder / "lost.jsonl").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"lost\.jsonl: cannot be read: .*check the file"):
        contamination(folder)


@pytest.mark.parametrize("unseen", ["\u00ad", "\u200b", "\u2060", "\ufeff"])
def test_what_nobody_sees_does_not_hide_a_word(tmp_path: Path, unseen: str) -> None:
    hidden = QUESTION.replace("morning", f"morn{unseen}ing")
    exam = lines(tmp_path / "exam.jsonl", hidden)
    assert contamination(exam).find(QUESTION)
    assert contamination(lines(exam, QUESTION)).find(hidden)


def test_the_set_that_has_the_words_is_named(tmp_path: Path, exam: Path) -> None:
    other = lines(tmp_path / "other.jsonl", "the quick brown fox jumps over the lazy dog again")
    found = contamination(other, exam)
    assert found.find(QUESTION) == Hit("exam.jsonl", RUN)
    assert found.find("The quick brown fox jumps over the lazy dog, again?") == Hit(
        "other.jsonl", "the quick brown fox jumps over the lazy dog again"
    )


def test_without_sets_nothing_is_found() -> None:
    assert contamination().find(QUESTION) is None


def test_of_scripts_without_spaces_three_characters_count_as_a_word(tmp_path: Path) -> None:
    chinese = (
        "小明有五个苹果，他给了小红两个，又从妈妈那里得到三个，请问小明现在一共有几个苹果，"
        "小红又有几个苹果呢？"
    )
    short = "水在多少度的时候会开始沸腾？"
    thai = "เมืองหลวงของประเทศไทยคือเมืองอะไร"
    exam = lines(tmp_path / "asia.jsonl", chinese, short, thai)
    found = contamination(exam)
    plain = "".join(words(chinese))
    assert found.find(f"老师问：{plain[:39]}。")
    assert found.find(f"老师问：{plain[:38]}。") is None
    assert found.find(f"请问，{short}") is None  # 13 characters are not five words
    assert found.find(f"ถาม: {thai} ตอบ") == Hit("asia.jsonl", " ".join(words(thai)))
    assert found.find(thai[:-2]) is None


def test_scripts_may_be_mixed(tmp_path: Path) -> None:
    text = (
        "请用 Python 写一个函数 sort_list 把 list 里的 2019 个 numbers 从小到大排序并且返回 result"
    )
    exam = lines(tmp_path / "code.jsonl", text)
    assert contamination(exam).find(f"好的。{text}！")


@pytest.mark.parametrize(
    "text", ["\ud800" * 40, "\x00 " * 40, "\u202e" + "x " * 40, "", "```\n```"]
)
def test_hostile_texts_are_read(exam: Path, text: str) -> None:
    assert contamination(exam).find(text) is None
    assert contamination(exam).find(f"{text} {QUESTION} {text}")


WORDS = st.lists(st.sampled_from(["a", "b", "中", "文", "c.", "\ud800"]), max_size=24)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WORDS, WORDS, st.integers(3, 6))
def test_what_is_found_is_what_a_plain_search_finds(
    tmp_path: Path, item: list[str], text: list[str], length: int
) -> None:
    """Against the definition, word by word; sizes are in thirds of a word."""
    filler = "one two three four five six seven"

    def size(tokens: list[str]) -> int:
        return sum(1 if token in "中文" else 3 for token in tokens)

    def spans(tokens: list[str], least: int) -> set[tuple[str, ...]]:
        every = ((i, j) for i in range(len(tokens)) for j in range(i + 1, len(tokens) + 1))
        return {
            tuple(tokens[i:j])
            for i, j in every
            if size(tokens[i:j]) >= least > size(tokens[i : j - 1])
        }

    exam = lines(tmp_path / "set.jsonl", " ".join(item), filler)
    ours, theirs = words(" ".join(item)), words(" ".join(text))
    if size(ours) >= 3 * length:
        expected = not spans(ours, 3 * length).isdisjoint(spans(theirs, 3 * length))
    else:
        starts = range(len(theirs) - len(ours) + 1)
        whole = any(theirs[k : k + len(ours)] == ours for k in starts)
        expected = whole and size(ours) >= 3 * min(5, length)
    assert bool(contamination(exam, words=length).find(" ".join(text))) is expected


# -- what is wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["nowhere", "notes.docx", "empty", "nul\x00", "x" * 5000, "part-*.jsonl"]
)
def test_a_set_that_cannot_be_found_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.docx").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"export\.contamination\.sets: .*" + name[:3]):
        contamination(tmp_path / name)


@pytest.mark.parametrize("name", ["", "hf:openai/gsm8k", "https://exams.example/a.jsonl"])
def test_sets_are_files_on_this_machine(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}': give the path of a file or directory on"):
        contamination(name)


@pytest.mark.parametrize("name", ["data.arrow", "test.xlsx", "rest.zip", "b.tar.gz", "c.jsonl.zst"])
def test_a_set_of_which_a_part_cannot_be_read_is_an_error(tmp_path: Path, name: str) -> None:
    lines(tmp_path / "info.json", QUESTION)
    (tmp_path / name).write_bytes(b"\x00")
    with pytest.raises(ConfigError, match=f"{name}: cannot read files of type .*; use one of"):
        contamination(tmp_path)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
NUMBERS = pa.BufferOutputStream()
pq.write_table(pa.table({"number_of_the_correct_answer": [1, 2]}), NUMBERS)


@pytest.mark.parametrize(
    ("name", "data", "wrong"),
    [
        ("a.docx", b"PK", "cannot read files of type '.docx'; use one of .parquet, .jsonl"),
        ("a.txt", "\nEin Café\n".encode("latin-1"), "a.txt:2: the byte 0xe9 is not UTF-8"),
        ("a.txt", "Ein Kaffee".encode("utf-16-le"), "a.txt:1: the byte 0x00 is not UTF-8"),
        ("a.csv", "q\nEin Café\n".encode("cp1252"), "a.csv:2: the byte 0xe9 is not UTF-8"),
        ("a.json", '["Café"]'.encode("latin-1"), "a.json:1: the byte 0xe9 is not UTF-8"),
        ("a.tsv", "q\ta\n«So»\t1\n".encode("cp1252"), "a.tsv:2: the byte 0xab is not UTF-8"),
        ("a.parquet", POINTER, "a.parquet: holds only a pointer of Git LFS"),
        ("a.txt", POINTER, "a.txt: holds only a pointer of Git LFS to the file; fetch the file"),
        ("a.csv", b"number_of_the_correct_answer,n\n1,2\n", "a.csv: has no text of 5 words"),
        ("a.csv", b"", "a.csv: has no text of 5 words; check the path"),
        ("a.txt.gz", gzip.compress(b"", mtime=0), "a.txt.gz: has no text of 5 words"),
        ("a.txt.gz", gzip.compress(b"So " * 99, mtime=0)[:-9], "a.txt.gz: cannot be read: Compr"),
        ("a.parquet", b"", "a.parquet: cannot be read: "),
        ("a.parquet", NUMBERS.getvalue().to_pybytes(), "a.parquet: has no text of 5 words"),
    ],
)
def test_a_set_that_would_never_match_is_an_error(
    tmp_path: Path, name: str, data: bytes, wrong: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError) as fault:
        contamination(tmp_path / name)
    assert wrong in str(fault.value)


def test_a_set_without_texts_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no text of 5 words"):
        contamination(lines(tmp_path / "numbers.jsonl", 1, 2, "four words are few"))


def test_a_set_that_is_broken_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    exam = lines(tmp_path / "broken.jsonl", QUESTION)
    exam.write_text(exam.read_text() + '{"a"\n')
    with pytest.raises(ConfigError, match=r"export\.contamination\.sets: .*broken\.jsonl:2"):
        contamination(exam)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that breaks")
def test_a_text_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    exam = tmp_path / "exam.txt"
    exam.symlink_to("/proc/self/mem")
    with pytest.raises(ConfigError, match=r"export\.contamination\.sets: .*check the file"):
        contamination(exam)


# -- cost ----------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", ["word ", "\u4e2d", "\x00<b>", " ", "x"])
def test_the_work_grows_with_the_text_at_most(exam: Path, piece: str) -> None:
    found = contamination(exam)
    assert is_linear(lambda n: found.find(piece * n), 2_000)
    found.find(piece * (200_000 // len(piece)))


@pytest.mark.e2e
def test_every_process_hashes_alike(exam: Path) -> None:
    code = (
        "import sys\n"
        "from tests.dataset.test_contamination import *\n"
        "found = contamination(sys.argv[1])\n"
        "print([list(hashes) for _, hashes in found._sets], found.find(QUESTION))\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code, str(exam)],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
