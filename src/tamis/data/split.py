"""Training, validation and test by time, never by row: everything before a moment, everything from it on.

first event …… valid_since …… train_until = test_since …… test_until
└── train ──────┴── valid ────┴──────── test ────────────┘
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import polars as pl
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
    times = _Times(dataset)
    if not len(times):
        raise DataError(f"{dataset.folder}: no events to split; import some first")
    test_since = config.test_since or _days(times.at(len(times) - 1), config)
    held_out = (len(times) - times.before(test_since)) / len(times)
    if not config.test_since and not config.least_share <= held_out <= 1 - config.least_share:
        test_since = _share(times, len(times), config.test_share)
    train = times.before(test_since)
    if not train or train == len(times):
        side, moment = "from" if train else "before", np.datetime64(int(test_since), "s")
        raise DataError(f"{dataset.folder}: no events {side} {moment} UTC, where the test would begin")
    last = max(dataset.span()[1], times.at(len(times) - 1))
    valid_since = _share(times, train, config.valid_share)
    if valid_since <= times.at(0):  # all rows are of one moment: better no validation than nothing to learn from
        valid_since = float(np.nextafter(times.at(train - 1), np.inf))
    return Split(test_since, valid_since, test_since, float(np.nextafter(last, np.inf)))


def sizes(dataset: Dataset, split: Split) -> tuple[int, int]:
    """Events of any kind to learn from (those of the validation among them), and held-out ones."""
    spans = (None, split.train_until), (split.test_since, split.test_until)
    first, held_out = (int(dataset.scan_events(*span).select(pl.len()).collect().item()) for span in spans)
    return first, held_out


def _days(last: float, config: SplitConfig) -> float:
    """The local midnight that begins the last `test_days` days."""
    offset = config.offset_hours * 3600
    last_day = np.floor((last + offset) / DAY_SECONDS)
    return float((last_day - config.test_days + 1) * DAY_SECONDS - offset)


def _share(times: "_Times", count: int, share: float) -> float:
    """The moment from which on about the last `share` of the first `count` times lie; no moment is torn apart."""
    if not share:
        return float(np.nextafter(times.at(count - 1), np.inf))
    return times.at(min(int(np.ceil(count * (1 - share))), count - 1))


class _Times:
    """The times of all rows in order, of which only one day's are in memory."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.actions = [Action.IMPRESSION] if dataset.actions().get("impression") else None
        days = sorted({int(part.first // DAY_SECONDS) for part in dataset.manifest.parts["events"]})
        self.days = [day * DAY_SECONDS for day in days]
        self.ends = np.cumsum([self._rows(day).select(pl.len()).collect().item() for day in self.days])
        self._held: tuple[int, NDArray[np.float64]] = (-1, np.empty(0))

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def at(self, place: int) -> float:
        """The time at a place in ascending order."""
        day = int(np.searchsorted(self.ends, place, "right"))
        return float(self._day(day)[place - self._before(day)])

    def before(self, moment: float) -> int:
        """How many times are earlier than a moment."""
        day = int(np.searchsorted(self.days, moment, "right")) - 1
        return self._before(day) + int(np.searchsorted(self._day(day), moment)) if day >= 0 else 0

    def _before(self, day: int) -> int:
        return int(self.ends[day - 1]) if day else 0

    def _day(self, day: int) -> NDArray[np.float64]:
        if self._held[0] != day:
            self._held = day, self._rows(self.days[day]).collect()["time"].sort().to_numpy()
        return self._held[1]

    def _rows(self, day: float) -> pl.LazyFrame:
        return self.dataset.scan_events(day, day + DAY_SECONDS, self.actions).select("time")
