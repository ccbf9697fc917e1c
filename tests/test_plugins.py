"""Parts of a user's own are found by module and name, by entry point, or refused with a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdsd.errors import PluginError
from sdsd.plugins import _points, is_spec, resolve, version


def test_a_part_is_named_by_module_and_attribute() -> None:
    assert resolve("json:dumps", "filters")([1]) == "[1]"
    assert is_spec("a.b:c")
    assert not any(map(is_spec, ("a.b", ":c", "a:", "a b:c", "C:\\x", "http://a:80", "a:b.c", "")))


def test_a_part_beside_the_configuration_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside_here.py").write_text("def keep(record):\n    return None\n")
    monkeypatch.chdir(tmp_path)
    assert resolve("beside_here:keep", "filters")(None) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:x", "No module named 'no_such_module'"),
        ("json:no_such_name", "no_such_name"),
        ("nothing", "not one of the filters: short"),
        ("json:mine", "`json` was imported from .*json/__init__.py: if that is another module"),
    ],
)
def test_what_is_not_there_is_named_with_the_remedy(name: str, said: str) -> None:
    with pytest.raises(PluginError, match=said) as caught:
        resolve(name, "filters", known=("short",))
    assert name in str(caught.value)


def test_a_short_name_is_no_name_where_nothing_is_installed() -> None:
    with pytest.raises(PluginError, match="not one of the filters, of which none are installed"):
        resolve("keep", "filters")


def test_a_module_that_exits_when_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exiting_part.py").write_text("raise SystemExit(0)\n")
    with pytest.raises(PluginError, match="`exiting_part:x` cannot be imported: SystemExit: 0"):
        resolve("exiting_part:x", "filters")


def test_the_version_changes_with_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "part_one.py").write_text("def keep(record): ...\n")
    (tmp_path / "part_two.py").write_text("def keep(record): ...  # other\n")
    first, second = (resolve(f"part_{n}:keep", "filters") for n in ("one", "two"))
    assert version(first) != version(second)
    assert version(first) == version(first)
    assert version(len) == "builtins.len"


def test_a_part_is_found_as_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an installed package declares it."""
    info = tmp_path / "toxic-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toxic\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sdsd.critics]\ntoxicity = toxic_judge:score\n")
    (tmp_path / "toxic_judge.py").write_text("def score(turn, principle): return 0.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    _points.cache_clear()
    try:
        assert resolve("toxicity", "critics")(None, None) == 0.0
        with pytest.raises(PluginError, match="not one of the critics: toxicity; name"):
            resolve("toxicty", "critics")
    finally:
        _points.cache_clear()
