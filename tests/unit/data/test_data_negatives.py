"""What drawing negatives by popularity does to the odds of a row, and that the correction undoes it."""

import numpy as np
import pytest

from tamis.data.negatives import Popularity
from tamis.types import ACTION_CODE


class Log:
    """Events of six items; item 5 comes to be there at time 50."""

    item = np.repeat(np.arange(6), [400, 200, 100, 50, 10, 5]).astype(np.int32)
    time = np.where(item == 5, 50.0, 0.0)
    user = np.zeros(len(item), np.int32)
    action = np.full(len(item), ACTION_CODE["click"], np.uint8)


PUBLISHED = np.full(6, np.nan)


@pytest.mark.parametrize("time", [10.0, 60.0])
def test_log_odds_are_what_the_draws_show(time: float) -> None:
    popularity = Popularity.of(Log, PUBLISHED, 0.75)
    drawn = popularity.draw(np.full(200_000, time), np.random.default_rng(1).random(200_000))
    there = 5 if time < 50 else 6
    share = np.bincount(drawn, minlength=6) / len(drawn)
    assert (share > 0).sum() == there
    items = np.arange(there, dtype=np.int32)
    added = popularity.log_odds(items, np.full(there, time))
    assert added == pytest.approx(-np.log(share[:there] * there), abs=0.1)
    assert added[0] < 0 < added[there - 1]  # the most popular is drawn more often than evenly, the rarest less


def test_even_draws_add_nothing() -> None:
    popularity = Popularity.of(Log, PUBLISHED, 0.0)
    assert popularity.log_odds(np.arange(6, dtype=np.int32), np.full(6, 60.0)) == pytest.approx(np.zeros(6), abs=1e-6)
