"""Who is whose negative: the positives of a batch, the items drawn beside them, and the pairs that must not count.

For recall a negative is an item the user was never shown. The other positives of the batch and some items drawn from
the catalogue serve as negatives; every pair that the user saw (clicked or not) is masked, and so is every item that was
not there yet at the time of the request. An item that was shown but not clicked had already passed the whole funnel: it
tells the ranking nets something, recall nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.data.known import KnownPairs, Pairs
from tamis.data.on_disk import OnDisk, in_ranges
from tamis.data.picks import ranges
from tamis.data.samples import Samples
from tamis.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Draw:
    """A batch of p positives of r requests against u distinct items.

    log_frequency: log of the share that each item has in the draws the batch was made by, positives and extra ones.
    log_times: log of how often it was drawn in this batch; a negative that came twice counts twice; −inf for an item
    that is there only as somebody's hard negative.
    """

    items: NDArray[np.int64]  # [u] distinct, ascending
    row: NDArray[np.int64]  # [p] of each positive in the samples
    request_of: NDArray[np.int64]  # [p] position of each positive's request in the batch
    column_of: NDArray[np.int64]  # [p] position of each positive's item in `items`
    log_frequency: NDArray[np.float32]  # [u]
    log_times: NDArray[np.float32]  # [u]
    known: NDArray[np.bool_]  # [r, u] True: the user saw the item, or it was not there yet: no negative
    hard: NDArray[np.int64]  # [r, h] columns of the request's hard negatives, −1 = none; never one that is known


def acted_rows(samples: Samples, actions: Sequence[str]) -> NDArray[np.int64]:
    """[p] the rows that carry one of the actions, ascending. Raises ConfigError when the data knows none of them."""
    there = [name for name in actions if name in samples.labels]
    if not there and len(samples.item):
        raise ConfigError(f"positives {list(actions)}: the training rows only have {sorted(samples.labels)}")
    rows, before = [np.empty(0, np.int64)], 0
    for labels in samples.label_pieces() if there else ():
        acted = np.any([labels[name] > 0 for name in there], axis=0)
        rows.append(before + np.flatnonzero(acted))
        before += len(acted)
    return np.concatenate(rows)


def draw_probabilities(counts: NDArray[np.int64], exponent: float) -> NDArray[np.float64]:
    """[i] q ∝ (count + 1)^exponent, which sums to 1. The course has count^0.75, where unclicked items never come up."""
    weights = (counts + 1.0) ** exponent
    return np.asarray(weights / max(weights.sum(), 1e-300))


class Drawer:
    """Makes batches of a set of samples; the same seed gives the same batches in the same order."""

    def __init__(
        self,
        samples: Samples,
        positive: NDArray[np.int64],
        since: NDArray[np.float64],
        extra: tuple[int, float],
        seed: int,
    ) -> None:
        """positive: [p] rows, ascending.   since: [i] when each item came to be there.

        extra: items drawn besides each batch's own, and the exponent of `draw_probabilities`.
        """
        self.samples = samples
        self.since = since
        items = len(since)
        self.rows = positive
        self.starts = np.searchsorted(self.rows, samples.first)  # [r + 1] positives of request j are starts[j:j + 2]
        self._there = np.flatnonzero(since <= np.asarray(samples.time).max(initial=-np.inf))
        self.extra, exponent = extra if len(self._there) else (0, 0.0)
        counts = np.bincount(samples.item[self.rows], minlength=items)
        self._positive_share = counts / max(1, counts.sum())
        self._extra_share = np.zeros(items)
        self._extra_share[self._there] = draw_probabilities(counts[self._there], exponent)
        self._cumulative = np.cumsum(self._extra_share[self._there])
        self._known = known_pairs(samples, items)
        self._column = np.full(items, -1, np.int64)
        self._random = np.random.default_rng(seed)

    @property
    def streams(self) -> list[np.random.Generator]:
        """What it draws from."""
        return [self._random]

    @property
    def per_request(self) -> NDArray[np.int64]:
        """[r] positives of each request."""
        return np.diff(self.starts)

    def positives(self, requests: NDArray[np.int64]) -> NDArray[np.int64]:
        """[p] the rows of all positives of these requests, request by request."""
        counts = self.per_request[requests]
        return np.asarray(self.rows[ranges(self.starts[requests], counts)])

    def wanted(self, requests: NDArray[np.int64]) -> NDArray[np.int64]:
        """[p] their items."""
        return np.asarray(self.samples.item[self.positives(requests)], np.int64)

    def draw(self, requests: NDArray[np.int64], hard: NDArray[np.int64] | None = None) -> Draw:
        """The batch of all positives of these requests. hard: [r, h] items of their own, −1 = none."""
        hard = np.empty((len(requests), 0), np.int64) if hard is None else hard
        request_of = np.repeat(np.arange(len(requests)), self.per_request[requests])
        wanted = self.wanted(requests)
        drawn = np.searchsorted(self._cumulative, self._random.random(self.extra), "right")
        drawn = self._there[np.minimum(drawn, len(self._there) - 1)]  # rounding may leave the last sum a hair under 1
        easy = len(wanted) + self.extra
        items, place = np.unique(np.concatenate([wanted, drawn, hard[hard >= 0]]), return_inverse=True)
        times = np.bincount(place[:easy], minlength=len(items))
        columns = np.full(hard.shape, -1, np.int64)
        columns[hard >= 0] = place[easy:]
        known = self._mask(requests, items)
        columns[known[np.arange(len(requests))[:, None], columns] & (columns >= 0)] = -1
        expected = len(wanted) * self._positive_share[items] + self.extra * self._extra_share[items]
        return Draw(
            items=items,
            row=self.positives(requests),
            request_of=request_of,
            column_of=place[: len(wanted)],
            log_frequency=np.log(np.maximum(expected / max(1, easy), 1e-30)).astype(np.float32),
            log_times=np.where(times > 0, np.log(np.maximum(times, 1)), -np.inf).astype(np.float32),
            known=known,
            hard=columns,
        )

    def _mask(self, requests: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.bool_]:
        self._column[items] = np.arange(len(items))
        mask = self.since[items] > self.samples.time[requests][:, None]
        row, item = self._known.of_users(self.samples.user[requests])
        column = self._column[item]
        mask[row[column >= 0], column[column >= 0]] = True
        self._column[items] = -1
        return mask


def known_pairs(samples: Samples, items: int) -> KnownPairs:
    """All pairs that the samples and the histories behind them hold. Beside the samples where those lie on disk."""
    shown: Any = samples.item
    timeline = samples.timeline
    users = len(timeline.starts) - 1
    if isinstance(shown, OnDisk):
        most = int(np.diff(shown.windows).max(initial=1))
        file = shown.path.with_name(f"{shown.path.name}.known")
        return KnownPairs.on_disk(lambda: _met(samples, most), users, items, (file, most))
    pieces = list(_met(samples, max(1, len(shown), len(timeline.item))))
    user, item = (np.concatenate(columns) for columns in zip(*pieces, strict=True))
    return KnownPairs.of(user, item, max(int(user.max(initial=-1)) + 1, users), items)


def _met(samples: Samples, most: int) -> Pairs:
    """The pairs of about `most` rows at a time."""
    counts = np.diff(samples.first)
    end = -np.inf
    for first, last in in_ranges(counts, most):
        rows = slice(int(samples.first[first]), int(samples.first[last]))
        end = max(end, float(samples.time[first:last].max(initial=-np.inf)))
        yield np.repeat(samples.user[first:last], counts[first:last]), samples.item[rows]
    timeline = samples.timeline
    for start in range(0, len(timeline.item), most):
        part = slice(start, start + most)
        past = timeline.time[part] < end  # what came later must not shape the training
        owner = np.searchsorted(timeline.starts, np.arange(*part.indices(len(timeline.item))), "right") - 1
        yield owner[past], timeline.item[part][past]
    gone_user, gone_item = samples.before
    for start in range(0, len(gone_user), most):
        yield gone_user[start : start + most], gone_item[start : start + most]
