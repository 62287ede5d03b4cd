"""How good the towers are after an epoch: recall of validation positives in the whole catalogue."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.data.picks import spaced
from tamis.data.samples import Samples
from tamis.features.inputs import Inputs
from tamis.nets.batch import tensor
from tamis.nets.device import device_of, placed
from tamis.nets.draws import acted_rows
from tamis.nets.tower import Towers
from tamis.nets.tower_plan import ContrastPlan
from tamis.types import Catalog

_ITEMS_AT_ONCE = 8192
_USERS_AT_ONCE = 256


class RecallJudge:
    """Recall@k of some validation positives, all items competing that were there before training ended."""

    def __init__(self, inputs: Inputs, plan: ContrastPlan) -> None:
        self.inputs, self.k = inputs, plan.judge_k
        self.rows, self.starts = positives_of(inputs.valid, plan)
        requests = np.flatnonzero(np.diff(self.starts))
        self.requests = spaced(requests, plan.judge_requests)

    def recall(self, towers: Towers) -> float:
        """Share of the positives among their user's k best items; 0 without validation rows."""
        if not len(self.requests):
            return 0.0
        catalog, found, count = self.inputs.catalog, 0, 0
        there = self.inputs.items_there
        vectors = vectors_of(towers, catalog, there)
        for part in blocks(self.requests, _USERS_AT_ONCE):
            batch = self.inputs.batch(self.inputs.valid, part)
            sides = tensor(batch.user_codes), tensor(batch.user_dense), tensor(batch.history_codes)
            users = towers.users(*placed(sides, device_of(towers)))
            cosines = users @ vectors.T
            scores = (cosines.amax(1) if users.dim() == 3 else cosines).numpy(force=True)
            for row, request in enumerate(part):
                wanted = self.inputs.valid.item[self.rows[self.starts[request] : self.starts[request + 1]]]
                better = (scores[row] > scores[row, np.searchsorted(there, wanted)][:, None]).sum(axis=1)
                found += int((better < self.k).sum())
                count += len(wanted)
        return found / count


def positives_of(samples: Samples, plan: ContrastPlan) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(positive rows, [r + 1] where each request's begin); none when the samples lack the actions."""
    known = any(name in samples.labels for name in plan.positives)
    rows = acted_rows(samples, plan.positives) if known else np.empty(0, np.int64)
    return rows, np.searchsorted(rows, samples.first)


def vectors_of(towers: Towers, catalog: Catalog, items: NDArray[np.int64]) -> Tensor:
    """[n, vector_size] of some items of the catalogue, at least one."""
    parts = (catalog.features(part) for part in blocks(items, _ITEMS_AT_ONCE))
    sides = (placed((tensor(part.codes), tensor(part.dense)), device_of(towers)) for part in parts)
    return torch.cat([towers.items(*side) for side in sides])


def blocks(values: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """The values in pieces of `size`."""
    return [values[start : start + size] for start in range(0, len(values), size)]
