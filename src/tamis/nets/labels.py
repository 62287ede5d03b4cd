"""Which heads the training rows can teach, and which rows teach which of them. Needs no torch.

A label is 0 or 1, or for `AMOUNTS` a number: seconds from 0 on, or a share inside [0, 1]. Labels of `WATCH_HEADS` are
NaN where a row says nothing about the head.

The click mask. The course's loss adds the terms of all heads on every row, but its like rate is #like / #click. A head
that is to be that rate must not learn from rows without a click, which would teach it #like / #impression. So the term
of a head per click counts only where the click label is 1, and an unclicked row moves neither the head nor, through it,
what the heads share. The fusion `click_times_sum` multiplies such heads by p_click.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tamis.data.samples import Samples
from tamis.errors import DataError
from tamis.types import WATCH_HEADS

PLAY: Final = "play"
AMOUNTS: Final = (PLAY, "completion", "play_quantile")  # heads of numbers; all others are of probabilities
TAUGHT: Final = "taught."  # before a head's name: log-odds that a teacher gives its rows
AFTER_CLICK: Final = ("like", "collect", "share", "comment", "follow")
GATED_SHARE: Final = 0.99  # of a head's positives that were clicked, from which on the click counts as its gate


def unlearnable(heads: Sequence[str], samples: Samples) -> dict[str, str]:
    """Heads that the rows have nothing to teach, with the reason: no label, never positive, always positive.

    Raises DataError for a label outside its range; see `check_labels`.
    """
    known, positive = dict.fromkeys(heads, 0), dict.fromkeys(heads, 0)
    for labels in samples.label_pieces():
        for head in set(heads) & set(labels):
            known[head] += int((~np.isnan(labels[head])).sum())
            positive[head] += int((labels[head] > 0).sum())
    reasons = {}
    for head in heads:
        rows = len(samples.labels.get(head, ()))
        if head not in samples.labels and head in WATCH_HEADS:
            reasons[head] = "no row was played that is of an item with a duration"
        elif not rows:
            reasons[head] = f"no label; the rows have {sorted(samples.labels)}"
        elif not positive[head]:
            reasons[head] = f"no row of {rows} has it"
        elif head not in AMOUNTS and positive[head] == known[head]:
            reasons[head] = f"every row of {known[head]} has it"
    check_labels(heads, samples)
    return reasons


def nothing_in(dropped: Mapping[str, str]) -> str:
    """What `unlearnable` found of all heads, as an error says it."""
    reasons = "; ".join(f"{head}: {reason}" for head, reason in dropped.items())
    wanted = "wanted rows that have it and rows that do not (impressions, or more users and items)"
    return f"nothing to learn from in the training rows: {reasons}; {wanted}"


def check_labels(heads: Sequence[str], samples: Samples) -> None:
    """Raises DataError naming head, row and value of the first label outside its range.

    That is: seconds that are negative or not finite; shares outside [0, 1]; any other label that is neither 0 nor 1.
    """
    before = dict.fromkeys(heads, 0)
    for labels in samples.label_pieces():
        for head in heads:
            label = labels.get(head)
            if label is None:
                continue
            good, wanted = _in_range(head, label)
            if not good.all():
                row = int(np.argmin(good))
                where = f"row {before[head] + row} of {len(samples.labels[head])}"
                raise DataError(f"label of head {head!r}, {where}: {label[row]:g}, wanted {wanted}")
            before[head] += len(label)


def _in_range(head: str, label: NDArray[np.float32]) -> tuple[NDArray[np.bool_], str]:
    """[n] True for a label that may be, and what that is."""
    if head == PLAY:
        return np.isfinite(label) & (label >= 0), "seconds of at least 0"
    if head in AMOUNTS:
        return ((label >= 0) & (label <= 1)) | np.isnan(label), "a share from 0 to 1"
    good = (label == 0) | (label == 1)
    return good | np.isnan(label) if head in WATCH_HEADS else good, "0 or 1"


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
    if mode == "never" or "click" not in samples.labels:
        return ()
    after = [head for head in heads if head in AFTER_CLICK]
    clicks, positives, clicked = 0, dict.fromkeys(after, 0), dict.fromkeys(after, 0)
    for labels in samples.label_pieces():
        click = labels["click"] > 0
        clicks += int(click.sum())
        for head in after:
            positive = labels[head] > 0
            positives[head] += int(positive.sum())
            clicked[head] += int((positive & click).sum())
    chosen = []
    for head in after:
        gated = mode == "always" or clicked[head] / max(1, positives[head]) >= GATED_SHARE
        if gated and 0 < clicked[head] < clicks:
            chosen.append(head)
    return tuple(chosen)
