"""Graph filter: what a user liked is a signal on the graph of items, and what is smooth in it is what he will like.

The graph's one step is S = X̃ᵀX̃ with X̃ = D_u^−user_power · X · D_i^−item_power, X the interest, D the sums of its rows
and columns; S is scaled to a largest eigenvalue of 1. Its eigenvectors V with the eigenvalues λ nearest to 1 are the
signals that change least along the edges. A closed form then takes the place of a trained graph network:

    W = D_i^−item_power · ( S + V · diag(low_pass − sharpen·λ²) · Vᵀ ) · D_i^output_power

One step along the graph, a share of the smoothest signals, and less of what everything has in common. (The linear
filter with an ideal low pass: Shen et al., CIKM 2021; sharpening: Choi et al., SIGIR 2023; both have powers of
one half.) Only the largest weights of each row are kept, so that it is served as a table of neighbours like ItemCF.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.linalg import eigh, qr
from scipy.sparse import csr_matrix, diags_array

from tamis.config import AtLeastOne, AtLeastZero, NotNegative, StepConfig
from tamis.features.inputs import Inputs
from tamis.recall.blocks import one_thread
from tamis.recall.interest import checked
from tamis.recall.item_table import ItemTable, TableSource, best_of_rows
from tamis.recall.neighbours import Neighbours

F32 = NDArray[np.float32]

_EXTRA: Final = 32  # vectors beside the wanted ones while the subspace is looked for
_ROUNDS: Final = 4  # of the search for it


class GraphFilterConfig(StepConfig, frozen=True, tag="graph_filter"):
    """How the graph is weighted and filtered."""

    limit: AtLeastZero = 300  # items per request
    neighbours: AtLeastOne = 100  # kept per item
    history: AtLeastOne = 200  # distinct recent items of the user that are looked up
    components: AtLeastOne = 256  # smoothest signals that are told apart; more for larger catalogues
    user_power: NotNegative = 0.3  # how much less a user with much interest says about each of his items
    item_power: NotNegative = 0.4  # how much less interest in a popular item says
    output_power: float = 0.3  # how much of its popularity an item gets back
    low_pass: NotNegative = 0.4  # weight of the smoothest signals beside one step along the graph
    sharpen: NotNegative = 0.5  # how much of the very smoothest is taken back


@dataclass(frozen=True, slots=True)
class GraphFilter(TableSource[GraphFilterConfig]):
    """items: the largest weights of each row of W."""

    @classmethod
    def fit(cls, config: GraphFilterConfig, inputs: Inputs, seed: int) -> Self:
        """The table of the training period's interest."""
        interest = inputs.interest()

        def done(rows: int) -> None:
            inputs.progress("graph_filter", rows, interest.shape[1])

        table = filtered(interest, config, seed, done)
        return cls(config, ItemTable.of(table, inputs))


def filtered(
    interactions: csr_matrix, config: GraphFilterConfig, seed: int = 0, done: Callable[[int], None] = lambda rows: None
) -> Neighbours:
    """The largest weights above zero of each row of W, the diagonal left out.

    interactions: [users, items] interest, finite and not negative.   done: called with the rows finished.
    2 · components · items² additions, and memory for components · items numbers and one block of rows for each thread.
    The same answer for any number of threads.
    """
    matrix = checked(csr_matrix(interactions, dtype=np.float32))  # after the cast: what leaves its range is refused
    users, items = (np.asarray(matrix.sum(axis=axis), np.float64).ravel() for axis in (1, 0))
    scaled = diags_array(_powers(users, -config.user_power)) @ matrix @ diags_array(_powers(items, -config.item_power))
    edges = csr_matrix(scaled, dtype=np.float32)
    values, signals = smoothest(edges, config.components, seed)
    most = max(float(values.max(initial=0)), 1e-30)
    gains = (config.low_pass - config.sharpen * (values / most) ** 2).astype(np.float32)
    across, into = edges.T.tocsr(), np.ascontiguousarray(signals.T)
    read = _powers(items, -config.item_power).astype(np.float32)
    write = _powers(items, config.output_power).astype(np.float32)

    def rows(first: int, stop: int) -> F32:
        weights = np.asarray((signals[first:stop] * gains) @ into, np.float32)
        _add_products(_plain(across), _plain(edges), first, np.float32(1 / most), weights)
        weights *= read[first:stop, None]
        weights *= write
        return weights

    return best_of_rows(rows, len(items), config.neighbours, done)


def smoothest(edges: csr_matrix, count: int, seed: int) -> tuple[NDArray[np.float64], F32]:
    """(eigenvalues [c], eigenvectors [items, c]) of the largest eigenvalues of XᵀX, none of them zero, c ≤ count.

    edges: X [users, items].   By iteration of a random subspace (Halko, Martinsson, Tropp, 2011): the last few are
    approximate, which does not matter to a filter.
    """
    width = min(count + _EXTRA, *edges.shape)
    back = edges.T.tocsr()
    space: NDArray[Any] = np.random.default_rng(seed).standard_normal((edges.shape[1], width), np.float32)
    with one_thread():
        for _ in range(_ROUNDS):
            space = qr(back @ (edges @ space), mode="economic", overwrite_a=True, check_finite=False)[0]
        image = edges @ space
        values, turn = eigh(image.T @ image, check_finite=False)
        order = np.argsort(-values, kind="stable")[:count]
        order = order[values[order] > 1e-6 * max(values.max(initial=0), 1e-30)]
        return values[order].astype(np.float64), np.ascontiguousarray(space @ turn[:, order])


def _powers(sums: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """sums ** power, 0 where a sum is 0."""
    return np.power(sums, power, out=np.zeros_like(sums), where=sums > 0)


def _plain(matrix: csr_matrix) -> tuple[NDArray[np.int32], NDArray[np.int32], F32]:
    """The arrays of a sparse matrix, as compiled code takes them."""
    return matrix.indptr, matrix.indices, matrix.data


@njit(cache=True, nogil=True)
def _add_products(across: Any, edges: Any, first: int, scale: Any, out: Any) -> None:
    """Adds scale · (XᵀX) to `out`, whose rows are those from `first` on; across is Xᵀ, edges X."""
    starts, users, mine = across
    begins, items, values = edges
    for row in range(len(out)):
        for at in range(starts[first + row], starts[first + row + 1]):
            user, weight = users[at], scale * mine[at]
            for entry in range(begins[user], begins[user + 1]):
                out[row, items[entry]] += weight * values[entry]
