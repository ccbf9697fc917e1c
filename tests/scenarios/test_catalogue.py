"""The catalogue: the packaged lists are worth using, and a fault in a user's is named by line."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sdsd.errors import CatalogueError
from sdsd.scenarios.catalogue import Catalogue, load
from sdsd.scenarios.catalogue_files import EXTENSIONS
from sdsd.scenarios.similarity import content_words, near_duplicates

SMALL = {
    "topics": '{"field": "homes", "domains": [{"name": "Roofs", "subareas": ["a leak upstairs"]}]}',
    "principles": '{"text": "The assistant should keep its promises."}',
    "goals": '{"text": "The user wants a plan for tomorrow."}',
}


def read(folder: Path, kind: str, extension: str, content: str | bytes) -> Catalogue:
    """Load `content` as the list `kind`; the other two lists are small and sound."""
    files = {}
    for name, text in SMALL.items():
        files[name] = folder / f"{name}.jsonl"
        files[name].write_text(text, "utf-8")
    files[kind] = folder / f"mine{extension}"
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    files[kind].write_bytes(raw)
    return load(**files)


def one_domain(field: str, name: str, *subareas: str) -> str:
    return json.dumps({"field": field, "domains": [{"name": name, "subareas": subareas}]})


# --- the packaged catalogue ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def packaged() -> Catalogue:
    return load()


@pytest.fixture(scope="module")
def subareas(packaged: Catalogue) -> list[str]:
    return [subarea for domain in packaged.domains for subarea in domain.subareas]


def test_packaged_catalogue_is_large_enough(packaged: Catalogue) -> None:
    assert len(packaged.principles) >= 127
    assert len(packaged.goals) >= 60
    assert len(packaged.fields) >= 40
    assert len(packaged.domains) >= 801  # as many as the paper has
    assert min(len(domain.subareas) for domain in packaged.domains) >= 5


def test_fields_are_balanced(packaged: Catalogue) -> None:
    sizes = [len(domains) for domains in packaged.fields.values()]
    assert max(sizes) == min(sizes)
    assert max(sizes) / len(packaged.domains) <= 0.04
    assert len(packaged.fields["cooking-and-food"]) / len(packaged.domains) <= 0.04


def test_principles_and_goals_cover_their_kinds(packaged: Catalogue) -> None:
    families = Counter(p.family for p in packaged.principles)
    kinds = Counter(g.kind for g in packaged.goals)
    assert len(families) >= 5
    assert min(families.values()) >= 5
    assert len(kinds) >= 6
    assert max(kinds.values()) <= 2 * min(kinds.values())
    assert {p.severity for p in packaged.principles} == {"low", "medium", "high"}


def test_principles_are_single_sentences(packaged: Catalogue) -> None:
    for principle in packaged.principles:
        assert re.fullmatch(r"[^.!?]+\.", principle.text), principle.text
        assert 40 <= len(principle.text) <= 160, principle.text


def test_nothing_is_said_twice(packaged: Catalogue, subareas: list[str]) -> None:
    # 0.5 is four of six words in common: a rewording. The lists reach 0.36, 0.21, 0.40 and
    # 0.33. Goals are long, so fewer common words are suspect. Paraphrases in other words are
    # beyond this measure.
    for texts, threshold in (
        ([p.text for p in packaged.principles], 0.5),
        ([g.text for g in packaged.goals], 0.35),
        ([d.name for d in packaged.domains], 0.5),
        (subareas, 0.5),
    ):
        pairs = near_duplicates(texts, threshold)
        assert not [(texts[i], texts[j], score) for i, j, score in pairs]
        assert len({text.casefold() for text in texts}) == len(texts)


def test_subareas_follow_no_template(subareas: list[str]) -> None:
    ends: tuple[Callable[[list[str]], list[str]], ...] = (lambda w: w[:2], lambda w: w[-2:])
    for end in ends:
        shared = Counter(" ".join(end(text.casefold().split())) for text in subareas)
        words, count = shared.most_common(1)[0]
        assert count <= 0.005 * len(subareas), words
    stock = re.compile(
        r"(an? |the )?(history|introduction|basics?|overview|fundamentals?|future|benefits|role"
        r"|importance|types|art|science|impact) (of|to|in) ",
        re.IGNORECASE,
    )
    assert not [text for text in subareas if stock.match(text)]


def test_subareas_are_specific(subareas: list[str]) -> None:
    assert not [text for text in subareas if len(text) > 80]
    assert not [text for text in subareas if len(content_words(text)) < 2]


def test_food_does_not_dominate(subareas: list[str]) -> None:
    food = re.compile(
        r"\b(food|cook|bak|recipe|kitchen|meal|diet|dish|soup|sauce|bread|dough|cake|cheese|meat"
        r"|chicken|beef|pork|rice|pasta|noodle|spice|salad|dessert|chocolate|fruit|apple|banana"
        r"|orange|mango|berr|grape|lemon|cherr|peach|vegetable|tomato|potato|onion)(s|es|y|ies"
        r"|ing|ed|er|ers)?\b",
        re.IGNORECASE,
    )
    assert len([text for text in subareas if food.search(text)]) <= 0.04 * len(subareas)


# --- formats ------------------------------------------------------------------------------------

TOPICS = {
    ".yaml": """
# comments do not count
- field: homes
  name: Homes
  domains:
    - name: Roofs
      subareas:
        - a leak over the stairs
        - moss on old tiles
    - name: Floors
      subareas: [a creaking board]
- field: sea
  domains:
    - name: Tides
      subareas: [a spring tide at night]
""",
    ".jsonl": """\
{"field": "homes", "domains": [{"name": "Roofs", "subareas": ["a leak over the stairs",\
 "moss on old tiles"]}]}

{"field": "homes", "domains": [{"name": "Floors", "subareas": [" a creaking board "]}]}
{"field": "sea", "name": "Sea", "domains": [{"name": "Tides", "subareas":\
 ["a spring tide at night"]}]}
""",
}


@pytest.mark.parametrize("extension", TOPICS)
def test_topics_mean_the_same_in_every_format(tmp_path: Path, extension: str) -> None:
    catalogue = read(tmp_path, "topics", extension, TOPICS[extension])
    assert {f: [d.name for d in ds] for f, ds in catalogue.fields.items()} == {
        "homes": ["Roofs", "Floors"],
        "sea": ["Tides"],
    }
    assert catalogue.domains[0].subareas == ("a leak over the stairs", "moss on old tiles")
    assert catalogue.digest == read(tmp_path, "topics", ".yaml", TOPICS[".yaml"]).digest


@pytest.mark.parametrize(
    ("extension", "content"),
    [
        (".yaml", "field: homes\ndomains:\n- {name: Roofs, subareas: [a leak]}\n"),
        (".yml", "fields:\n- field: homes\n  domains:\n  - {name: Roofs, subareas: [a leak]}\n"),
        (".jsonl", '{"field": "homes", "domains": [{"name": "Roofs", "subareas": ["a leak"]}]}'),
    ],
)
def test_a_file_may_hold_a_single_field(tmp_path: Path, extension: str, content: str) -> None:
    (domain,) = read(tmp_path, "topics", extension, content).domains
    assert (domain.field, domain.name, domain.subareas) == ("homes", "Roofs", ("a leak",))


def test_a_directory_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    topics = tmp_path / "topics"
    topics.mkdir()
    (topics / "b.jsonl").write_text(one_domain("b", "B", "two"), "utf-8")
    (topics / "a.yaml").write_text("\ufeff" + one_domain("a", "A", "one") + "\r\n", "utf-8")
    (topics / "README.md").write_text("not a list", "utf-8")
    (topics / ".hidden").write_text("not a list", "utf-8")
    assert [domain.name for domain in load(topics=topics).domains] == ["A", "B"]


def test_one_file_may_hold_all_three_lists(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(
        "principles: [{text: Be kind.}]\ngoals: [{text: Learn.}]\n"
        "fields: [{field: f, domains: [{name: D, subareas: [s]}]}]\n",
        "utf-8",
    )
    catalogue = load(file, file, file)
    assert catalogue.domains[0].name == "D"
    assert catalogue.principles[0].text == "Be kind."
    assert catalogue.goals[0].text == "Learn."


def test_principles_and_goals_of_your_own_need_only_a_text(tmp_path: Path) -> None:
    text = "- text: Never joke about the weather.\n- text: Never joke about, the weather!\n"
    first, second = read(tmp_path, "principles", ".yaml", text).principles
    assert (first.id, second.id) == ("never-joke-weather", "never-joke-weather-2")
    assert (first.family, first.category, first.severity) == ("user", "user", "medium")
    goal = read(tmp_path, "goals", ".jsonl", '{"text": "???"}').goals[0]
    assert (goal.id, goal.kind) == ("text", "user")


def test_a_chosen_id_comes_before_a_made_one(tmp_path: Path) -> None:
    text = "- text: Stay kind.\n- {id: stay-kind, text: Stay gentle.}\n"
    assert [p.id for p in read(tmp_path, "principles", ".yaml", text).principles] == [
        "stay-kind-2",
        "stay-kind",
    ]


def test_digest_follows_content_and_order(tmp_path: Path) -> None:
    one = read(tmp_path, "goals", ".jsonl", '{"text": "One."}\n{"text": "Two."}')
    same = read(tmp_path, "goals", ".yaml", "# note\n- {text: 'One.'}\n- text: |\n    Two.\n")
    swapped = read(tmp_path, "goals", ".yaml", "- text: Two.\n- text: One.\n")
    assert one == same
    assert one.digest == same.digest != swapped.digest
    assert re.fullmatch("[0-9a-f]{64}", one.digest)


GUIDE = (Path(__file__).parents[2] / "docs" / "catalogue.md").read_text("utf-8")
EXAMPLES = [
    (".jsonl" if language == "json" else f".{language}", body)
    for language, body in re.findall(r"```(\w+)\n(.*?)```", GUIDE, re.DOTALL)
    if language != "python" and not body.startswith("catalogue:")
]


@pytest.mark.parametrize(("extension", "body"), EXAMPLES)
def test_examples_of_the_guide_can_be_loaded(tmp_path: Path, extension: str, body: str) -> None:
    keys = [("affinities", "affinities:"), ("topics", "field"), ("goals", "decide")]
    keys.append(("principles", "assistant should"))
    kinds = [kind for kind, word in keys if word in body]
    assert kinds
    if kinds[0] == "affinities":  # of the packaged lists
        path = tmp_path / "mine.yaml"
        path.write_text(body)
        assert load(affinities=path).affinities
    else:
        read(tmp_path, kinds[0], extension, body)


def test_the_guide_counts_the_packaged_lists(packaged: Catalogue, subareas: list[str]) -> None:
    assert (
        f"| {len(packaged.fields)} fields, {len(packaged.domains):,} domains, "
        f"{len(subareas):,} subareas |" in GUIDE
    )
    assert f"| {len(packaged.principles)} |" in GUIDE
    assert f"| {len(packaged.goals)} |" in GUIDE


# --- faults -------------------------------------------------------------------------------------


class Fault(NamedTuple):
    kind: str
    extension: str
    content: str | bytes
    line: int
    wrong: str
    """Must occur in what the message says is wrong, or in what it says to do."""


DOMAIN = "- field: homes\n  domains:\n    - name: Roofs\n      subareas:\n"
FAULTS = {
    "bad UTF-8": Fault("goals", ".yaml", b"- text: fine\n- text: caf\xe9\n", 2, "not UTF-8"),
    "syntax, YAML": Fault("goals", ".yaml", "- text: a: b\n", 1, "needs quotes"),
    "unclosed, YAML": Fault("goals", ".yaml", "- text: fine\n- 'text\n", 3, "bad YAML"),
    "syntax, JSONL": Fault("goals", ".jsonl", '{"text": "a"}\n{"text": }\n', 2, "bad JSON"),
    "unknown key, YAML": Fault("goals", ".yaml", "- text: a\n  knd: b\n", 2, "did you mean 'kind'"),
    "unknown key, all named": Fault(
        "principles",
        ".yaml",
        "- text: a\n\n- text: b\n  source: c\n",
        4,
        "known keys: text, id, family",
    ),
    "unknown key, deep": Fault(
        "topics",
        ".yaml",
        DOMAIN + "        - a\n      source: b\n",
        6,
        "known keys: name, subareas",
    ),
    "unknown key, JSONL": Fault("goals", ".jsonl", '\n{"text": "a", "knd": 1}', 2, "'kind'"),
    "unknown list": Fault("goals", ".yaml", "goal:\n- text: a\n", 1, "did you mean 'goals'"),
    "repeated key, YAML": Fault("goals", ".yaml", "- text: a\n  text: b\n", 2, "first on line 1"),
    "repeated key, JSONL": Fault("goals", ".jsonl", '{"text": "a", "text": "b"}', 1, "2 times"),
    "missing key, YAML": Fault("goals", ".yaml", "- text: a\n\n- kind: b\n", 3, "`text`"),
    "missing key, JSONL": Fault("goals", ".jsonl", '{"text": "a"}\n{"id": "b"}', 2, "`text`"),
    "number for text": Fault("goals", ".yaml", "- text: fine\n- text: 1984\n", 2, "not a number"),
    "no for text": Fault("topics", ".yaml", DOMAIN + "        - no\n", 5, "not true/false"),
    "date for text": Fault("goals", ".yaml", "- text: 2001-01-01\n", 1, "must be text"),
    "nothing for text": Fault("goals", ".jsonl", '{"text": null}', 1, "not nothing"),
    "mapping for text": Fault("topics", ".yaml", DOMAIN + "        - a: b\n", 5, "not a mapping"),
    "text for list": Fault(
        "topics", ".jsonl", one_domain("a", "b").replace("[]", '"c"'), 1, "must be a list"
    ),
    "text for mapping": Fault("goals", ".yaml", "- text: fine\n- text\n", 2, "must be a mapping"),
    "text for all": Fault("goals", ".yaml", "just text\n", 1, "must be a list"),
    "list for key": Fault("goals", ".yaml", "- [text]: a\n", 1, "a key must be text"),
    "empty text": Fault("goals", ".yaml", "- text: fine\n- text: ' '\n", 2, "is empty"),
    "empty name": Fault(
        "topics", ".yaml", DOMAIN.replace("Roofs", "''") + "        - a\n", 3, "is empty"
    ),
    "empty field": Fault("topics", ".jsonl", one_domain(" ", "b", "c"), 1, "`field` is empty"),
    "no subareas": Fault(
        "topics", ".jsonl", one_domain("a", "b"), 1, "`domains[0].subareas` is empty"
    ),
    "no domains": Fault("topics", ".yaml", "field: a\ndomains: []\n", 2, "`domains` is empty"),
    "no entries": Fault("goals", ".yaml", "goals: []", 1, "no goals in this file"),
    "repeated id": Fault(
        "goals", ".yaml", "- id: a\n  text: one\n- text: two\n  id: A\n", 4, "mine.yaml:1;"
    ),
    "repeated text": Fault("goals", ".yaml", "- text: One.\n- text: one.\n", 2, "mine.yaml:1;"),
    "repeated domain": Fault(
        "topics",
        ".jsonl",
        one_domain("a", "b", "c") + "\n" + one_domain("d", "B", "e"),
        2,
        "mine.jsonl:1;",
    ),
    "repeated subarea": Fault(
        "topics", ".yaml", DOMAIN + "        - a leak\n        - A  leak\n", 6, "mine.yaml:5;"
    ),
    "bad severity": Fault(
        "principles",
        ".yaml",
        "- text: a\n  severity: hihg\n",
        2,
        "mean 'high'? Use low, medium",
    ),
    "bad id": Fault("goals", ".jsonl", '{"id": "a b", "text": "c"}', 1, "is not one word"),
    "control character": Fault(
        "goals", ".yaml", "- text: a\n- text: a\x1bb", 2, "control character"
    ),
    "escaped control, JSONL": Fault("goals", ".jsonl", '{"text": "a\\u0007"}', 1, "'\\x07'"),
    "escaped control, YAML": Fault("goals", ".yaml", '- text: "a\\e"\n', 1, "'\\x1b'"),
    "lone surrogate": Fault("goals", ".jsonl", '{"text": "\\ud800"}', 1, "control character"),
    "two documents": Fault("goals", ".yaml", "- text: a\n---\n- text: b\n", 2, "a second document"),
    "alias": Fault("goals", ".yaml", "- text: &a b\n- text: *a\n", 2, "aliases"),
    "endless alias": Fault("goals", ".yaml", "&a [*a]\n", 1, "aliases"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_by_file_and_line(tmp_path: Path, name: str) -> None:
    fault = FAULTS[name]
    with pytest.raises(CatalogueError) as caught:
        read(tmp_path, fault.kind, fault.extension, fault.content)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'mine'}{fault.extension}:{fault.line}: "), message
    assert fault.wrong in message
    assert "; " in message
    assert "\n" not in message


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_a_fault(tmp_path: Path, kind: str, extension: str, content: str) -> None:
    list_ = {"topics": "fields"}.get(kind, kind)
    with pytest.raises(CatalogueError, match=rf"mine\{extension}:1: no {list_} in"):
        read(tmp_path, kind, extension, content)


@pytest.mark.parametrize("content", ["# only a comment\n", "[]", "{}", "''"])
def test_a_yaml_file_without_entries_is_a_fault(tmp_path: Path, content: str) -> None:
    with pytest.raises(CatalogueError, match=r"mine\.yaml:1: no goals"):
        read(tmp_path, "goals", ".yaml", content)


def test_what_cannot_be_opened_is_a_fault(tmp_path: Path) -> None:
    missing, empty, other = tmp_path / "none.yaml", tmp_path / "empty", tmp_path / "goals.json"
    empty.mkdir()
    other.write_text("[]", "utf-8")
    (tmp_path / "outer" / "inner.yaml").mkdir(parents=True)
    for path, place, wrong in (
        (missing, missing, "no such file"),
        (empty, empty, "the directory is empty"),
        (other, other, "cannot read files of type '.json'; use one of .yaml"),
        (tmp_path / "outer", tmp_path / "outer" / "inner.yaml", "cannot be read"),
        (Path("nul\0.yaml"), "nul\0.yaml", "cannot be read"),
    ):
        with pytest.raises(CatalogueError) as caught:
            load(goals=path)
        assert str(caught.value).startswith(f"{place}: {wrong}")


def test_ids_must_differ_between_files(tmp_path: Path) -> None:
    goals = tmp_path / "goals"
    goals.mkdir()
    (goals / "a.yaml").write_text("- id: x\n  text: one\n", "utf-8")
    (goals / "b.jsonl").write_text('\n{"id": "x", "text": "two"}', "utf-8")
    with pytest.raises(CatalogueError, match=r"b\.jsonl:2: the id 'x' is also at .*a\.yaml:1;"):
        load(goals=goals)


@pytest.mark.parametrize(
    ("extension", "content"),
    [
        (".yaml", "[" * 100_000),
        (".yaml", "- " * 100_000),
        (".yaml", "{a: " * 1_000),
        (".jsonl", "[" * 100_000),
        (".jsonl", "[" * 900 + "]" * 900),
        (".jsonl", '{"text": ' + "1" * 5_000 + "}"),
        (".yaml", "text: " + "1" * 5_000),
    ],
)
def test_no_nesting_or_size_breaks_the_reader(tmp_path: Path, extension: str, content: str) -> None:
    with pytest.raises(CatalogueError):
        read(tmp_path, "goals", extension, content)


# --- properties ---------------------------------------------------------------------------------

CHARACTERS = st.characters(
    exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="\ufeff\ufffe\uffff"
)
TEXTS = st.text(CHARACTERS, min_size=1).filter(str.strip)
ROWS = st.fixed_dictionaries(
    {"text": TEXTS},
    optional={
        "id": st.from_regex(r"[A-Za-z0-9][\w.-]*", fullmatch=True),
        "family": TEXTS,
        "category": TEXTS,
        "severity": st.sampled_from(["low", "medium", "high"]),
    },
)


def without_repeats(rows: list[dict[str, str]]) -> bool:
    texts = {" ".join(row["text"].split()).casefold() for row in rows}
    ids = [row["id"].casefold() for row in rows if "id" in row]
    return len(texts) == len(rows) and len(set(ids)) == len(ids)


def as_yaml(rows: list[dict[str, str]]) -> str:
    return str(yaml.safe_dump(rows, allow_unicode=True, width=40))


def as_escaped_yaml(rows: list[dict[str, str]]) -> str:
    return str(yaml.safe_dump({"principles": rows}, sort_keys=False))


def as_jsonl(rows: list[dict[str, str]]) -> str:
    return "\n".join(json.dumps(row) for row in rows)


@settings(max_examples=50)
@given(st.lists(ROWS, min_size=1, max_size=6).filter(without_repeats))
def test_principles_are_the_same_from_every_format(rows: list[dict[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        catalogues = [
            read(Path(name), "principles", extension, written)
            for extension, written in (
                (".yaml", as_yaml(rows)),
                (".yml", as_escaped_yaml(rows)),
                (".jsonl", as_jsonl(rows)),
            )
        ]
        first = catalogues[0]
        again = "\n".join(msgspec.json.encode(p).decode() for p in first.principles)
        catalogues.append(read(Path(name), "principles", ".jsonl", again))
    assert [p.text for p in first.principles] == [" ".join(row["text"].split()) for row in rows]
    assert len({p.id for p in first.principles}) == len(rows)
    assert all(catalogue == first for catalogue in catalogues)
    assert len({catalogue.digest for catalogue in catalogues}) == 1


# Pieces of the formats, alone and put into sound files, so that many get past the parsers.
PIECES = st.one_of(
    st.sampled_from(["text", "id", "field", "domains", "domain", "subareas", "goals", "a", "1"]),
    st.sampled_from([" ", "\n", "\n  ", "\r\n", "\t", ",", ": ", "- ", "[", "]", "{", "}", "[["]),
    st.sampled_from(["'", '"', '"""', "|", ">", "&a ", "*a", "!!str ", "!!binary ", "# ", "%"]),
    st.sampled_from(["---\n", "...", "<<", "\\", "\\u0000", "\\ud800", "1e400", "NaN", "~", "no"]),
    st.sampled_from(["\0", "\x85", "\u2028", "\ufeff", "\uffff", "é", "助", "🙂", "\ud800"]),
)


def patched(text: str, at: int, cut: int, piece: str) -> str:
    return text[:at] + piece + text[at + cut :]


FILES = st.one_of(
    st.text(),
    st.binary(),
    st.lists(PIECES).map("".join),
    st.builds(
        patched,
        st.sampled_from([*TOPICS.values(), *SMALL.values()]),
        st.integers(0, 300),
        st.integers(0, 30),
        PIECES,
    ),
)


@given(st.sampled_from(EXTENSIONS), st.sampled_from(sorted(SMALL)), FILES)
def test_any_file_loads_or_is_a_fault(extension: str, kind: str, content: str | bytes) -> None:
    message = ""
    with tempfile.TemporaryDirectory() as name:
        try:
            assert len(read(Path(name), kind, extension, content).digest) == 64
        except CatalogueError as error:
            message = str(error).removeprefix(str(Path(name) / f"mine{extension}:"))
    assert not message or re.fullmatch(r"\d+: .+; .+", message)


# --- similarity ---------------------------------------------------------------------------------


def test_content_words_are_those_that_say_something() -> None:
    words = content_words("What the Owner’s dog did to a CHILD's kite")
    assert words == ["owner", "dog", "did", "child", "kite"]


def test_near_duplicates_finds_rewordings() -> None:
    texts = ["A leak over the stairs", "the stairs: over them, a LEAK", "moss on old tiles", "of"]
    assert near_duplicates(texts, 0.9) == [(0, 1, 1.0)]
    assert near_duplicates([], 0.5) == []


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.01, float("nan")])
def test_near_duplicates_refuses_a_meaningless_threshold(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        near_duplicates(["a"], threshold)


@given(
    st.lists(st.lists(st.sampled_from("pqrstuvwxyz"), max_size=7).map(" ".join), max_size=12),
    st.sampled_from([0.1, 0.3, 1 / 3, 0.5, 0.6, 2 / 3, 0.7, 0.8, 1.0]),
)
def test_near_duplicates_misses_nothing(texts: list[str], threshold: float) -> None:
    expected = []
    for (i, one), (j, other) in combinations(enumerate(set(text.split()) for text in texts), 2):
        score = len(one & other) / len(one | other) if one | other else 0
        if score >= threshold:
            expected.append((i, j, score))
    assert near_duplicates(texts, threshold) == expected


def test_near_duplicates_bears_a_large_catalogue(subareas: list[str]) -> None:
    heads = [text.rsplit(" ", 3)[0] for text in subareas]
    tails = [text.split(" ", 3)[-1] for text in subareas]
    texts = [
        f"{heads[n % len(heads)]} {tails[(n * 7919 + n // len(heads)) % len(tails)]}"
        for n in range(16_000)
    ]
    found = near_duplicates(texts, 0.6)
    assert all(i < j and score >= 0.6 for i, j, score in found)
