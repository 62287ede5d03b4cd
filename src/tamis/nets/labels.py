"""Which heads the training rows can teach, and which rows teach which of them. Needs no torch.

A label is 0 or 1, or for `AMOUNTS` a number: seconds from 0 on, or a share inside [0, 1]. Labels of `WATCH_HEADS` are
NaN where a row says nothing about the head.

The click mask. The course's loss adds the terms of all heads on every row, but its like rate is #like / #click. A head
that is to be that rate must not learn from rows without a click, which would teach it #like / #impression. So the term
of a head per click counts only where the click label is 1, and an unclicked row moves neither the head nor, through it,
what the heads share. The fusion `click_times_sum` multiplies such heads by p_click.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tamis.data.samples import Samples
from tamis.errors import DataError
from tamis.types import WATCH_HEADS

PLAY: Final = "play"
SHOWN: Final = "shown"  # 1 for a row that was shown, 0 for one drawn from the catalogue; see draws.with_unshown
AMOUNTS: Final = (PLAY, "completion", "play_quantile")  # heads of numbers; all others are of probabilities
TAUGHT: Final = "taught."  # before a head's name: log-odds that a teacher gives its rows
AFTER_CLICK: Final = ("like", "collect", "share", "comment", "follow")
GATED_SHARE: Final = 0.99  # of a head's positives that were clicked, from which on the click counts as its gate


def unlearnable(heads: Sequence[str], samples: Samples) -> dict[str, str]:
    """Heads that the rows have nothing to teach, with the reason: no label, never positive, always positive.

    Raises DataError for a label outside its range; see `check_labels`.
    """
    reasons = {}
    for head in heads:
        label = samples.labels.get(head)
        if label is None and head in WATCH_HEADS:
            reasons[head] = "no row was played that is of an item with a duration"
        elif label is None or not len(label):
            reasons[head] = f"no label; the rows have {sorted(samples.labels)}"
        elif not (label > 0).any():
            reasons[head] = f"no row of {len(label)} has it"
        elif head not in AMOUNTS and (label[~np.isnan(label)] > 0).all():
            reasons[head] = f"every row of {int((~np.isnan(label)).sum())} has it"
    check_labels(heads, samples)
    return reasons


def check_labels(heads: Sequence[str], samples: Samples) -> None:
    """Raises DataError naming head, row and value of the first label outside its range.

    That is: seconds that are negative or not finite; shares outside [0, 1]; any other label that is neither 0 nor 1.
    """
    for head in heads:
        label = samples.labels.get(head)
        if label is None:
            continue
        if head == PLAY:
            good, wanted = np.isfinite(label) & (label >= 0), "seconds of at least 0"
        elif head in AMOUNTS:
            good, wanted = ((label >= 0) & (label <= 1)) | np.isnan(label), "a share from 0 to 1"
        else:
            good, wanted = (label == 0) | (label == 1), "0 or 1"
            if head in WATCH_HEADS:
                good |= np.isnan(label)
        if not good.all():
            row = int(np.argmin(good))
            raise DataError(f"label of head {head!r}, row {row} of {len(label)}: {label[row]:g}, wanted {wanted}")


def taught(head: str, per_click: Sequence[str] | frozenset[str], samples: Samples) -> NDArray[np.bool_]:
    """[n] True for the rows that a head learns from: those with a label, and if it is per click the clicked ones."""
    rows = ~np.isnan(samples.labels[head])
    return rows & (samples.labels["click"] > 0) if head in per_click else rows


def per_click_heads(mode: str, heads: Sequence[str], samples: Samples) -> tuple[str, ...]:
    """Heads trained on clicked rows only, so that they are rates per click: #like / #click.

    Only heads that come after a click by their nature (`AFTER_CLICK`), and only if the rows know clicks. "auto" asks
    the data: a head whose positives were nearly all clicked is gated by the click; one that often occurs without a
    click (an autoplay feed) is a rate per impression and learns from every row. A head with no unclicked positive but
    all clicked rows positive teaches nothing per click and stays per impression.
    """
    click = samples.labels.get("click")
    if mode == "never" or click is None or not (click > 0).any():
        return ()
    clicked = click > 0
    chosen = []
    for head in heads:
        if head in AFTER_CLICK:
            positive = samples.labels[head] > 0
            gated = mode == "always" or clicked[positive].mean() >= GATED_SHARE
            if gated and positive[clicked].any() and not positive[clicked].all():
                chosen.append(head)
    return tuple(chosen)
