"""One encoder per declared feature: raw values in, codes or numbers out. The same object works offline and online."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tamis.config import Config
from tamis.features.spec import Age, Bucket, Category, FeatureConfig, Geohash, Hash, Number, Tags, Vector

FARTHEST: Final = 20.0  # deviations: beyond it a value is an error of the data more often than news
Values = Sequence[Any]
"""Raw values of one column; None, NaN and "" are missing."""


def text(value: Any) -> str:
    """A raw value as vocabulary text: 3, 3.0 and "3" are one value; missing is ""."""
    if value is None:
        return ""
    if isinstance(value, float):
        if value != value:
            return ""
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, bool):
        return str(int(value))
    return str(value)


def number(value: Any) -> float:
    """A raw value as a float; NaN when it is missing, not a number, or too large for a float."""
    try:
        return float(value) if value is not None and value != "" else float("nan")
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def words(value: Any) -> Values:
    """A raw value as a list of words; one that is no list is its only word, missing is ()."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) or not isinstance(value, Iterable) else list(value)


def numbers(values: Values) -> NDArray[np.float64]:
    """[n] `number` of each value."""
    return np.fromiter((number(value) for value in values), np.float64, len(values))


class Learned(Config, frozen=True):
    """What a feature learnt from the training data; only the members its kind needs are filled.

    words: vocabulary, index i has code i + 1.   edges: ascending bucket borders.   mean, deviation: of a number.
    """

    words: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0


def problem(feature: FeatureConfig, value: Any) -> str:
    """What is wrong with a raw value that a caller sent for a feature; "" when it can be used, or says nothing."""
    many = isinstance(value, list | tuple)
    if value is None or (many and not value):
        return ""
    if isinstance(feature, Tags):
        return "" if many else f"got {_shown(value)}, wanted a list of values"
    if isinstance(feature, Vector):
        fine = many and all(isinstance(part, int | float) and math.isfinite(number(part)) for part in value)
        return "" if fine else f"got {_shown(value)}, wanted a list of numbers"
    if isinstance(feature, Number | Bucket | Age | Geohash):
        fine = value == "" or (not many and math.isfinite(number(value)))
        return "" if fine else f"got {_shown(value)}, wanted a number"
    return f"got {_shown(value)}, wanted one value" if many else ""


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) > 10**18:
        return "a whole number of more than 18 digits"
    return repr(value)[:40]


def learn(feature: FeatureConfig, values: Values) -> Learned:
    """What `feature` has to remember of the training values."""
    if isinstance(feature, Category):
        return Learned(words=_vocabulary((text(v) for v in values), feature.min_count, feature.most))
    if isinstance(feature, Tags):
        flat = (text(word) for row in values for word in words(row))
        return Learned(words=_vocabulary(flat, feature.min_count, feature.most))
    if isinstance(feature, Bucket):
        return Learned(edges=feature.edges or _quantiles(numbers(values), feature.count))
    if isinstance(feature, Number):
        finite = _shaped(feature, numbers(values))
        finite = finite[np.isfinite(finite)]
        if not len(finite):
            return Learned()
        return Learned(mean=float(finite.mean()), deviation=float(finite.std()) or 1.0)
    return Learned()


def size(feature: FeatureConfig, learned: Learned) -> int:
    """Rows of the fused table that a categorical feature needs, "unknown" included."""
    if isinstance(feature, Hash):
        return feature.buckets + 1
    if isinstance(feature, Bucket):
        return len(learned.edges) + 2
    return len(learned.words) + 1


class Codes:
    """Encodes one categorical feature into codes [n, width]; 0 + offset is unknown, plain 0 is padding (tags)."""

    def __init__(self, feature: FeatureConfig, learned: Learned, offset: int) -> None:
        self.feature = feature
        self.offset = offset
        self.edges = np.asarray(learned.edges, np.float64)
        self.index = {word: code for code, word in enumerate(learned.words, 1)}

    def encode(self, values: Values) -> NDArray[np.int32]:
        """[n, width] codes into the fused table."""
        feature, offset = self.feature, self.offset
        if isinstance(feature, Tags):
            return self._tags(values, feature.width)
        if isinstance(feature, Bucket):
            raw = numbers(values)
            local = np.where(np.isfinite(raw), np.searchsorted(self.edges, raw, "right") + 1, 0)
        elif isinstance(feature, Hash):
            local = np.fromiter((_hash(text(v), feature.buckets) for v in values), np.int64, len(values))
        else:
            find = self.index.get
            local = np.fromiter((find(text(v), 0) for v in values), np.int64, len(values))
        return (local + offset).astype(np.int32)[:, None]

    def _tags(self, values: Values, width: int) -> NDArray[np.int32]:
        out = np.zeros((len(values), width), np.int32)
        find, offset = self.index.get, self.offset
        for row, value in enumerate(values):
            known = [code for word in words(value) if (code := find(text(word)))][:width]
            if known:
                out[row, : len(known)] = known
                out[row, : len(known)] += offset
            else:
                out[row, 0] = offset
        return out


def encode_number(feature: Number, learned: Learned, values: Values) -> NDArray[np.float32]:
    """[n, 2] standardised and cut at 20 deviations to either side; 1 where missing or not finite, then 0, the mean."""
    raw = (_shaped(feature, numbers(values)) - learned.mean) / learned.deviation
    known = np.isfinite(raw)
    shown = np.where(known, np.clip(raw, -FARTHEST, FARTHEST), 0.0)
    return np.stack([shown, ~known], axis=1).astype(np.float32)


def _shaped(feature: Number, raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n] clipped and log1p-ed as told; NaN for what is missing or infinite, which no bound makes a number of."""
    clipped = np.clip(np.where(np.isfinite(raw), raw, np.nan), feature.lowest, feature.highest)
    return np.log1p(np.maximum(clipped, 0.0)) if feature.log1p else clipped


def _vocabulary(words: Any, min_count: int, most: int) -> tuple[str, ...]:
    """The words by falling count, ties by the word itself."""
    counts = Counter(words)
    counts.pop("", None)
    kept = sorted((-count, word) for word, count in counts.items() if count >= min_count)
    return tuple(word for _, word in kept[:most])


def _quantiles(values: NDArray[np.float64], count: int) -> tuple[float, ...]:
    finite = values[np.isfinite(values)]
    if not len(finite) or count < 2:
        return ()
    edges = np.quantile(finite, np.arange(1, count) / count, method="higher")
    return tuple(float(edge) for edge in np.unique(edges))


def _hash(word: str, buckets: int) -> int:
    if not word:
        return 0
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8"), digest_size=8).digest(), "little") % buckets + 1
