"""Friends: what the users named in a user's profile liked last (U2U2I over a graph that is given, not learnt)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays
from tamis.config import AtLeastOne, AtLeastZero, StepConfig
from tamis.features.inputs import Inputs
from tamis.recall.ascending import rows_among
from tamis.recall.last_liked import last_liked
from tamis.recall.neighbours import Neighbours
from tamis.recall.seeds import texts
from tamis.types import Candidates, Query, item_keys


class FriendsConfig(StepConfig, frozen=True, tag="friends"):
    """Where friends stand and how much of each is looked at."""

    limit: AtLeastZero = 300  # items per request
    column: str = "friends"  # of the profile: user ids, one or a list
    friends: AtLeastOne = 100  # the first so many of them count
    items: AtLeastOne = 100  # of a friend, those he liked last


@dataclass(frozen=True, slots=True)
class Friends:
    """table: row = user number → the items he liked last, with his interest in them.

    keys: the users' types.item_key, ascending.   numbers: whose each is.
    """

    config: FriendsConfig
    table: Neighbours
    keys: NDArray[np.uint64]
    numbers: NDArray[np.int64]

    @classmethod
    def fit(cls, config: FriendsConfig, inputs: Inputs, seed: int) -> Self:
        """Cuts the interest of each user to his last items; there is nothing random in it."""
        order = np.argsort(inputs.user_keys, kind="stable")
        return cls(
            config, last_liked(inputs, inputs.interest(), config.items), inputs.user_keys[order], order.astype(np.int64)
        )

    def recall(self, query: Query) -> Candidates:
        """Σ over friends of their interest in the item, best first; column `score`. What the user met himself is out.

        Friends whom the bundle does not know, and a user without any, give nothing.
        """
        ids = texts(query.profile.get(self.config.column), self.config.friends)
        friends = np.unique(self._numbers(ids))
        if not len(friends):
            return Candidates.empty()
        ones = np.ones(len(friends))
        found, score = self.table.walk(friends, ones, query.history.items, self.config.limit)
        return Candidates.of(found, score=score)

    def _numbers(self, user_ids: list[str]) -> NDArray[np.int64]:
        """Numbers of those that are known."""
        rows = rows_among(self.keys, item_keys(user_ids))
        return np.asarray(self.numbers[rows[rows >= 0]])

    def save(self, folder: Path) -> None:
        self.table.save(folder)
        save_arrays(folder, keys=self.keys, numbers=self.numbers)

    @classmethod
    def load(cls, config: FriendsConfig, folder: Path) -> Self:
        return cls(config, Neighbours.load(folder), load_array(folder, "keys"), load_array(folder, "numbers"))
