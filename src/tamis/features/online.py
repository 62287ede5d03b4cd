"""The encoder's door for the server: one user at one moment, items as they were put."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tamis.errors import RequestError
from tamis.features.encode import Encoder
from tamis.features.fields import problem
from tamis.features.spec import FeatureConfig, Side
from tamis.state.protocol import ItemRow
from tamis.types import ACTIONS, Features


def check_values(encoder: Encoder, side: Side, values: Mapping[str, Any]) -> None:
    """Raises RequestError, naming the field, for the first value that a feature of that side cannot be made of.

    values: by column, as a caller sent them; those that no feature is made of may be anything.
    """
    features: Mapping[str, FeatureConfig] = getattr(encoder.learnt.config, side)
    where = "context." if side == "context" else ""
    for feature in features.values():
        column = str(getattr(feature, "column", ""))
        if column in values and (wrong := problem(feature, values[column])):
            raise RequestError(f"{where}{column}: {wrong}", where + column)


def query_features(
    encoder: Encoder,
    user: int,
    profile: Mapping[str, Any],
    counts: NDArray[Any],
    moment: tuple[float, str, Mapping[str, Any]],
) -> Features:
    """The user side of one request, codes [1, c] and dense [1, d]; the same bytes as a training row of that moment.

    user: number in the bundle, −1 unknown.   counts: [len(ACTIONS)] the user's events so far.
    moment: seconds since the epoch, scene, and what the caller said of the context.
    """
    now, scene, context = moment
    static = encoder.users(np.array([user]), {name: [value] for name, value in profile.items()})
    here = encoder.context(np.array([now]), [scene], {name: [value] for name, value in context.items()})
    return encoder.user_side(static, np.asarray(counts)[None, :], here)


def item_rows(encoder: Encoder, rows: Sequence[ItemRow]) -> dict[str, NDArray[Any]]:
    """The catalogue's columns for freshly put items: no number of their own, no events yet."""
    plain = [{**row.extra, **msgspec.structs.asdict(row)} for row in rows]
    names = sorted({name for row in plain for name in row})
    raw = {name: [row.get(name) for row in plain] for name in names}
    return encoder.items(np.full(len(rows), -1), raw, np.zeros((len(rows), len(ACTIONS)), np.float32))
