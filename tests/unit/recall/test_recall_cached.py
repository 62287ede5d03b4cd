import numpy as np
import pytest

from tamis.config import convert
from tamis.errors import ConfigError
from tamis.recall.cached import Cached, CachedConfig
from tamis.types import LEFTOVER, Exact, Nothing

DAY = 86_400.0


def keys(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint64)


def span(first: int, last: int) -> np.ndarray:
    return np.arange(first, last + 1, dtype=np.uint64)


EMPTY = np.empty(0, LEFTOVER)


def test_cache_1_the_top_50_that_were_not_shown_wait() -> None:
    channel = Cached(CachedConfig())
    shown = np.concatenate([span(1, 10), span(60, 69)])
    waiting = channel.after(EMPTY, span(1, 200), shown, 0.0)
    assert waiting["key"].tolist() == list(range(11, 51))


def test_cache_2_the_oldest_leave_a_full_cache() -> None:
    channel = Cached(CachedConfig())
    waiting = channel.after(EMPTY, span(1, 200), np.concatenate([span(1, 10), span(60, 69)]), 0.0)
    waiting = channel.after(waiting, span(1001, 1200), span(1001, 1005), 1.0)
    assert len(waiting) == 85
    waiting = channel.after(waiting, span(2001, 2200), span(2001, 2020), 2.0)
    assert len(waiting) == 100
    assert waiting["key"][0] == 26
    assert waiting["key"][-1] == 2050


def test_cache_3_an_item_is_recalled_ten_times_and_not_let_in_again_by_the_tenth() -> None:
    channel = Cached(CachedConfig())
    waiting = channel.after(EMPTY, keys(7), keys(), 0.0)
    calls = []
    for call in range(12):
        residents = channel.residents(waiting, Nothing(), float(call))
        calls.append(7 in residents["key"])
        waiting = channel.after(residents, keys(7) if call == 9 else keys(), keys(), float(call))
    assert calls == [True] * 10 + [False] * 2


def test_cache_4_three_days_and_no_second_more() -> None:
    channel = Cached(CachedConfig())
    waiting = channel.after(EMPTY, keys(7), keys(), 1000.0)
    assert len(channel.residents(waiting, Nothing(), 1000.0 + 3 * DAY - 1)) == 1
    assert len(channel.residents(waiting, Nothing(), 1000.0 + 3 * DAY)) == 0


def test_cache_5_what_was_seen_through_any_channel_leaves() -> None:
    channel = Cached(CachedConfig())
    waiting = channel.after(EMPTY, keys(7, 8), keys(), 0.0)
    assert channel.residents(waiting, Exact(keys(7)), 1.0)["key"].tolist() == [8]


def test_who_waits_already_keeps_time_and_count() -> None:
    channel = Cached(CachedConfig(limit=1))
    waiting = channel.after(EMPTY, keys(7, 8), keys(), 5.0)
    again = channel.after(waiting, keys(8, 7, 9), keys(), 6.0)
    assert again["key"].tolist() == [7, 8, 9]
    assert again["time"].tolist() == [5.0, 5.0, 6.0]
    assert again["recalls"].tolist() == [1, 0, 0]  # only the first `limit` were recalled


@pytest.mark.parametrize("wrong", [{"capacity": 0}, {"most_recalls": 256}, {"max_age_days": 0.0}, {"top": 0}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        convert({"kind": "cached", **wrong}, CachedConfig)


def test_a_small_cache_keeps_the_best_of_what_is_new() -> None:
    channel = Cached(CachedConfig(top=50, capacity=3))
    assert channel.after(EMPTY, span(1, 200), keys(2), 0.0)["key"].tolist() == [1, 3, 4]
