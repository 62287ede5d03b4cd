"""EASE: the table of items to items that tells each user's interest in an item from his interest in all others best.

    minimise |X − XB|² + ridge · |B|²  with diag(B) = 0      →      B_ij = −P_ij / P_jj,   P = (XᵀX + ridge · I)⁻¹

One inverse in closed form (Steck, WWW 2019), in memory items² · 16 bytes and time items³: for small catalogues. Only
the largest weights of each row are kept, so that it is served as a table of neighbours like ItemCF.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_matrix

from tamis.config import AboveZero, AtLeastOne, AtLeastZero, StepConfig
from tamis.errors import ConfigError
from tamis.features.inputs import Inputs
from tamis.recall.blocks import one_thread
from tamis.recall.item_table import ItemTable, TableSource, best_of_rows
from tamis.recall.neighbours import Neighbours


class EASEConfig(StepConfig, frozen=True, tag="ease"):
    """How the table is computed and read."""

    limit: AtLeastZero = 300  # items per request
    neighbours: AtLeastOne = 200  # kept per item
    history: AtLeastOne = 200  # distinct recent items of the user that are looked up
    ridge: AboveZero = 300.0  # pull of the weights towards zero
    most_items: AtLeastOne = 20_000  # catalogues with more items that somebody had interest in are refused


@dataclass(frozen=True, slots=True)
class EASE(TableSource[EASEConfig]):
    """items: the largest weights of each row of B."""

    @classmethod
    def fit(cls, config: EASEConfig, inputs: Inputs, seed: int) -> Self:
        """The table of the training period's interest; there is nothing random in it.

        Raises ConfigError when more than `most_items` items had any.
        """
        interest = inputs.interest()
        there = len(np.unique(interest.indices))
        if there > config.most_items:
            raise ConfigError(
                f"ease: {there} items had interest, which would need {there**2 * 16 / 2**30:.1f} GiB; "
                f"raise most_items ({config.most_items}) or take graph_filter, which needs no inverse"
            )

        def done(rows: int) -> None:
            inputs.progress("ease", rows, there)

        table = regressed(interest, config, done)
        return cls(config, ItemTable.of(table, inputs))


def regressed(
    interactions: csr_matrix, config: EASEConfig, done: Callable[[int], None] = lambda rows: None
) -> Neighbours:
    """The largest weights above zero of each row of B. Items without interactions have none.

    interactions: [users, items], finite.   done: called with the rows finished.
    """
    k = config.neighbours
    matrix = csr_matrix(interactions, dtype=np.float64)
    if not np.isfinite(matrix.data).all():
        raise ValueError("interactions has a value that is not finite")
    there = np.unique(matrix.indices).astype(np.int32)
    some = matrix[:, there]
    square = (some.T @ some).toarray()
    square[np.diag_indices(len(there))] += config.ridge
    with one_thread():  # on several it would add up in another order
        inverse = cho_solve(cho_factor(square, overwrite_a=True), np.eye(len(there)), overwrite_b=True)
    scale = -1 / np.diag(inverse)
    small = best_of_rows(
        lambda first, stop: (inverse[first:stop] * scale).astype(np.float32), len(there), min(k, len(there)), done
    )
    ids = np.full((matrix.shape[1], k), -1, np.int32)
    weights = np.zeros((matrix.shape[1], k), np.float32)
    width = small.ids.shape[1]
    if width:
        ids[there, :width] = np.where(small.ids >= 0, there[small.ids], -1)
        weights[there, :width] = small.weights
    return Neighbours(ids, weights)
