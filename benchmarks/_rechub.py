"""torch-rechub's MMoE and PLE on columns in memory, trained by its own trainer."""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
from torch_rechub.models.multi_task import MMOE, PLE
from torch_rechub.trainers import MTLTrainer

from _columns import Columns
from tamis.metrics import auc

WIDTH, BATCH, EPOCHS, PATIENCE = 16, 512, 10, 2
EXPERT = {"dims": [128, 64], "dropout": 0.2}


def predicted(model: str, parts: list[Columns], seed: int) -> list[dict[str, NDArray[np.float32]]]:
    """Scores of the second part and those after it; trained on the first, the best epoch chosen on the second.

    As with our nets a head weighs as many as it has positives, and two epochs without a better score end it.
    """
    torch.manual_seed(seed)
    train, valid, *_ = parts
    net = built(model, train)
    trainer = MTLTrainer(net, ["classification"] * len(train.labels), model_path=tempfile.gettempdir())
    loader = Batches(train, np.random.default_rng(seed))
    weights = [label.sum() for label in valid.labels.values()]
    best, kept, since = -1.0, deepcopy(net.state_dict()), 0
    for epoch in range(EPOCHS):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            trainer.train_one_epoch(loader)
        said = scores(net, valid)
        score = float(np.average([auc(valid.labels[head], own) for head, own in said.items()], weights=weights))
        print(f"  torch-rechub {model} epoch {epoch + 1} validation {score:.4f}", flush=True)
        since += 1
        if score > best:
            best, kept, since = score, deepcopy(net.state_dict()), 0
        if since == PATIENCE:
            break
    net.load_state_dict(kept)
    return [scores(net, part) for part in parts[1:]]


def built(model: str, columns: Columns) -> torch.nn.Module:
    """Four experts (two shared and one for each head in PLE's two levels) of 128-64, towers of 32."""
    features: list[Any] = [SparseFeature(name, columns.sizes[name], WIDTH) for name in columns.codes]
    for name in columns.bags:
        shared = columns.shared.get(name)
        size = columns.sizes[shared or name]
        features.append(SequenceFeature(name, size, WIDTH, pooling="mean", shared_with=shared, padding_idx=0))
    features += [DenseFeature(name) for name in columns.numbers]
    tasks, towers = ["classification"] * len(columns.labels), [{"dims": [32]} for _ in columns.labels]
    if model == "MMoE":
        return MMOE(features, tasks, 4, EXPERT, towers)
    return PLE(features, tasks, 2, 1, 2, EXPERT, towers)


class Batches:
    """The rows in batches of tensors, in a new order each time."""

    def __init__(self, columns: Columns, random: np.random.Generator) -> None:
        self.rows, self.labels, self.random = tensors(columns), labels(columns), random

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        for part in torch.from_numpy(self.random.permutation(len(self.labels))).split(BATCH):
            yield {name: tensor[part] for name, tensor in self.rows.items()}, self.labels[part]

    def __len__(self) -> int:
        return -(-len(self.labels) // BATCH)


def tensors(columns: Columns) -> dict[str, torch.Tensor]:
    arrays = {**columns.codes, **columns.bags, **columns.numbers}
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def labels(columns: Columns) -> torch.Tensor:
    return torch.from_numpy(np.stack(list(columns.labels.values()), 1))


def scores(net: torch.nn.Module, columns: Columns) -> dict[str, NDArray[np.float32]]:
    """Each head's probabilities for all rows."""
    net.eval()
    rows = tensors(columns)
    with torch.no_grad():
        count = len(next(iter(columns.labels.values())))
        pieces = [slice(at, at + 4096) for at in range(0, count, 4096)]
        out = torch.cat([net({name: tensor[part] for name, tensor in rows.items()}) for part in pieces]).numpy()
    return {head: out[:, at] for at, head in enumerate(columns.labels)}
