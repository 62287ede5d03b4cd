"""Two views of an item that each hide a part of its features, for the self-supervised task of the item tower.

    random         each field is hidden with probability `share`, in each view anew; one always stays
    dropout        of a field with several values, the share `share` of them is dropped; the others stay whole
    complementary  the fields are dealt in two halves, each view keeps one
    correlated     a field drawn at random and those that tell most about it are hidden in one view, the rest in the
                   other: what goes together is on one side, so that a view cannot be guessed from the other

A hidden field has its code for "unknown", the default of every field. What is hidden is drawn once for a whole batch,
dropped values for every item. Numbers (and content vectors) have their mean in both views: an item's exact duration
would give away which two views belong together. How much two fields tell about each other is their mutual information
over the catalogue, MI = Σ p(u, v)·log( p(u, v) / (p(u)·p(v)) ). Of k fields ⌈k/2⌉ are hidden with the drawn one among
them, so that both views always keep something (the paper's ⌊k/2⌋ beside it would leave nothing of two).
(Yao et al., "Self-supervised learning for large-scale item recommendations", CIKM 2021.)
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tamis.data.picks import spaced
from tamis.errors import ConfigError
from tamis.features.layout import Field
from tamis.nets.tower_plan import ViewsPlan

_MOST_ITEMS: Final = 100_000  # looked at for the mutual information


class Views:
    """Draws views; called by one thread at a time. The same seed gives the same views in the same order."""

    def __init__(self, fields: Sequence[Field], plan: ViewsPlan, catalog: NDArray[np.int32], seed: int) -> None:
        """catalog: [i, c] codes of the items that mutual information is measured on.

        Raises ConfigError when the items have too few fields for the way of hiding.
        """
        self._fields, self._plan = tuple(fields), plan
        self._random = np.random.default_rng(seed)
        if plan.mask == "dropout" and all(field.width == 1 for field in fields):
            raise ConfigError("self_supervised.mask 'dropout': wanted an item feature with several values (tags)")
        if plan.mask in ("complementary", "correlated") and len(fields) < 2:
            raise ConfigError(f"self_supervised.mask {plan.mask!r}: wanted at least two item features with codes")
        self._nearest = _nearest(self._fields, catalog) if plan.mask == "correlated" else None

    @property
    def streams(self) -> list[np.random.Generator]:
        """What it draws from."""
        return [self._random]

    def of(self, codes: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Two views [m, c] of the codes [m, c] of some items."""
        if self._plan.mask == "dropout":
            return self._dropped(codes), self._dropped(codes)
        one, other = self._hidden()
        return self._without(codes, one), self._without(codes, other)

    def _hidden(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The fields that either view hides."""
        count = len(self._fields)
        if self._plan.mask == "random":
            return self._some(), self._some()
        if self._nearest is not None:
            order = self._nearest[self._random.integers(count)]
        else:
            order = self._random.permutation(count)
        half = (count + 1) // 2
        return order[:half], order[half:]

    def _some(self) -> NDArray[np.int64]:
        draw = self._random.random(len(self._fields))
        hidden = draw < self._plan.share
        hidden[np.argmax(draw)] = False
        return np.flatnonzero(hidden)

    def _without(self, codes: NDArray[np.int32], hidden: NDArray[np.int64]) -> NDArray[np.int32]:
        out = codes.copy()
        for field in (self._fields[place] for place in hidden.tolist()):
            out[:, field.start : field.start + field.width] = 0
            out[:, field.start] = field.offset
        return out

    def _dropped(self, codes: NDArray[np.int32]) -> NDArray[np.int32]:
        """The codes with as many values of each list gone as `share` says, rounded at random; one always stays."""
        out = codes.copy()
        for field in (field for field in self._fields if field.width > 1):
            values = out[:, field.start : field.start + field.width]
            there = values != 0
            wanted = there.sum(axis=1) * (1.0 - self._plan.share) + self._random.random(len(values))
            order = np.argsort(np.where(there, self._random.random(values.shape), 2.0), axis=1)
            place = np.empty_like(order)
            np.put_along_axis(place, order, np.arange(field.width)[None], axis=1)
            values[place >= np.maximum(1, wanted.astype(np.int64))[:, None]] = 0
        return out


def _nearest(fields: Sequence[Field], catalog: NDArray[np.int32]) -> NDArray[np.int64]:
    """[k, k] for each field itself and then the others, those that tell most about it first."""
    catalog = spaced(catalog, _MOST_ITEMS)
    columns = [catalog[:, field.start : field.start + field.width] for field in fields]
    told = np.full((len(fields), len(fields)), np.inf)
    for one in range(len(fields)):
        for other in range(one):
            told[one, other] = told[other, one] = mutual_information(columns[one], columns[other])
    return np.argsort(-told, axis=1, kind="stable")


def mutual_information(one: NDArray[np.int32], other: NDArray[np.int32]) -> float:
    """What two fields of the same items tell about each other, in nats; never below 0.

    one, other: [i, width] codes, 0 = no value. An item with several values counts as a share of an item for each.
    """
    if not len(one):
        return 0.0
    span = int(other.max()) + 1
    pairs = one[:, :, None].astype(np.int64) * span + other[:, None, :]
    weight = np.where((one != 0)[:, :, None] & (other != 0)[:, None, :], 1.0, 0.0)
    weight /= np.maximum(1.0, weight.sum(axis=(1, 2), keepdims=True))
    found, place = np.unique(pairs.ravel(), return_inverse=True)
    joint = np.bincount(place, weight.ravel())
    kept = joint > 0
    found, joint = found[kept], joint[kept] / max(joint.sum(), 1e-300)
    left, right = (np.unique(values, return_inverse=True)[1] for values in (found // span, found % span))
    apart = np.bincount(left, joint)[left] * np.bincount(right, joint)[right]
    return max(0.0, float((joint * np.log(joint / apart)).sum()))
