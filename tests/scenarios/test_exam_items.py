"""The exam's items: read with line numbers, sampled so that any number of them is spread."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from itertools import groupby, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_spec_exam import items as spec_items

from sdsd.errors import CatalogueError
from sdsd.scenarios import exam_items
from sdsd.scenarios.catalogue import Catalogue
from sdsd.scenarios.exam_items import Item, digest, load, sample
from sdsd.types import Card, Example, Message, Principle

SHOWN = Example("A poem?", "It limps.", "Divine!")
KNOWN = Catalogue(
    (),
    (
        Principle("honest", "The assistant should be honest.", "f", "honesty"),
        Principle("kind", "The assistant should be kind.", "f", "respect"),
    ),
    (),
    {"kind": Card(examples=(SHOWN,))},
)
PAIR = {"user": "Is it good?", "satisfies": "The ending drags.", "violates": "It is perfect."}


def read(folder: Path, *entries: Mapping[str, object]) -> tuple[Item, ...]:
    file = folder / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, entries)), "utf-8")
    return load(file, KNOWN)


def test_an_item_knows_its_principle_by_id_or_by_sentence(tmp_path: Path) -> None:
    by_id, by_text, own = read(
        tmp_path,
        {"principle": "kind", **PAIR},
        {"principle": "the assistant should be KIND.", **PAIR, "category": "tone"},
        {"principle": "The assistant should not boast.", **PAIR, "subtle": "plain"},
    )
    assert (by_id.id, by_id.category, by_id.shown) == ("kind/1", "respect", (SHOWN,))
    assert (by_text.id, by_text.category) == ("kind/2", "tone")
    assert own.principle.text == "The assistant should not boast."
    assert own.id == f"{own.principle.id}/1"
    assert (own.subtle, own.shown) == ("plain", ())


def test_an_item_may_bring_its_own_examples_and_earlier_turns(tmp_path: Path) -> None:
    earlier = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    (item,) = read(
        tmp_path,
        {
            "principle": "kind",
            **PAIR,
            "earlier": earlier,
            "examples": [{"user": "a b", "satisfies": "c d", "violates": "e f"}],
        },
    )
    assert item.shown == (Example("a b", "c d", "e f"),)
    assert item.conversation == (
        Message("user", "Hi."),
        Message("assistant", "Hello."),
        Message("user", "Is it good?"),
    )
    assert item.turn("violates").reply == "It is perfect."


def test_items_of_a_principle_follow_each_other_in_the_order_of_the_catalogue(
    tmp_path: Path,
) -> None:
    items = read(tmp_path, *({"principle": p, **PAIR} for p in ("kind", "honest", "kind")))
    assert [item.id for item in items] == ["honest/1", "kind/1", "kind/2"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"principle": "kint", **PAIR}, "did you mean 'kind'? Or write the principle out"),
        ({"principle": "zzz", **PAIR}, "write the principle out as a sentence"),
        ({"principle": "kind", **PAIR, "violates": "The ending drags."}, "two texts"),
        ({"principle": "kind", "user": "a", "satisfies": "b"}, "the key `violates` is missing"),
        ({"principle": "kind", **PAIR, "subtle": "very"}, "use plain, middling or subtle"),
        ({"principle": "kind", **PAIR, "user": " "}, "`user` is empty"),
        ({"principle": "kind", **PAIR, "earlier": [{"role": "user", "content": "x"}]}, "alternate"),
        (
            {"principle": "kind", **PAIR, "examples": [{**PAIR, "user": "The ending drags."}]},
            "two texts",
        ),
    ],
)
def test_an_error_names_the_line_and_the_remedy(
    tmp_path: Path, entry: dict[str, object], said: str
) -> None:
    with pytest.raises(CatalogueError) as error:
        read(tmp_path, {"principle": "honest", **PAIR}, entry)
    assert f"{tmp_path / 'mine.jsonl'}:2: " in str(error.value)
    assert said in str(error.value)


def test_yaml_is_read_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("- principle: kind\n  user: a b\n  satisfies: c d\n  violates: e f\n")
    assert [item.id for item in load(file, KNOWN)] == ["kind/1"]


def made(sizes: list[int]) -> list[Item]:
    """Two items for each principle; category k has `sizes[k]` principles."""
    return [
        Item(f"p{c}-{p}/{k}", Principle(f"p{c}-{p}", "It should.", "f", f"c{c}"), SHOWN, f"c{c}")
        for c, size in enumerate(sizes)
        for p in range(size)
        for k in (1, 2)
    ]


SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=7)


@given(SIZES, st.integers(0, 99))
def test_a_larger_sample_contains_every_smaller_one(sizes: list[int], seed: int) -> None:
    items = made(sizes)
    samples = [set(sample(items, n, seed)) for n in range(len(items) + 2)]
    assert [len(found) for found in samples] == [*range(len(items) + 1), len(items)]
    assert all(small <= large for small, large in pairwise(samples))


@given(SIZES, st.integers(0, 99), st.data())
def test_any_sample_is_spread(sizes: list[int], seed: int, data: st.DataObject) -> None:
    items = made(sizes)
    n = data.draw(st.integers(1, len(items)))
    found = sample(items, n, seed)
    counts = Counter(item.category for item in found)
    assert len(counts) == min(n, len(sizes))
    for c, size in enumerate(sizes):
        if n >= len(sizes):
            assert abs(counts[f"c{c}"] - 2 * size * n / len(items)) <= len(sizes)
        of = Counter(item.principle.id for item in found if item.category == f"c{c}")
        assert len(of) == min(size, counts[f"c{c}"])  # every principle before any again
    assert list(found) == [item for item in items if item in found]


def test_the_seed_decides_which_items() -> None:
    items = made([9, 9])
    assert sample(items, 6, 1) == sample(items, 6, 1)
    assert sample(items, 6, 1) != sample(items, 6, 2)


def test_the_digest_is_of_everything_that_critics_see() -> None:
    items = made([2])
    shown = [Item(i.id, i.principle, i.pair, i.category, shown=(SHOWN,)) for i in items]
    assert digest(items) == digest(tuple(items))
    assert digest(items) != digest(shown)


def test_the_packaged_items_come_in_groups_of_one_principle() -> None:
    items = load()
    groups = [name for name, _ in groupby(items, key=lambda item: item.principle.id)]
    assert len(groups) == len(set(groups))
    assert all(item.shown for item in items)
    assert exam_items.LABELS == ("satisfies", "violates")


SPEC = """
# The chain {#chain}

## Be kind {#kind authority=user}

**Example**: a poem

~~~xml
<user>
My poem?
</user>
<comparison>
<assistant> <!-- BAD: scorn -->
It is bad.
</assistant>
<assistant> <!-- GOOD -->
It limps [...]

Here.
</assistant>
</comparison>
~~~

**Example**: with a developer

~~~xml
<developer>
Be brief.
</developer>
<user>
Hi.
</user>
<comparison>
<assistant> <!-- GOOD -->
Hello.
</assistant>
<assistant> <!-- BAD -->
What?
</assistant>
</comparison>
~~~

**Example**: later in a conversation

~~~xml
<user>
Hi.
</user>
<assistant>
Hello.
</assistant>
<user>
And now?
</user>
<comparison>
<assistant> <!-- GOOD: patience -->
Soon.
</assistant>
<assistant> <!-- BAD -->
Never.
</assistant>
</comparison>
~~~
"""


def test_the_model_spec_converts(tmp_path: Path) -> None:
    first, second = read(tmp_path, *spec_items(SPEC))
    assert first.principle.text == "Be kind."
    assert (first.pair.satisfies, first.pair.violates) == ("It limps [...] Here.", "It is bad.")
    assert second.conversation[-1].content == "And now?"
    assert len(second.conversation) == 3
    assert [e.user for e in first.shown] == ["And now?"]
    assert [e.user for e in second.shown] == ["My poem?"]
