"""How often a feature says something: a report of what the training rows really hold."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tamis.features.arrange import is_code
from tamis.features.batch import NetBatch
from tamis.features.encode import Encoder
from tamis.features.inputs import Inputs
from tamis.features.layout import Layout
from tamis.features.spec import Age, FeatureConfig, Side, Statistic, Vector

Coverage = dict[str, dict[str, float]]
"""Feature → its numbers by name; see `coverage`."""
SIDES: Final[tuple[Side, ...]] = ("user", "context", "item")
_REQUESTS: Final = 20_000  # enough to tell 1 % from 2 %


def coverage(inputs: Inputs) -> Coverage:
    """ "side.name" of each feature, and "history" → its coverage and distinct values in the training rows.

    coverage: share of the rows in which it has a value that is known, of requests for what all their candidates have in
    common, else of candidates. A statistic has one where something was counted, the history where it has an entry.
    distinct: different values among them; of the history the mean number of entries.
    {} without training rows. Of many requests some are taken, evenly over time.
    """
    samples = inputs.train
    requests = np.flatnonzero(np.diff(samples.first)) if samples is not None else np.empty(0, np.int64)
    if not len(requests):
        return {}
    batch = inputs.batch(samples, requests[:: -(-len(requests) // _REQUESTS)])
    return {name: {"coverage": share, "distinct": many} for name, share, many in _rows(inputs.encoder, batch)}


def seldom(rows: Coverage, least: float) -> dict[str, float]:
    """Feature → coverage of those that have less than `least`."""
    return {name: row["coverage"] for name, row in rows.items() if row["coverage"] < least}


def _rows(encoder: Encoder, batch: NetBatch) -> Iterator[tuple[str, float, float]]:
    absent = {
        name: value
        for group in (encoder.live, *encoder.groups.values())
        for name, value in group.named(group.absent(encoder.learnt.totals)[None]).items()
    }
    for side in SIDES:
        for name, feature in getattr(encoder.learnt.config, side).items():
            values, there = _column(encoder.layout, batch, (side, name, feature), absent)
            known = np.ascontiguousarray(values[there])
            distinct = len(np.unique(known.view(f"V{known.itemsize * known.shape[1]}"))) if known.size else 0
            yield f"{side}.{name}", float(there.mean()), float(distinct)
    entries = (batch.history_codes[:, :, 0] != 0).sum(axis=1)
    yield "history", float((entries > 0).mean()), float(entries.mean())


def _column(
    layout: Layout, batch: NetBatch, named: tuple[Side, str, FeatureConfig], absent: Mapping[str, NDArray[np.float32]]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """([n, width] what nets read of a feature, [n] True where that is a known value)."""
    side, name, feature = named
    codes, dense = (batch.item_codes, batch.item_dense) if side == "item" else (batch.user_codes, batch.user_dense)
    if is_code(feature):
        field = layout.field(f"{side}.{name}")
        return codes[:, field.start : field.start + field.width], np.asarray(codes[:, field.start] != field.offset)
    if isinstance(feature, Vector):
        vector = dense[:, [at for at, column in enumerate(layout.item_dense) if column.startswith(f"{name}.")]]
        return vector, np.asarray(vector.any(axis=1))
    names = layout.item_dense if side == "item" else layout.user_dense
    if isinstance(feature, Statistic | Age) and not (side == "user" and name in layout.user_statistics):
        names, dense = layout.item_dynamic, batch.item_dynamic
        name = f"user.{name}" if side == "user" else name
    every = [at for at, column in enumerate(names) if column == name]
    at = every[-1] if side == "context" else every[0]  # numbers of the context stand behind the user's
    values = dense[:, at : at + 1]
    if isinstance(feature, Statistic):
        return values, np.asarray(dense[:, at] != absent[f"{side}.{named[1]}"])
    return values, np.asarray(dense[:, at + 1] == 0)  # the number behind says what is missing
