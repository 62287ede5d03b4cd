"""The encoder's door for the server: one user at one moment, items as they were put."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tamis.errors import RequestError
from tamis.features.encode import Encoder
from tamis.features.fields import problem
from tamis.features.groups import ITEM, key_of
from tamis.features.raw import columns_of
from tamis.features.spec import FeatureConfig, Side
from tamis.features.tables import NOTHING, Tables
from tamis.state.protocol import ItemRow
from tamis.types import Features

_ALONE: Final = np.zeros(1, np.int64)  # the candidate's key of what is the same for all


def check_values(encoder: Encoder, side: Side, values: Mapping[str, Any]) -> None:
    """Raises RequestError, naming the field, for the first value that a feature of that side cannot be made of.

    values: by column, as a caller sent them; those that no feature is made of may be anything.
    """
    features: Mapping[str, FeatureConfig] = getattr(encoder.learnt.config, side)
    where = "context." if side == "context" else ""
    for feature in features.values():
        for column in columns_of(feature):
            if column in values and (wrong := problem(feature, values[column])):
                raise RequestError(f"{where}{column}: {wrong}", where + column)


def query_features(
    encoder: Encoder,
    user: int,
    profile: Mapping[str, Any],
    counts: NDArray[Any],
    moment: tuple[float, str, Mapping[str, Any]],
    tables: Tables = NOTHING,
) -> Features:
    """The user side of one request, codes [1, c] and dense [1, d]; the same bytes as a training row of that moment.

    user: number in the bundle, −1 unknown.   counts: [len(ACTIONS)] the user's events so far.
    moment: seconds since the epoch, scene, and what the caller said of the context.
    tables: the statistics of the bundle, as of the end of its training.
    """
    now, scene, context = moment
    static = encoder.users(np.array([user]), {name: [value] for name, value in profile.items()})
    here = encoder.context(np.array([now]), [scene], {name: [value] for name, value in context.items()})
    codes = np.concatenate([static.codes, here.codes], axis=1)

    def column(source: str) -> NDArray[np.int64 | np.int32]:
        return np.array([user]) if source == "user" else codes[:, encoder.layout.field(source).start]

    rows = encoder.live.values({0.0: np.asarray(counts, np.float32)[None, :]}, encoder.learnt.totals)
    statistics = encoder.live.named(rows)
    lookups = {}
    for name, group in encoder.groups.items():
        if name == ITEM:
            continue
        request = int(key_of(group.request, encoder.layout, column, 1)[0])
        lookup = tables.slice(name, request, encoder.absent[name])
        if group.candidate:
            lookups[name] = lookup
        else:
            statistics.update(group.named(lookup.find(_ALONE)))
    side = encoder.user_side(static, statistics, here)
    return Features(side.codes, side.dense, lookups)


def item_rows(encoder: Encoder, rows: Sequence[ItemRow]) -> dict[str, NDArray[Any]]:
    """The catalogue's columns for freshly put items: no number of their own, no events yet."""
    plain = [{**row.extra, **msgspec.structs.asdict(row)} for row in rows]
    names = sorted({name for row in plain for name in row})
    raw = {name: [row.get(name) for row in plain] for name in names}
    return encoder.items(np.full(len(rows), -1), raw)
