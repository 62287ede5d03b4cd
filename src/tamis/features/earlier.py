"""What an earlier full training left behind, for parts that build on it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tamis.errors import ConfigError
from tamis.features.encode import Encoder
from tamis.features.layout import Field, Layout
from tamis.features.spec import Id

STAGES: Final = ("prerank", "rank")
"""The stages that drop what recall found; a `Dropped.stage` is an index into these."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Items that the earlier funnel found for a user and that a stage then cut: liked perhaps, but not enough.

    Those of user u are starts[u] : starts[u + 1]. Whether the user was shown one elsewhere is not looked at here.
    """

    starts: NDArray[np.int64]  # [users + 1]
    item: NDArray[np.int64]  # [n] numbers of the data set at hand
    stage: NDArray[np.int8]  # [n]


@dataclass(frozen=True)
class Earlier:
    """The last full bundle, as one part sees it.

    bundle: its name.   folder: of the part's own artifact.   encoder: that its nets read by.
    begin: whether nets are to begin with the weights they had there.
    dropped: runs the bundle's funnel over training requests, which takes its time; the result is kept.
    """

    bundle: str
    folder: Path
    encoder: Encoder
    begin: bool
    dropped: Callable[[], Dropped]


def carried_rows(old: Encoder, new: Encoder) -> NDArray[np.int64]:
    """[new table's rows] the row of the old fused table that means the same, −1 for what the old one did not know.

    Raises ConfigError when the features are declared differently.
    """
    if old.learnt.config != new.learnt.config:
        raise ConfigError("[features] differ from those of the last full bundle; train without its weights (--warm)")
    rows = np.full(new.layout.table_size, -1, np.int64)
    rows[0] = 0
    before = _fields(old.layout)
    for name, field in _fields(new.layout).items():
        codes = _same_codes(name, (before[name], field), (old, new))
        rows[field.offset + np.arange(len(codes))] = np.where(codes >= 0, before[name].offset + codes, -1)
    return rows


def _fields(layout: Layout) -> dict[str, Field]:
    own = [field for field in layout.user_fields if not field.name.startswith("history.")]  # those are the items' rows
    every = (*own, *layout.item_fields, layout.history_action, layout.history_age)
    return {field.name: field for field in every}


def _same_codes(name: str, fields: tuple[Field, Field], encoders: tuple[Encoder, Encoder]) -> NDArray[np.int64]:
    """[new field's size] the old code of each new code of a field, both from 0 = unknown; −1 = there was none."""
    side, _, feature = name.partition(".")
    before, after = fields
    declared = getattr(encoders[1].learnt.config, side, {})
    if isinstance(declared, dict) and isinstance(declared.get(feature), Id):
        old, new = (getattr(encoder, f"{side}_code") for encoder in encoders)
        codes = np.full(after.size, -1, np.int64)
        both = min(len(old), len(new)) - 1  # the last one is for numbers that are not known
        known = (new[:both] > after.offset) & (old[:both] > before.offset)
        codes[new[:both][known] - after.offset] = old[:both][known] - before.offset
        codes[0] = 0
        return codes
    words, were = (
        getattr(encoder.learnt, side)[feature].words if side != "history" else () for encoder in reversed(encoders)
    )
    if words:
        place = {word: code for code, word in enumerate(were, 1)}
        return np.array([0, *(place.get(word, -1) for word in words)], np.int64)
    codes = np.arange(after.size)
    return np.where(codes < before.size, codes, -1)
