"""Training, validation and test by time, never by row: everything before a moment, everything from it on.

first event …… valid_since …… train_until = test_since …… test_until
└── train ──────┴── valid ────┴──────── test ────────────┘
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from tamis.config import AtLeastOne, Config, NotNegative, ShareBelowOne
from tamis.data.dataset import DAY_SECONDS, Dataset
from tamis.errors import DataError
from tamis.types import Action


class SplitConfig(Config, frozen=True):
    """Where to cut.

    test_since: seconds since the epoch, 0 = by days.   test_days: whole days at the end that are held out.
    offset_hours: local midnight minus UTC midnight, 8 for China.
    least_share: if the held-out days or those before have a smaller share of the rows, the cut is made by share.
    test_share: held out then, the last share of the rows.   valid_share: the last share of the rows before the test.
    Rows are impressions, or all events where there are none.
    """

    test_since: NotNegative = 0.0
    test_days: AtLeastOne = 1
    offset_hours: Annotated[float, Meta(ge=-24, le=24)] = 0.0
    least_share: ShareBelowOne = 0.005
    test_share: ShareBelowOne = 0.1
    valid_share: ShareBelowOne = 0.1


@dataclass(frozen=True, slots=True)
class Split:
    """Moments in seconds. Training uses nothing at or after `train_until`; its last part, for early stopping and
    calibration, is valid_since ≤ time < train_until; the test is test_since ≤ time < test_until."""

    train_until: float
    valid_since: float
    test_since: float
    test_until: float


def by_time(dataset: Dataset, config: SplitConfig | None = None) -> Split:
    """The split of a data set. Raises DataError when no cut leaves rows on both sides."""
    config = config or SplitConfig()
    actions = [Action.IMPRESSION] if dataset.actions().get("impression") else None
    frame = dataset.scan_events(actions=actions).select("time").collect()
    times = frame["time"].sort().to_numpy()
    if not len(times):
        raise DataError(f"{dataset.folder}: no events to split; import some first")
    test_since = config.test_since or _days(times, config)
    held_out = np.mean(times >= test_since)
    if not config.test_since and not config.least_share <= held_out <= 1 - config.least_share:
        test_since = _share(times, config.test_share)
    train = times[times < test_since]
    if not len(train) or len(train) == len(times):
        side, moment = "from" if len(train) else "before", np.datetime64(int(test_since), "s")
        raise DataError(f"{dataset.folder}: no events {side} {moment} UTC, where the test would begin")
    last = max(dataset.span()[1], float(times[-1]))
    valid_since = _share(train, config.valid_share)
    if valid_since <= train[0]:  # all rows are of one moment: better no validation than nothing to learn from
        valid_since = float(np.nextafter(train[-1], np.inf))
    return Split(test_since, valid_since, test_since, float(np.nextafter(last, np.inf)))


def _days(times: NDArray[np.float64], config: SplitConfig) -> float:
    """The local midnight that begins the last `test_days` days."""
    offset = config.offset_hours * 3600
    last_day = np.floor((times[-1] + offset) / DAY_SECONDS)
    return float((last_day - config.test_days + 1) * DAY_SECONDS - offset)


def _share(times: NDArray[np.float64], share: float) -> float:
    """The moment from which on about the last `share` of the times lie; rows of one moment stay on one side."""
    if not share:
        return float(np.nextafter(times[-1], np.inf))
    return float(times[min(int(np.ceil(len(times) * (1 - share))), len(times) - 1)])
