"""Samples and their sides being put on disk, stretch by stretch, and read back in windows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tamis.data.on_disk import Appender, as_array
from tamis.data.samples import Samples
from tamis.features.inputs import Inputs, Sides

_OF_REQUESTS: Final = ("user", "time", "scene", "history_start", "history_end")
_OF_ROWS: Final = ("item", "position", "log_odds", "spared")  # the last two only where there are some

Rows = Mapping[int, tuple[Samples, Sides]]
"""How many rows were drawn into each request → the samples with them and their sides; under 0 as they were shown."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Samples from a shelf. pieces: see `Inputs.pieces`."""

    samples: Samples
    sides: Sides
    pieces: NDArray[np.int64]

    def in_memory(self) -> "Stored":
        """The same, read as a whole."""
        samples, sides = self.samples, self.sides
        there = [name for name in (*_OF_REQUESTS, *_OF_ROWS) if getattr(samples, name) is not None]
        arrays: dict[str, Any] = {name: np.asarray(getattr(samples, name)) for name in there}
        labels = {name: np.asarray(label) for name, label in samples.labels.items()}
        user = replace(sides.user, codes=np.asarray(sides.user.codes), dense=np.asarray(sides.user.dense))
        return Stored(replace(samples, **arrays, labels=labels), Sides(user, np.asarray(sides.dynamic)), self.pieces)


class Shelf:
    """Files beside each other whose names begin with that of `path`; what is of requests is there once for all rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, Appender] = {}
        self._counts: dict[int, list[NDArray[np.int32]]] = {}
        self._scenes: dict[str, int] = {}
        self._labels: dict[int, list[str]] = {}
        self._keep = 1.0

    def append(self, rows: Rows) -> None:
        """Those of one stretch more."""
        samples, sides = rows[0]
        codes = np.array([self._scenes.setdefault(name, len(self._scenes)) for name in samples.scenes], np.int32)
        self._write("", {name: getattr(samples, name) for name in _OF_REQUESTS} | {"scene": codes[samples.scene]})
        self._write("", {"codes": sides.user.codes, "dense": sides.user.dense})
        self._write("gone.", dict(zip(("user", "item"), samples.before, strict=True)))
        self._keep = samples.keep_negatives
        for count, (more, of_more) in rows.items():
            self._labels[count] = list(more.labels)
            self._counts.setdefault(count, []).append(np.diff(more.first).astype(np.int32))
            arrays = {name: value for name in _OF_ROWS if (value := getattr(more, name)) is not None}
            self._write(f"{count}.", {**arrays, "dynamic": of_more.dynamic})
            self._write(f"{count}.label.", more.labels)

    def done(self, inputs: Inputs, window: int, count: int = 0) -> Stored:
        """All samples with so many rows drawn, in windows of about so many rows; without any, those of `inputs`."""
        if not self._counts:
            none = inputs.with_unshown(count, 0).train if count else inputs.train
            return Stored(none, inputs.sides(none), np.zeros(1, np.int64))
        first = np.append(0, np.cumsum(np.concatenate(self._counts[count], dtype=np.int64)))
        pieces = np.concatenate([[0], np.flatnonzero(np.diff(first[:-1] // window)) + 1, [len(first) - 1]])
        rows = {name: self._read(f"{count}.{name}", first[pieces]) for name in (*_OF_ROWS, "dynamic")}
        samples = replace(
            inputs.train,
            **{name: self._read(name, pieces) for name in _OF_REQUESTS},
            **{name: rows[name] for name in _OF_ROWS},
            scenes=tuple(self._scenes),
            first=first,
            labels={name: self._read(f"{count}.label.{name}", first[pieces]) for name in self._labels[count]},
            before=(self._read("gone.user"), self._read("gone.item")),
            keep_negatives=self._keep,
        )
        user = inputs.users.take(np.empty(0, np.int64))
        user = replace(user, codes=self._read("codes", pieces), dense=self._read("dense", pieces))
        return Stored(samples, Sides(user, rows["dynamic"]), pieces)

    def _write(self, prefix: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        for name, array in arrays.items():
            if prefix + name not in self._files:
                self._files[prefix + name] = Appender(self._path.with_name(f"{self._path.name}.{prefix}{name}"))
            self._files[prefix + name].append(array)

    def _read(self, name: str, windows: NDArray[np.int64] | tuple[int, ...] = ()) -> Any:
        return as_array(self._files[name].done(windows)) if name in self._files else None
