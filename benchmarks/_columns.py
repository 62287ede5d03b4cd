"""Rows as the peers of ranking take them: every field for every row, by name."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Columns:
    """n rows.

    codes: [n] from 1 up, 0 = absent.   bags: [n, L] several codes of one field, 0 = absent.   numbers: [n] scaled.
    sizes: rows of each field's embedding table.   shared: bag → the field whose table it reads.
    """

    codes: dict[str, NDArray[np.int64]]
    labels: dict[str, NDArray[np.float32]]
    sizes: dict[str, int]
    bags: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, NDArray[np.float32]] = field(default_factory=dict)
