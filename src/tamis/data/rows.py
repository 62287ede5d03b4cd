"""The rows of a table for reading one at a time: two flat arrays that processes share, open once they are loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays

_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE: Final = msgspec.msgpack.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class Rows:
    """Each row as msgpack, without its nulls: row i is blob[offsets[i] : offsets[i + 1]]."""

    blob: NDArray[np.uint8]
    offsets: NDArray[np.int64]  # [n + 1]

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Self:
        """All rows of a frame."""
        packed = [
            _ENCODE({name: value for name, value in row.items() if value is not None})
            for row in frame.iter_rows(named=True)
        ]
        offsets = np.zeros(len(packed) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, packed), np.int64, len(packed)), out=offsets[1:])
        return cls(np.frombuffer(b"".join(packed), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> dict[str, Any]:
        """The values of one row that are not null. Raises IndexError for one that is not there."""
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        return _DECODE(self.blob[self.offsets[number] : self.offsets[number + 1]].tobytes())

    def save(self, folder: Path, name: str) -> None:
        """Writes `<name>.blob.npy` and `<name>.offsets.npy`."""
        arrays: dict[str, NDArray[Any]] = {f"{name}.blob": self.blob, f"{name}.offsets": self.offsets}
        save_arrays(folder, **arrays)

    @classmethod
    def load(cls, folder: Path, name: str) -> Self:
        """What `save` wrote, memory-mapped. Raises ArtifactError."""
        return cls(load_array(folder, f"{name}.blob"), load_array(folder, f"{name}.offsets"))
