"""A second task of the item tower: two views of one item must meet, views of different items must not.

    L = mean L_main + weight · mean −log( e^{cos(b', b'')/τ} / Σ_j e^{cos(b', b_j'')/τ} )

Positives are mostly popular items, so the vectors of the others are hardly learnt. This task's items are drawn evenly
from the catalogue instead, which is what it lives of, and for the same reason its loss is not corrected for frequency.
Only the item tower and the embeddings are moved by it. (Yao et al., CIKM 2021; the views are in `views`.)
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.features.inputs import Inputs
from tamis.nets.batch import tensor
from tamis.nets.tower import Towers
from tamis.nets.tower_plan import ViewsPlan
from tamis.nets.views import Views


class ViewMaker:
    """Draws the items of each step and their views; the same seed gives the same ones in the same order."""

    def __init__(self, inputs: Inputs, plan: ViewsPlan, seed: int) -> None:
        self._there = inputs.items_there
        self._codes: NDArray[np.int32] = np.asarray(inputs.catalog.columns["codes"][0])
        self._plan = plan
        self._random = np.random.default_rng((seed, 2))
        self._views = Views(inputs.layout.item_fields, plan, self._codes[self._there], seed)

    @property
    def streams(self) -> list[np.random.Generator]:
        """What it draws from."""
        return [self._random, *self._views.streams]

    def batch(self) -> Tensor:
        """[2m, c] codes: first one view of m distinct items, drawn evenly, then the other view of the same items."""
        count = min(self._plan.items, len(self._there))
        items = np.sort(self._random.choice(self._there, count, replace=False))
        return tensor(np.concatenate(self._views.of(self._codes[items])))


def view_loss(towers: Towers, views: Tensor, temperature: float) -> Tensor:
    """The mean loss of telling each item's second view from the first, among those of all items of the batch."""
    numbers = towers.item.numbers.mean.expand(len(views), -1)
    vectors, half = towers.items(views, numbers), len(views) // 2
    return meeting_loss(vectors[:half], vectors[half:], temperature)


def meeting_loss(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """The same of vectors of length 1 [m, d]."""
    return nn.functional.cross_entropy(one @ other.T / temperature, torch.arange(len(one), device=one.device))
