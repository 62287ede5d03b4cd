"""How much of a video is watched: the labels that play time and duration make, and what predictions mean by length.

    completion      min(1, seconds / duration)                          fitted by cross-entropy with this soft label
    finished        1 where seconds / duration ≥ a share, else 0
    play_quantile   the share of plays of about this duration that were shorter (half of equal ones counted)

All three speak of what was *played*: a row with 0 seconds, or of an item without a duration, has the label NaN and
teaches them nothing. `play`, the seconds themselves, is 0 there and learns from every row.

Long videos are finished more rarely, so a completion is divided by the length curve before it is fused. The quantile
needs no such division: its mean is ½ at every duration. (Zhan et al., "Deconfounding duration bias in watch-time
prediction for video recommendation", KDD 2022: D2Q.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays
from tamis.data.on_disk import Derived, OnDisk, as_array
from tamis.data.samples import Samples
from tamis.nets.labels import PLAY
from tamis.types import WATCH_HEADS, Catalog

Numbers = NDArray[np.float64]
COMPLETION, FINISHED, QUANTILE = WATCH_HEADS
QUANTILE_SECONDS: Final = f"{QUANTILE}_seconds"

_MOST_GROUPS: Final = 30  # of durations; D2Q is flat from about here on
_LEAST_ROWS: Final = 50  # plays in a group of durations, if there are so many
_LEAST: Final = 0.01  # the curve is nowhere lower, so that a long video's ratio does not explode
_MOST_PLAYS: Final = 1_000_000  # rows that are looked at where they lie on disk
_POINTS: Final = 101  # quantiles kept of each group: hundredths


@dataclass(frozen=True, slots=True)
class LengthCurve:
    """f(duration): the mean label of plays of items that long. Positive, never rising.

    durations: [k] seconds, ascending, k ≥ 1.   values: [k] at those.   mean: over all plays, for unknown durations.
    """

    durations: Numbers
    values: Numbers
    mean: float

    @classmethod
    def fit(cls, durations: NDArray[Any], labels: NDArray[Any]) -> Self:
        """The never rising steps nearest to the means of groups of equal mass (pool adjacent violators), joined.

        durations: [n] seconds above 0.   labels: [n] inside [0, 1].   The lines between the groups' mean logarithms of
        duration make it smooth. A dip among the shortest videos, which the log has and no reason, is levelled out.
        """
        from scipy.optimize import isotonic_regression  # a second of imports that no server needs

        seconds, label = np.asarray(durations, np.float64), np.asarray(labels, np.float64)
        group = np.searchsorted(_edges(seconds), seconds, "right")
        _, group = np.unique(group, return_inverse=True)
        rows = np.bincount(group)
        centre = np.exp(np.bincount(group, np.log(seconds)) / rows)
        means = np.bincount(group, label) / rows
        steps = isotonic_regression(means, weights=rows.astype(np.float64), increasing=False).x
        return cls(centre, np.maximum(np.asarray(steps, np.float64), _LEAST), max(float(label.mean()), _LEAST))

    def of(self, durations: NDArray[Any]) -> Numbers:
        """[n] f at durations in seconds; `mean` where a duration is NaN or not above 0."""
        seconds = np.asarray(durations, np.float64)
        known = seconds > 0
        at = np.log(np.where(known, seconds, 1.0))
        return np.where(known, np.interp(at, np.log(self.durations), self.values), self.mean)

    def save(self, folder: Path) -> None:
        save_arrays(folder, durations=self.durations, values=self.values, mean=np.array([self.mean]))

    @classmethod
    def load(cls, folder: Path) -> Self:
        durations, values, mean = (load_array(folder, name) for name in ("durations", "values", "mean"))
        return cls(durations, values, float(mean[0]))


@dataclass(frozen=True, slots=True)
class DurationGroups:
    """How long items of about one duration are played.

    edges: [g − 1] seconds, ascending: a duration belongs to the group of as many edges as are not above it.
    seconds: [g + 1, q] evenly spaced quantiles of the plays of each group, the last row of all plays, for items
    without a duration.
    """

    edges: Numbers
    seconds: Numbers

    @classmethod
    def fit(cls, durations: NDArray[Any], seconds: NDArray[Any]) -> Self:
        """Groups of equal mass over the durations. durations, seconds: [n], both above 0, n ≥ 1."""
        played = np.asarray(seconds, np.float64)
        length = np.asarray(durations, np.float64)
        edges = _edges(length)
        group = np.searchsorted(edges, length, "right")
        filled = np.unique(group)
        kept = edges[filled[1:] - 1]  # equal durations can leave groups without a play
        steps = np.linspace(0.0, 1.0, _POINTS)
        tables = [np.quantile(played[group == one], steps) for one in filled]
        return cls(kept, np.stack([*tables, np.quantile(played, steps)]))

    def quantile(self, durations: NDArray[Any], seconds: NDArray[Any]) -> Numbers:
        """[n] inside [0, 1]: the place of each play among the quantiles of its group, equal ones counted half."""
        group, played = self._groups(durations), np.asarray(seconds, np.float64)
        out = np.empty(len(played))
        for one in np.unique(group):
            rows = np.flatnonzero(group == one)
            below = np.searchsorted(self.seconds[one], played[rows], "left")
            out[rows] = (below + np.searchsorted(self.seconds[one], played[rows], "right")) / (2 * _POINTS)
        return out

    def seconds_at(self, durations: NDArray[Any], quantiles: NDArray[Any]) -> Numbers:
        """[n] the seconds that stand at quantiles [n] of the durations' groups."""
        group = self._groups(durations)
        at = np.clip(np.asarray(quantiles, np.float64), 0.0, 1.0) * (_POINTS - 1)
        low = np.minimum(at.astype(np.int64), _POINTS - 2)
        below, above = self.seconds[group, low], self.seconds[group, low + 1]
        return np.asarray(below + (above - below) * (at - low))

    def _groups(self, durations: NDArray[Any]) -> NDArray[np.int64]:
        length = np.asarray(durations, np.float64)
        group = np.searchsorted(self.edges, length, "right")
        return np.where(length > 0, group, len(self.seconds) - 1)

    def save(self, folder: Path) -> None:
        save_arrays(folder, edges=self.edges, seconds=self.seconds)

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(load_array(folder, "edges"), load_array(folder, "seconds"))


@dataclass(frozen=True, slots=True)
class WatchTime:
    """What the heads of `WATCH_HEADS` that a ranker has know of durations.

    heads: those of the configuration.   curves: head → its length curve, for completion and finished.
    groups: for the quantile.   A head that no row could teach has neither; its columns are 0.
    """

    heads: tuple[str, ...]
    finished_share: float
    limit_seconds: float
    curves: Mapping[str, LengthCurve] = field(default_factory=dict)
    groups: DurationGroups | None = None

    @classmethod
    def fit(
        cls, heads: Sequence[str], finished_share: float, limit_seconds: float, samples: Samples, catalog: Catalog
    ) -> Self:
        """From the played training rows of items with a duration; from some of them where they lie on disk.

        finished_share: the share of the duration from which on a play counts as finished.
        limit_seconds: longer plays count as that long.
        """
        watch = cls(tuple(head for head in heads if head in WATCH_HEADS), finished_share, limit_seconds)
        if not watch.heads or PLAY not in samples.labels:
            return watch
        some = slice(None, None, max(1, -(-len(samples.item) // _MOST_PLAYS)) if _stored(samples) else 1)
        durations, seconds = _durations(catalog, samples.item[some]), samples.labels[PLAY][some].astype(np.float64)
        rows = _played(durations, seconds)
        if not rows.any():
            return watch
        curves = {
            head: LengthCurve.fit(durations[rows], watch._shares(head, durations[rows], seconds[rows]))
            for head in watch.heads
            if head != QUANTILE
        }
        capped = np.minimum(seconds[rows], limit_seconds)
        groups = DurationGroups.fit(durations[rows], capped) if QUANTILE in watch.heads else None
        return replace(watch, curves=curves, groups=groups)

    def labelled(self, samples: Samples, catalog: Catalog) -> Samples:
        """The samples with the labels of these heads, NaN where a row teaches nothing; the same samples if none."""
        known = [head for head in self.heads if head in self.curves or (head == QUANTILE and self.groups)]
        if not known or PLAY not in samples.labels:
            return samples
        of_rows: tuple[Any, Any] = samples.item, samples.labels[PLAY]
        labels = dict(samples.labels)
        for head in known:
            make = partial(self._label, head, catalog)
            labels[head] = as_array(Derived(of_rows, make)) if _stored(samples) else make(*of_rows)
        return replace(samples, labels=labels)

    def _label(
        self, head: str, catalog: Catalog, items: NDArray[Any], play: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        durations, seconds = _durations(catalog, items), play.astype(np.float64)
        rows = _played(durations, seconds)
        label = np.full(len(seconds), np.nan, np.float32)
        label[rows] = self._shares(head, durations[rows], seconds[rows])
        return label

    def _shares(self, head: str, durations: Numbers, seconds: Numbers) -> Numbers:
        if head == QUANTILE:
            assert self.groups is not None
            return self.groups.quantile(durations, np.minimum(seconds, self.limit_seconds))
        share = seconds / durations
        return np.minimum(share, 1.0) if head == COMPLETION else (share >= self.finished_share).astype(np.float64)

    def beside(self, head: str, predicted: NDArray[Any], durations: NDArray[Any]) -> tuple[str, Numbers]:
        """The column that goes with a head's predictions [n]: (name, [n]).

        A completion over the curve's value for its item's duration: 1 = as items that long are watched on average.
        A quantile as seconds.
        """
        name = column_beside(head)
        if head == QUANTILE:
            return name, np.zeros(len(predicted)) if self.groups is None else self.groups.seconds_at(
                durations, predicted
            )
        return name, predicted / self.curves[head].of(durations) if head in self.curves else np.zeros(len(predicted))

    def save(self, folder: Path) -> None:
        """A folder `curve.<head>` for each curve, and `duration_groups`."""
        for head, curve in self.curves.items():
            _made(folder / f"curve.{head}", curve)
        if self.groups is not None:
            _made(folder / "duration_groups", self.groups)

    @classmethod
    def load(cls, heads: Sequence[str], finished_share: float, limit_seconds: float, folder: Path) -> Self:
        """What `save` wrote."""
        own = tuple(head for head in heads if head in WATCH_HEADS)
        found = [head for head in (COMPLETION, FINISHED) if (folder / f"curve.{head}").is_dir()]
        curves = {head: LengthCurve.load(folder / f"curve.{head}") for head in found}
        groups = folder / "duration_groups"
        return cls(own, finished_share, limit_seconds, curves, DurationGroups.load(groups) if groups.is_dir() else None)


def column_beside(head: str) -> str:
    """The name of the column that goes with one of `WATCH_HEADS`."""
    return QUANTILE_SECONDS if head == QUANTILE else f"{head}_ratio"


def _made(folder: Path, what: LengthCurve | DurationGroups) -> None:
    folder.mkdir()
    what.save(folder)


def _stored(samples: Samples) -> bool:
    """True for samples that lie on disk."""
    item: Any = samples.item
    return isinstance(item, OnDisk)


def _durations(catalog: Catalog, items: NDArray[Any]) -> Numbers:
    """[n] seconds, NaN where unknown; so are those of items that the catalogue does not have."""
    out, known = np.full(len(items), np.nan), items < len(catalog)
    out[known] = catalog.column("duration_seconds", items[known])
    return out


def _played(durations: Numbers, seconds: Numbers) -> NDArray[np.bool_]:
    return (durations > 0) & (seconds > 0)


def _edges(durations: Numbers) -> Numbers:
    """Inner edges of groups of equal mass, each once: at most `_MOST_GROUPS` groups of at least `_LEAST_ROWS` plays."""
    groups = max(1, min(_MOST_GROUPS, len(durations) // _LEAST_ROWS))
    return np.unique(np.quantile(durations, np.linspace(0, 1, groups + 1)[1:-1]))
