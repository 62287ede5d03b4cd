"""What is known of a log that was read once, piece by piece."""

from typing import Any

import numpy as np
import pytest

from tamis.data.overview import Overview
from tamis.types import ACTION_CODE, ACTIONS

IMPRESSION, CLICK, LIKE = (ACTION_CODE[name] for name in ("impression", "click", "like"))
ROWS = [  # user, item, action, time, request
    (0, 1, IMPRESSION, 60.0, -1),
    (0, 2, IMPRESSION, 60.0, -1),
    (1, 1, IMPRESSION, 61.0, -1),
    (1, 1, CLICK, 70.0, -1),
    (1, 2, IMPRESSION, 190.0, 5),
    (1, 2, LIKE, 250.0, 5),
]
NAMES = ("user", "item", "action", "time", "request")


class Log:
    users, items = range(3), range(4)

    def pieces(self, names: Any, since: Any, until: float, rows: int) -> Any:
        kept = [row for row in ROWS if row[3] < until]
        for start in range(0, len(kept), rows):
            columns = zip(*kept[start : start + rows], strict=True)
            yield {name: np.array(column) for name, column in zip(NAMES, columns, strict=True)}


@pytest.mark.parametrize("rows", [2, 100])
def test_a_log_is_counted_by_user_item_action_and_minute(rows: int) -> None:
    made: Any = Log()
    overview = Overview.of(made, 1e9, np.isin(ACTIONS, ["click", "like"]), rows)
    assert overview.all_of == {IMPRESSION: 4, CLICK: 1, LIKE: 1}
    assert overview.by_user.tolist() == [2, 4, 0]
    assert overview.by_item.tolist() == [0, 3, 3, 0]
    assert overview.remembered.tolist() == [0, 2, 0]
    assert overview.first_seen.tolist() == [np.inf, 60.0, 60.0, np.inf]
    assert overview.minutes.tolist() == [[1, 4], [3, 1], [4, 1]]
    assert overview.first == 60.0
    assert overview.loose_pages == 2
    assert overview.since(200.0) == 1
    assert overview.cuts(4) == [180.0]
    assert overview.cuts(1) == [180.0, 240.0]


def test_a_log_without_events_has_no_first_moment() -> None:
    made: Any = Log()
    overview = Overview.of(made, 0.0, np.zeros(len(ACTIONS), np.bool_), 10)
    assert overview.first == np.inf
    assert overview.all_of == {}
