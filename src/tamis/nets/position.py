"""Position bias: what the place on the page did to a label, learnt beside the net and left out when it serves.

A row far down is looked at less, so its labels say less of the item. Two remedies:

    "feature"   the place is one more input of the net
    "tower"     logit = net(row) + shallow(place, scene), for every head

Both are told "unknown" when served, which adds nothing: the feature is then a vector of zeros, the tower is gone. So
that the net is right there too, the place of one row in ten is hidden while it learns.
(Zhao et al., "Recommending what video to watch next: a multitask ranking system", RecSys 2019.)
"""

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.data.on_disk import OnDisk
from tamis.data.picks import ranges
from tamis.data.samples import Samples
from tamis.nets.embed import Table
from tamis.nets.layers import linear

PLACES: Final = 100  # later ones share the last code
_HIDDEN_SHARE: Final = 0.1
_SIZE, _HIDDEN = 8, 16


class PlaceCodes:
    """The places of training rows as codes. Called by one thread at a time; the same seed hides the same rows."""

    def __init__(self, samples: Samples, seed: int) -> None:
        self._samples, self._random = samples, np.random.default_rng((seed, 2))

    @property
    def streams(self) -> list[np.random.Generator]:
        """What it draws from."""
        return [self._random]

    @property
    def known(self) -> bool:
        """True where some row has a place."""
        position: Any = self._samples.position
        pieces = position.pieces() if isinstance(position, OnDisk) else [position]
        return any((piece >= 0).any() for piece in pieces)

    def of(self, requests: NDArray[np.int64]) -> Tensor:
        """[n, 2] int32 of all rows of the requests: place, 0 = unknown or hidden; scene, from PLACES + 1 on."""
        samples = self._samples
        counts = samples.first[requests + 1] - samples.first[requests]
        place = samples.position[ranges(samples.first[requests], counts)].astype(np.int32)
        codes = np.minimum(place, PLACES - 1) + 1
        codes[self._random.random(len(codes)) < _HIDDEN_SHARE] = 0
        scene = PLACES + 1 + np.repeat(samples.scene[requests], counts)
        return torch.from_numpy(np.column_stack([codes, scene]).astype(np.int32))


class PositionTower(nn.Module):
    """The logits that a place adds: an embedding of the place, one of the scene, one hidden layer; no place, nothing.

    scenes: how many there are.
    """

    def __init__(self, heads: int, scenes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.table = Table(PLACES + 1 + scenes, _SIZE, generator)
        self.hidden = linear(2 * _SIZE, _HIDDEN, generator)
        self.output = linear(_HIDDEN, heads, generator, bias=False)

    def forward(self, codes: Tensor) -> Tensor:
        """[heads, n] from the codes [n, 2] of `PlaceCodes`."""
        hidden = self.hidden(self.table(codes, (1, 1))).relu()
        logits: Tensor = self.output(hidden) * (codes[:, :1] > 0)
        return logits.t()
