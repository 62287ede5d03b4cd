"""Who has met what, in memory and in a file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tamis.data import known
from tamis.data.known import KnownPairs
from tamis.data.on_disk import OnDisk

USERS, ITEMS = 40, 30


def pairs() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Some more than once; user 7 has most, user 8 none."""
    random = np.random.default_rng(2)
    user = np.append(random.integers(0, USERS, 900), np.full(300, 7))
    user = np.where(user == 8, 9, user).astype(np.int32)
    return user, random.integers(0, ITEMS, len(user)).astype(np.int32)


def in_pieces() -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    user, item = pairs()
    for start in range(0, len(user), 100):
        yield user[start : start + 100], item[start : start + 100]


def test_pairs_on_disk_are_those_in_memory_and_answer_alike(tmp_path: Path) -> None:
    whole = KnownPairs.of(*pairs(), USERS, ITEMS)
    stored = KnownPairs.on_disk(in_pieces, USERS, ITEMS, (tmp_path / "known", 70))
    item: Any = stored.item
    assert isinstance(item, OnDisk)
    np.testing.assert_array_equal(np.asarray(item), whole.item)
    np.testing.assert_array_equal(stored.starts, whole.starts)
    assert [path.name for path in tmp_path.iterdir()] == ["known"]
    asked = np.array([7, 8, 3, 7, 39])
    for one, other in zip(stored.of_users(asked), whole.of_users(asked), strict=True):
        np.testing.assert_array_equal(one, other)
    user, item = np.repeat(np.arange(USERS), ITEMS), np.tile(np.arange(ITEMS), USERS)
    shuffled = np.random.default_rng(1).permutation(len(user))
    wanted = np.isin(user * ITEMS + item, pairs()[0].astype(np.int64) * ITEMS + pairs()[1])
    for known_ in (whole, stored):
        np.testing.assert_array_equal(known_.has(user[shuffled], item[shuffled]), wanted[shuffled])
    assert 0 < wanted.mean() < 1


def test_no_more_pairs_are_sorted_at_once_than_was_said_but_for_one_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sorted_: list[int] = []
    distinct = known.distinct
    monkeypatch.setattr(known, "distinct", lambda keys: (sorted_.append(len(keys)), distinct(keys))[1])
    KnownPairs.on_disk(in_pieces, USERS, ITEMS, (tmp_path / "known", 70))
    most = int(np.bincount(pairs()[0]).max())
    assert sum(sorted_) == len(pairs()[0])
    assert sorted(sorted_)[-2] <= 70 + int(np.sort(np.bincount(pairs()[0]))[-2])
    assert max(sorted_) <= most + 70


def test_without_any_pair_nobody_has_met_anything(tmp_path: Path) -> None:
    none = np.empty(0, np.int32)
    stored = KnownPairs.on_disk(lambda: iter([]), 3, 5, (tmp_path / "known", 10))
    for known_ in (KnownPairs.of(none, none, 3, 5), stored):
        assert not known_.has(np.array([0, 2]), np.array([1, 4])).any()
        assert len(known_.of_users(np.array([0, 2]))[1]) == 0
