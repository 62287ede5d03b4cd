"""What a cross reads: every field's embedding of one user and one candidate, side by side, then their numbers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tamis.nets.spread import Rows, spread


@dataclass(frozen=True, slots=True)
class Fields:
    """Where what lies in a row [width]: the user's fields, the item's, the user's numbers, the item's.

    user, item: number of fields, each `size` wide (one field = one embedding, or one part of the pooled history).
    user_numbers, item_numbers: standardised numbers; only crosses over the whole row read them.
    """

    user: int
    item: int
    size: int
    user_numbers: int = 0
    item_numbers: int = 0

    @property
    def count(self) -> int:
        """Fields of both sides."""
        return self.user + self.item

    @property
    def pairs(self) -> int:
        """Pairs of two different fields."""
        return self.count * (self.count - 1) // 2

    @property
    def embedded(self) -> int:
        """Columns of all fields."""
        return self.count * self.size

    @property
    def width(self) -> int:
        """Columns of a whole row."""
        return self.embedded + self.user_numbers + self.item_numbers

    def of(self, x: Tensor) -> Tensor:
        """[n, fields, size] the fields of rows [n, ≥ embedded]."""
        return torch.unflatten(x[:, : self.embedded], 1, (self.count, self.size))

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What rows [n, width] say of the user, and what of the item."""
        middle, numbers = self.user * self.size, self.embedded + self.user_numbers
        user = torch.cat([x[:, :middle], x[:, self.embedded : numbers]], 1)
        return user, torch.cat([x[:, middle : self.embedded], x[:, numbers:]], 1)

    def joined(self, user: Tensor, item: Tensor) -> Tensor:
        """[n, width] the rows whose `halves` these are."""
        own, other = self.user * self.size, self.item * self.size
        return torch.cat([user[:, :own], item[:, :other], user[:, own:], item[:, other:]], 1)

    def add_item(self, x: Tensor, item: Tensor) -> None:
        """Adds to rows x [n, width], in place, what is given for the item's half [n, …]."""
        other = self.item * self.size
        x[:, self.user * self.size : self.embedded] += item[:, :other]
        x[:, self.embedded + self.user_numbers :] += item[:, other:]


def met(user: tuple[Tensor, Tensor], item: tuple[Tensor, Tensor], rows: Rows | None, count: int) -> Tensor:
    """[n, width] the rows of `Fields`, from (fields, numbers) of the requests [r, …] and of the candidates [n, …].

    count: n; when a net is exported, the length of one of its inputs, for it to differ from the example's.
    """
    fields, numbers = (spread(part, rows).expand(count, -1) for part in user)
    return torch.cat([fields, item[0], numbers, item[1]], 1)
