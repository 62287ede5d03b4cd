"""Towers: the user side and the item side, each made one vector on its own, over one embedding table.

Nothing of one side is ever read by the other. That is what lets item vectors be computed when training ends and user
vectors once per request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.data.on_disk import OnDisk
from tamis.data.picks import spaced
from tamis.features.inputs import Inputs
from tamis.features.layout import Field, Layout
from tamis.features.spec import Id
from tamis.nets.embed import Standardize, Table, widths_of
from tamis.nets.export import export
from tamis.nets.layers import linear
from tamis.nets.tower_plan import TowerPlan

USER_INPUTS = ("user_codes", "user_dense", "history_codes")
ITEM_INPUTS = ("item_codes", "item_dense")
_SAMPLE_REQUESTS = 4096  # looked at for the spread of the user side's numbers
_SAMPLE_ROWS = 200_000  # … of the candidates' that change, where not all can be


@dataclass(frozen=True, slots=True)
class Numbers:
    """A sample of the training data's dense values, to standardise by: user [·, du] and item [·, di]."""

    user: NDArray[np.float32]
    item: NDArray[np.float32]


class Tower(nn.Module):
    """One side: embeddings and numbers side by side → hidden layers with ReLU → `count` vectors of length 1."""

    def __init__(
        self,
        widths: Sequence[int],
        numbers: NDArray[np.float32],
        sizes: Sequence[int],
        generator: torch.Generator,
        count: int = 1,
    ) -> None:
        """sizes: of one embedding, of the hidden layers, of a vector."""
        super().__init__()
        self.widths, self.count = tuple(widths), count
        self.numbers = Standardize(numbers)
        sizes = (len(self.widths) * sizes[0] + numbers.shape[1], *sizes[1:-1], count * sizes[-1])
        self.layers = nn.ModuleList(linear(before, after, generator) for before, after in pairwise(sizes))

    def forward(self, table: Table, codes: Tensor, dense: Tensor) -> Tensor:
        """[n, vector_size], or [n, count, vector_size], from codes [n, sum(widths)] and dense [n, ·]."""
        out = torch.cat([table(codes, self.widths), self.numbers(dense)], 1)
        for layer in self.layers[:-1]:
            out = torch.relu(layer(out))
        out = self.layers[-1](out)
        if self.count > 1:
            out = torch.unflatten(out, 1, (self.count, -1))
        return nn.functional.normalize(out, dim=-1)


class Towers(nn.Module):
    """Both sides. The history is one more multi-valued field per column: the mean of its entries' embeddings."""

    def __init__(self, layout: Layout, plan: TowerPlan, numbers: Numbers, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size, end = plan.embedding_size, plan.vector_size
        history = (layout.history_length,) * layout.history_codes
        user_widths = (*widths_of(layout.user_fields), *history)
        self.table = Table(layout.table_size, size, generator)
        self.user = Tower(user_widths, numbers.user, (size, *plan.user_layers, end), generator, plan.interests)
        self.item = Tower(widths_of(layout.item_fields), numbers.item, (size, *plan.item_layers, end), generator)

    def users(self, user_codes: Tensor, user_dense: Tensor, history_codes: Tensor) -> Tensor:
        """[r, vector_size], or [r, interests, vector_size]."""
        history = history_codes.transpose(1, 2).flatten(1)
        vectors: Tensor = self.user(self.table, torch.cat([user_codes, history], 1), user_dense)
        return vectors

    def items(self, item_codes: Tensor, item_dense: Tensor) -> Tensor:
        """[n, vector_size]; only what does not change with time goes in."""
        vectors: Tensor = self.item(self.table, item_codes, item_dense)
        return vectors


class _UserSide(nn.Module):
    def __init__(self, towers: Towers) -> None:
        super().__init__()
        self.towers = towers

    def forward(self, user_codes: Tensor, user_dense: Tensor, history_codes: Tensor) -> Tensor:
        return self.towers.users(user_codes, user_dense, history_codes)


class _ItemSide(nn.Module):
    def __init__(self, towers: Towers) -> None:
        super().__init__()
        self.towers = towers

    def forward(self, item_codes: Tensor, item_dense: Tensor) -> Tensor:
        return self.towers.items(item_codes, item_dense)


def export_towers(towers: Towers, layout: Layout, folder: Path) -> None:
    """Writes user.onnx (`USER_INPUTS`) and item.onnx (`ITEM_INPUTS`): any number of rows → output "vector"."""
    export_user_tower(towers, layout, folder)
    item_codes = torch.zeros(2, layout.item_codes, dtype=torch.int32)
    item = dict(zip(ITEM_INPUTS, (item_codes, torch.zeros(2, len(layout.item_dense))), strict=True))
    _export_side(_ItemSide(towers), item, folder / "item.onnx")


def export_user_tower(towers: Towers, layout: Layout, folder: Path) -> None:
    """Writes user.onnx alone."""
    codes, dense = torch.zeros(2, layout.user_codes, dtype=torch.int32), torch.zeros(2, len(layout.user_dense))
    history = torch.zeros(2, layout.history_length, layout.history_codes, dtype=torch.int32)
    user = dict(zip(USER_INPUTS, (codes, dense, history), strict=True))
    _export_side(_UserSide(towers), user, folder / "user.onnx")


def _export_side(side: nn.Module, example: dict[str, Tensor], path: Path) -> None:
    export(side, example, ["vector"], path, {each: {0: "rows"} for each in (*example, "vector")})


def numbers_of(inputs: Inputs) -> Numbers:
    """The numbers to standardise by: of some training requests, and of all items that were there by then."""
    requests = spaced(np.arange(len(inputs.train)), _SAMPLE_REQUESTS)
    user = inputs.sides(inputs.train).user.dense[requests]
    return Numbers(user, inputs.catalog.column("dense", inputs.items_there))


def moving_numbers(inputs: Inputs) -> NDArray[np.float32]:
    """[s, ·] the candidates' numbers of the moment to standardise by: of all training rows, of some if on disk."""
    numbers: Any = inputs.sides(inputs.train).dynamic
    return np.asarray(numbers[:: max(1, -(-len(numbers) // _SAMPLE_ROWS))] if isinstance(numbers, OnDisk) else numbers)


class IdHider:
    """Takes the ids away from a random share of the rows of a batch, so that new users and items are understood.

    Called by one thread at a time; the same seed hides the same rows.
    """

    def __init__(self, inputs: Inputs, share: float, seed: int) -> None:
        self._fields, self._share = id_fields(inputs), share
        self._random = np.random.default_rng((seed, 1))

    @property
    def streams(self) -> list[np.random.Generator]:
        """What it draws from."""
        return [self._random]

    def hide(self, user_codes: NDArray[np.int32], item_codes: NDArray[np.int32]) -> None:
        """Replaces ids by "unknown", in place."""
        for codes, fields in zip((user_codes, item_codes), self._fields, strict=True):
            for field in fields:
                codes[self._random.random(len(codes)) < self._share, field.start] = field.offset


def id_fields(inputs: Inputs) -> tuple[tuple[Field, ...], tuple[Field, ...]]:
    """The fields that hold the user's and the item's own number."""
    config, layout = inputs.encoder.learnt.config, inputs.layout
    users = {f"user.{name}" for name, feature in config.user.items() if isinstance(feature, Id)}
    items = {f"item.{name}" for name, feature in config.item.items() if isinstance(feature, Id)}
    return _named(layout, users), _named(layout, items)


def _named(layout: Layout, names: set[str]) -> tuple[Field, ...]:
    return tuple(field for field in (*layout.user_fields, *layout.item_fields) if field.name in names)
