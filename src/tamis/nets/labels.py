"""Which heads the training rows can teach, and which of them are rates per click. Needs no torch."""

from collections.abc import Sequence
from typing import Final

from tamis.data.samples import Samples

PLAY: Final = "play"
SHOWN: Final = "shown"  # 1 for a row that was shown, 0 for one drawn from the catalogue; see draws.with_unshown
AFTER_CLICK: Final = ("like", "collect", "share", "comment", "follow")
GATED_SHARE: Final = 0.99  # of a head's positives that were clicked, from which on the click counts as its gate


def unlearnable(heads: Sequence[str], samples: Samples) -> dict[str, str]:
    """Heads that the rows have nothing to teach, with the reason: no label, never positive, always positive."""
    reasons = {}
    for head in heads:
        label = samples.labels.get(head)
        if label is None or not len(label):
            reasons[head] = f"no label; the rows have {sorted(samples.labels)}"
        elif not (label > 0).any():
            reasons[head] = f"no row of {len(label)} has it"
        elif head != PLAY and (label > 0).all():
            reasons[head] = f"every row of {len(label)} has it"
    return reasons


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
