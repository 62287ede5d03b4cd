"""What a history says of items and keys, and the best of scores, against plain Python."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.recall.lists import Seeds
from tamis.recall.neighbours import best, liked
from tamis.recall.seeds import joined, together
from tamis.types import History

ENTRY = st.tuples(st.integers(-1, 12), st.integers(0, 11))
KEYS = st.lists(st.tuples(st.integers(-4, 4), st.sampled_from([0.25, 1.0, 2.0])), max_size=12)


@settings(deadline=None)  # the first call compiles
@given(done=st.lists(ENTRY, max_size=30), known=st.integers(0, 13), actions=st.sets(st.integers(0, 11)))
def test_interest_is_a_point_for_each_kind_of_action_newest_first(
    done: list[tuple[int, int]], known: int, actions: set[int]
) -> None:
    kinds: dict[int, set[int]] = {}
    for item, action in done:
        if 0 <= item < known and action in actions:
            kinds.setdefault(item, set()).add(action)
    items, codes = np.array(done, np.int64).reshape(-1, 2).T
    history = History(items, codes.astype(np.uint8), np.zeros(len(items)))
    distinct, points = liked(history, known, np.array(sorted(actions), np.uint8))
    assert distinct.tolist() == list(kinds)
    assert points.tolist() == [len(each) for each in kinds.values()]


@settings(deadline=None)  # the first call compiles
@given(scores=st.lists(st.integers(-3, 3), max_size=40), limit=st.integers(0, 12), seed=st.integers(0, 9))
def test_the_best_come_first_and_equal_ones_by_number(scores: list[int], limit: int, seed: int) -> None:
    items = np.random.default_rng(seed).permutation(len(scores))
    found, score = best(items, np.array(scores, np.float64), limit)
    wanted = sorted(zip(items.tolist(), scores, strict=True), key=lambda pair: (-pair[1], pair[0]))[: limit or None]
    assert list(zip(found.tolist(), score.tolist(), strict=True)) == wanted


@settings(deadline=None)  # the first call compiles
@given(keys=KEYS, split=st.integers(0, 12), most=st.integers(0, 4))
def test_keys_add_up_the_heaviest_first_however_they_are_cut(keys: list[Any], split: int, most: int) -> None:
    sums: dict[int, float] = {}
    for key, weight in keys:
        if key:
            sums[key] = sums.get(key, 0.0) + weight
    wanted = sorted(sums.items(), key=lambda pair: (-pair[1], pair[0]))
    whole = _seeds(keys)
    assert _pairs(together(*whole, most)) == wanted[: most or None]
    parts = [together(*_seeds(part)) for part in (keys[:split], keys[split:])]
    assert _pairs(joined(parts, 3)) == wanted[:3]
    assert _pairs(joined([together(*whole)], 3)) == wanted[:3]


def _seeds(pairs: list[tuple[int, float]]) -> Seeds:
    return Seeds(np.array([key for key, _ in pairs], np.int64), np.array([weight for _, weight in pairs], np.float64))


def _pairs(seeds: Seeds) -> list[tuple[int, float]]:
    return list(zip(seeds.keys.tolist(), seeds.weights.tolist(), strict=True))
