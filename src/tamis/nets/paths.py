"""Paths through D layers of K nodes: how likely a user's are, the most likely ones, and the items on them.

    p(c_1 … c_D | x) = Π_d p_d(c_d | x, c_1 … c_{d−1})
    p_d = softmax( relu( x·W_d + b_d + Σ_{j<d} T_{d,j}[c_j] ) · V_d + a_d )

x is the user's vector. T_{d,j} is the embedding of layer j's nodes times its part of layer d's weights: the linear map
of x ⊕ emb(c_1) ⊕ … is a sum of such parts, so a node is looked up and never multiplied. A path is one number, its nodes
the digits to the base K, the first layer's the highest. Runs on NumPy alone.
(Gao et al., "Learning an end-to-end structure for retrieval in large-scale recommendations", CIKM 2021.)
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays


@dataclass(frozen=True, slots=True)
class PathNet:
    """The weights of the path network. D layers, K nodes, hidden width h, user vectors of width v.

    path_user [D, v, h] W, path_bias [D, h] b, path_nodes [D·(D−1)/2, K, h] T in the order (2,1) (3,1) (3,2) …,
    path_out [D, h, K] V, path_shift [D, K] a.
    """

    path_user: NDArray[np.float32]
    path_bias: NDArray[np.float32]
    path_nodes: NDArray[np.float32]
    path_out: NDArray[np.float32]
    path_shift: NDArray[np.float32]

    @property
    def depth(self) -> int:
        """D, layers."""
        return len(self.path_user)

    @property
    def width(self) -> int:
        """K, nodes of a layer."""
        return int(self.path_shift.shape[1])

    def beam(self, users: NDArray[np.float32], size: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(paths, log p) [r, b]: of each user [r, v] the `size` likeliest paths that beam search finds, best first.

        b = min(size, K^D). Each layer keeps the `size` best beginnings; with size ≥ K^(D−1) nothing is ever lost and
        the answer is that of an exhaustive search. Equal ones are ordered by the lower path. Cost O(D·K·size) per user.
        """
        rows = np.arange(len(users))[:, None]
        paths, scores = np.zeros((len(users), 1), np.int64), np.zeros((len(users), 1), np.float32)
        sums = [users @ self.path_user[layer] + self.path_bias[layer] for layer in range(self.depth)]
        steps = [part[:, None] for part in sums]  # [r, b, h] what each beginning adds up to in each layer to come
        for layer in range(self.depth):
            grown = self._log_softmax(steps[layer], layer) + scores[:, :, None]
            flat = grown.reshape(len(users), -1)
            best = _best(flat, size)
            came, node = np.divmod(best, self.width)
            paths, scores = paths[rows, came] * self.width + node, flat[rows, best]
            for later in range(layer + 1, self.depth):
                steps[later] = steps[later][rows, came] + self.path_nodes[table_of(later, layer)][node]
        order = np.lexsort((paths, -scores))
        return paths[rows, order], scores[rows, order]

    def _log_softmax(self, hidden: NDArray[np.float32], layer: int) -> NDArray[np.float32]:
        logits = np.maximum(hidden, 0.0) @ self.path_out[layer]
        logits += self.path_shift[layer]
        logits -= logits.max(axis=-1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))

    def save(self, folder: Path) -> None:
        save_arrays(folder, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote, memory-mapped. Raises ArtifactError."""
        return cls(*(load_array(folder, field.name) for field in fields(cls)))


def table_of(layer: int, earlier: int) -> int:
    """Where in `path_nodes` the table T of a layer and an earlier one is; layers count from 0."""
    return layer * (layer - 1) // 2 + earlier


def _best(scores: NDArray[np.float32], size: int) -> NDArray[np.int64]:
    """[r, min(size, n)] columns of each row's largest scores, in no order."""
    count = scores.shape[1]
    if size >= count:
        return np.broadcast_to(np.arange(count), scores.shape)
    return np.argpartition(scores, count - size, axis=1)[:, count - size :]


@dataclass(frozen=True, slots=True)
class PathItems:
    """The items on each path that has some: items starts[j] : starts[j + 1] are on paths[j].

    paths [q] ascending, starts [q + 1], items [·] item numbers, ascending on each path.
    """

    paths: NDArray[np.int64]
    starts: NDArray[np.int64]
    items: NDArray[np.int32]

    @classmethod
    def of(cls, paths_of: NDArray[np.int64]) -> Self:
        """From each item's paths [i, J], −1 where it has fewer."""
        item, slot = np.nonzero(paths_of >= 0)
        path = paths_of[item, slot]
        order = np.lexsort((item, path))
        paths, starts = np.unique(path[order], return_index=True)
        return cls(paths, np.append(starts, len(order)).astype(np.int64), item[order].astype(np.int32))

    def on(self, paths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The distinct items on some paths [b], ascending; paths with nothing on them are passed over."""
        return _on(self.paths, self.starts, self.items, np.asarray(paths, np.int64))  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        save_arrays(folder, paths=self.paths, path_starts=self.starts, path_items=self.items)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote, memory-mapped. Raises ArtifactError."""
        return cls(*(load_array(folder, name) for name in ("paths", "path_starts", "path_items")))


@njit(cache=True, nogil=True)
def _on(known: Any, starts: Any, items: Any, paths: Any) -> Any:
    """See `PathItems.on`: items are marked in one byte each up to the largest, which is faster than sorting them."""
    spans, most, count = np.zeros((len(paths), 2), np.int64), -1, 0
    for row in range(len(paths)):
        at = np.searchsorted(known, paths[row])
        if at < len(known) and known[at] == paths[row]:
            spans[row] = starts[at], starts[at + 1]
            for entry in range(starts[at], starts[at + 1]):
                most = max(most, items[entry])
    there = np.zeros(most + 1, np.bool_)
    for begin, end in spans:
        for entry in range(begin, end):
            count += int(not there[items[entry]])
            there[items[entry]] = True
    found, room = np.empty(count + 1, np.int64), 0
    for item in range(most + 1):
        found[room] = item
        room += int(there[item])
    return found[:count]
