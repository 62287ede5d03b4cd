"""Which row of which page an event answers: impressions as rows, and the events that label them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tamis.data.dataset import Events, Requests
from tamis.types import ACTION_CODE, Action

VALUED: Final = ("play", "rate")  # actions whose labels are the values of their events


@dataclass(frozen=True, slots=True)
class Rows:
    """Candidates of pages, sorted by page; pages are numbered by their time. n rows."""

    page: NDArray[np.int64]  # [n] number of the page, ascending
    request: NDArray[np.int64]  # [n] request number, −1 = none
    user: NDArray[np.int32]  # [n]
    item: NDArray[np.int32]  # [n]
    time: NDArray[np.float64]  # [n] of the impression itself
    page_time: NDArray[np.float64]  # [n] of the request
    position: NDArray[np.int16]  # [n] −1 = unknown

    def __len__(self) -> int:
        return len(self.page)

    def take(self, rows: NDArray[Any]) -> "Rows":
        """The given rows (positions or a mask)."""
        return Rows(*(getattr(self, name)[rows] for name in self.__slots__))


def impression_rows(events: Events, requests: Requests) -> Rows:
    """One row for each item of each page that was shown: by time of the page, then position, then item.

    An item that was logged twice on a page counts once, with its first position. Impressions without a request (or of
    one that is not among `requests`) form a page for each user and moment.
    """
    shown = events.take(np.flatnonzero(events.action == Action.IMPRESSION))
    place = places_of(requests, shown.request)
    known = place >= 0
    page_time = shown.time.copy()
    page_time[known] = requests.time[place[known]]
    frame = pl.DataFrame(
        {
            "page_time": page_time,
            "request": np.where(known, shown.request, -1),
            # A page is a request, or without one a user at a moment; its user is then part of its identity.
            "owner": np.where(known, -1, shown.user),
            "user": shown.user,
            "position": shown.position,
            "item": shown.item,
            "time": shown.time,
        }
    )
    identity = ["page_time", "request", "owner"]
    frame = frame.sort([*identity, "position", "item"], maintain_order=True)
    frame = frame.unique([*identity, "item"], keep="first", maintain_order=True)
    new_page = pl.any_horizontal(pl.col(name) != pl.col(name).shift() for name in identity).fill_null(True)
    frame = frame.with_columns(new_page.cum_sum().cast(pl.Int64).alias("page"))
    return Rows(*(frame[name].to_numpy() for name in Rows.__slots__))


def places_of(requests: Requests, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """[n] the places of request numbers among `requests`, −1 = not there."""
    if not len(requests):
        return np.full(len(numbers), -1, np.int64)
    place = np.minimum(np.searchsorted(requests.number, numbers), len(requests) - 1)
    return np.where(requests.number[place] == numbers, place, -1)


def answers_since(requests: Requests, events: Events, moment: float) -> Events:
    """The events without those that name a request before `moment`, or one that is not among `requests`.

    Where only some days of a log are at hand an answer to an older page would else be taken for one to a newer page.
    Impressions whose request is not there stay.
    """
    place = places_of(requests, events.request)
    time = np.append(requests.time, -np.inf)[place]
    older = (events.request >= 0) & (time < moment) & ((place >= 0) | (events.action != Action.IMPRESSION))
    return events.take(np.flatnonzero(~older))


def positive_rows(events: Events, positives: Sequence[int]) -> Rows:
    """One page of one row for each thing that users did of the given action codes, each (user, item, time) once."""
    chosen = events.take(np.flatnonzero(np.isin(events.action, np.asarray(positives, np.uint8))))
    frame = pl.DataFrame({name: getattr(chosen, name) for name in ("time", "user", "item", "request")})
    frame = frame.unique(["time", "user", "item"], keep="first", maintain_order=True).sort("time", maintain_order=True)
    request, user, item, time = (frame[name].to_numpy() for name in ("request", "user", "item", "time"))
    page = np.arange(len(frame), dtype=np.int64)
    return Rows(page, request, user, item, time, time, np.full(len(frame), -1, np.int16))


def attribute(events: Events, rows: Rows, window_seconds: float) -> NDArray[np.int64]:
    """[e] the row that each event answers, −1 = none; impressions answer nothing.

    First choice: the row of the event's own request. Else, for an event without a request or of an item that its
    request does not show, the user's latest row of that item, shown at most `window_seconds` before the event.
    """
    target = np.full(len(events), -1, np.int64)
    if not len(rows):
        return target
    asking = np.flatnonzero(events.action != Action.IMPRESSION)
    asked = events.take(asking)
    items = int(max(rows.item.max(), asked.item.max(initial=0))) + 1
    own = _find(rows.request.astype(np.int64) * items + rows.item, asked.request.astype(np.int64) * items + asked.item)
    target[asking] = np.where(asked.request >= 0, own, -1)
    free = np.flatnonzero(target[asking] < 0)
    target[asking[free]] = _latest(asked.take(free), rows, items, window_seconds)
    return target


def _find(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """[w] a place where `keys` has each wanted key, −1 = nowhere."""
    order = np.argsort(keys, kind="stable")
    place = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    return np.where(keys[place] == wanted, place, -1)


def _latest(asked: Events, rows: Rows, items: int, window_seconds: float) -> NDArray[np.int64]:
    keys = rows.user.astype(np.int64) * items + rows.item
    order = np.lexsort((rows.time, keys))
    keys, shown = keys[order], rows.time[order]
    wanted = asked.user.astype(np.int64) * items + asked.item
    low, high = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
    # The impression may be of the same moment as the event: the first row later than the event, less one.
    last = rank_before(shown, np.nextafter(asked.time, np.inf), low, high) - 1
    found = (last >= low) & (asked.time - shown[np.maximum(last, 0)] <= window_seconds)
    return np.where(found, order[np.maximum(last, 0)], -1)


def label_columns(
    events: Events, target: NDArray[np.int64], size: int, names: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """Action name → [size] 1 where an event of that action answers the row, else 0.

    "play": the most seconds, "rate": the most stars; 0 where there is none, or it is unknown.
    """
    labels = {}
    answered = np.flatnonzero(target >= 0)
    action, row, value = events.action[answered], target[answered], events.value[answered]
    for name in names:
        chosen = action == ACTION_CODE[name]
        label = np.zeros(size, np.float32)
        np.maximum.at(label, row[chosen], value[chosen] if name in VALUED else np.float32(1))
        labels[name] = label
    return labels


def rank_before(
    times: NDArray[np.float64], moments: NDArray[np.float64], low: NDArray[np.int64], high: NDArray[np.int64]
) -> NDArray[np.int64]:
    """[q] the first place in low : high whose time is not before the moment, or `high`: one bisection for all at once.

    times: ascending inside each slice.
    """
    low, high = low.astype(np.int64, copy=True), high.astype(np.int64, copy=True)
    while (open_ := np.flatnonzero(low < high)).size:
        middle = (low[open_] + high[open_]) >> 1
        earlier = times[middle] < moments[open_]
        low[open_[earlier]] = middle[earlier] + 1
        high[open_[~earlier]] = middle[~earlier]
    return low
