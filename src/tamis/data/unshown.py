"""Rows that nobody was shown: items drawn from the catalogue into each request, for a net to tell shown ones apart."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tamis.data.samples import Samples

SHOWN: Final = "shown"
"""Label of such samples: 1 for a row that was shown, 0 for one that was drawn."""
_ROUNDS: Final = 30  # of drawing again what was shown


def with_unshown(samples: Samples, since: NDArray[np.float64], count: int, seed: int | Sequence[int]) -> Samples:
    """The samples with `count` more rows in each request: items that it did not show, drawn evenly from the catalogue.

    Label "shown" is 1 for the rows that were there, 0 for the new ones; all other labels of those are 0. Only items
    that were there by the time of the request are drawn (since: [i] seconds, inf = never), so that being new is no sign
    of not being shown; a request before the first of them gets any that was there by the last request. One that showed
    all of them, or nearly, gets fewer.
    """
    owner, drawn = _unshown(samples, since, count, np.random.default_rng(seed))
    counts, added = np.diff(samples.first), np.bincount(owner, minlength=len(samples))
    first = np.append(0, np.cumsum(counts + added))
    old = np.arange(len(samples.item)) + np.repeat(np.cumsum(added) - added, counts)
    new = np.ones(int(first[-1]), np.bool_)
    new[old] = False
    item, position = np.empty(len(new), np.int32), np.full(len(new), -1, np.int16)
    item[old], item[new], position[old] = samples.item, drawn, samples.position
    labels = {SHOWN: (~new).astype(np.float32)}
    for name, label in samples.labels.items():
        labels[name] = np.zeros(len(new), np.float32)
        labels[name][old] = label
    log_odds = samples.log_odds
    if log_odds is not None:
        log_odds = np.zeros(len(new), np.float32)  # even draws need no correction
        log_odds[old] = samples.log_odds
    spared = samples.spared
    if spared is not None:
        spared = np.zeros(len(new), np.bool_)
        spared[old] = samples.spared
    return replace(samples, first=first, item=item, position=position, labels=labels, log_odds=log_odds, spared=spared)


def _unshown(
    samples: Samples, since: NDArray[np.float64], count: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(the request's place, item) of the rows to add, by request; what was shown there is drawn again, some times."""
    order = np.argsort(since, kind="stable")
    there = np.searchsorted(since[order], samples.time, "right")
    by_the_last = int(np.searchsorted(since[order], samples.time.max(initial=-np.inf), "right"))
    there = np.where(there > 0, there, by_the_last or len(since))
    owner = np.repeat(np.arange(len(samples)), count)
    requests = np.repeat(np.arange(len(samples)), np.diff(samples.first))
    shown = np.sort(requests * len(since) + samples.item)
    drawn, open_rows = np.full(len(owner), -1, np.int64), np.arange(len(owner))
    for _ in range(_ROUNDS if len(shown) else 0):
        if not len(open_rows):
            break
        asking = owner[open_rows]
        item = order[(random.random(len(asking)) * there[asking]).astype(np.int64)]
        pair = asking * len(since) + item
        place = np.minimum(np.searchsorted(shown, pair), len(shown) - 1)
        good = shown[place] != pair
        drawn[open_rows[good]] = item[good]
        open_rows = open_rows[~good]
    return owner[drawn >= 0], drawn[drawn >= 0]
