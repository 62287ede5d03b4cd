"""Samples and their sides being put on disk, stretch by stretch, and read back in windows."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tamis.data.on_disk import Appender, as_array
from tamis.data.samples import Samples
from tamis.features.inputs import Inputs, Sides

_OF_REQUESTS: Final = ("user", "time", "scene", "history_start", "history_end")
_OF_ROWS: Final = ("item", "position")


@dataclass(frozen=True, slots=True)
class Stored:
    """What a shelf holds. pieces: see `Inputs.pieces`."""

    samples: Samples
    sides: Sides
    pieces: NDArray[np.int64]

    def in_memory(self) -> "Stored":
        """The same, read as a whole."""
        samples, sides = self.samples, self.sides
        arrays: dict[str, Any] = {name: np.asarray(getattr(samples, name)) for name in (*_OF_REQUESTS, *_OF_ROWS)}
        labels = {name: np.asarray(label) for name, label in samples.labels.items()}
        user = replace(sides.user, codes=np.asarray(sides.user.codes), dense=np.asarray(sides.user.dense))
        return Stored(replace(samples, **arrays, labels=labels), Sides(user, np.asarray(sides.dynamic)), self.pieces)


class Shelf:
    """Files beside each other whose names begin with that of `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, Appender] = {}
        self.counts: list[NDArray[np.int32]] = []
        self.scenes: dict[str, int] = {}
        self.labels: list[str] = []

    def append(self, samples: Samples, sides: Sides) -> None:
        """Those of one stretch more."""
        codes = np.array([self.scenes.setdefault(name, len(self.scenes)) for name in samples.scenes], np.int32)
        samples = replace(samples, scene=codes[samples.scene])
        self.labels = list(samples.labels)
        self.counts.append(np.diff(samples.first).astype(np.int32))
        arrays = {name: getattr(samples, name) for name in (*_OF_REQUESTS, *_OF_ROWS)}
        arrays.update({f"label.{name}": label for name, label in samples.labels.items()})
        arrays.update(codes=sides.user.codes, dense=sides.user.dense, dynamic=sides.dynamic)
        for name, array in arrays.items():
            if name not in self.files:
                self.files[name] = Appender(self.path.with_name(f"{self.path.name}.{name}"))
            self.files[name].append(array)

    def done(self, inputs: Inputs, window: int) -> Stored:
        """All of them, in windows of about so many rows; without any, those that `inputs` has."""
        if not self.counts:
            return Stored(inputs.train, inputs.sides(inputs.train), np.zeros(1, np.int64))
        first = np.append(0, np.cumsum(np.concatenate(self.counts, dtype=np.int64)))
        pieces = np.concatenate([[0], np.flatnonzero(np.diff(first[:-1] // window)) + 1, [len(first) - 1]])
        of_rows = {*_OF_ROWS, "dynamic", *(f"label.{name}" for name in self.labels)}
        made: dict[str, Any] = {
            name: as_array(file.done(first[pieces] if name in of_rows else pieces)) for name, file in self.files.items()
        }
        samples = replace(
            inputs.train,
            **{name: made[name] for name in (*_OF_REQUESTS, *_OF_ROWS)},
            scenes=tuple(self.scenes),
            first=first,
            labels={name: made[f"label.{name}"] for name in self.labels},
        )
        user = inputs.users.take(np.empty(0, np.int64))
        sides = Sides(replace(user, codes=made["codes"], dense=made["dense"]), made["dynamic"])
        return Stored(samples, sides, pieces)
