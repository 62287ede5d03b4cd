from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.data import ids as ids_module
from tamis.data.ids import Ids
from tamis.errors import ArtifactError, DataError
from tamis.types import item_key, item_keys

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), unique=True, max_size=40)


@settings(max_examples=50, deadline=None)
@given(externals=texts, others=texts)
def test_numbers_and_strings_are_each_others_inverse(
    tmp_path_factory: pytest.TempPathFactory, externals: list[str], others: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("ids")
    ids = Ids.of(externals)
    ids.save(folder, "user")
    for table in (ids, Ids.load(folder, "user")):
        assert len(table) == len(externals)
        assert table.numbers(externals).tolist() == list(range(len(externals)))
        assert table.externals(np.arange(len(externals))) == externals
        expected = [externals.index(other) if other in externals else -1 for other in others]
        assert table.numbers(others).tolist() == expected
        assert [table.number(other) for other in others] == expected
        assert (table.keys == item_keys(externals)).all()
        assert table.numbers_of_keys(table.keys).tolist() == list(range(len(externals)))


def test_an_unknown_string_or_key_has_no_number() -> None:
    ids = Ids.of(["a", "b"])
    assert ids.number("c") == -1
    assert ids.number("\ud800") == -1
    assert ids.numbers(["\ud800", "b"]).tolist() == [-1, 1]
    assert ids.numbers_of_keys(np.array([item_key("b"), item_key("c")], np.uint64)).tolist() == [1, -1]
    assert Ids.of([]).number("a") == -1


def test_a_string_with_the_key_of_another_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = Ids.of(["a", "b"])
    monkeypatch.setattr(ids_module, "item_key", lambda external: item_key("a"))
    monkeypatch.setattr(ids_module, "item_keys", lambda externals: item_keys("a" for _ in externals))
    assert ids.number("impostor") == -1
    assert ids.numbers(["a", "impostor"]).tolist() == [0, -1]


def test_two_strings_with_one_key_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids_module, "item_keys", lambda externals: np.zeros(len(externals), np.uint64))
    with pytest.raises(DataError, match="'a' has the same 64-bit key as 'b'"):
        Ids.of(["a", "b"])


def test_the_same_string_twice_is_refused() -> None:
    with pytest.raises(DataError, match="'a' appears twice"):
        Ids.of(["a", "b", "a"])


@pytest.mark.parametrize("number", [-1, 2])
def test_a_number_outside_the_table_is_an_error(number: int) -> None:
    with pytest.raises(ValueError, match="number"):
        Ids.of(["a", "b"]).external(number)


def test_loading_what_was_not_saved_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="user_blob"):
        Ids.load(tmp_path, "user")
