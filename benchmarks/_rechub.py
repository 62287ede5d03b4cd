"""torch-rechub's MMoE, PLE and DIN on columns in memory, trained by its own trainers.

MMoE and PLE have all heads in one net and read a history as the mean of its embeddings. DIN has one output, so there is
one net for each head; it attends to the entries by each field that they share with the candidate, and reads what else
is said of an entry (the action, the age) as a mean too.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
from torch_rechub.basic.layers import EmbeddingLayer
from torch_rechub.models.multi_task import MMOE, PLE
from torch_rechub.models.ranking import DIN
from torch_rechub.trainers import CTRTrainer, MTLTrainer

from _columns import Columns
from tamis.metrics import auc

WIDTH, BATCH, EPOCHS, PATIENCE = 16, 512, 10, 2
EXPERT = {"dims": [128, 64], "dropout": 0.2}


def predicted(model: str, parts: list[Columns], seed: int) -> list[dict[str, NDArray[np.float32]]]:
    """Scores of the second part and those after it; trained on the first, the best epoch chosen on the second."""
    if model != "DIN":
        return _predicted(model, parts, seed)
    heads = [
        _predicted(model, [replace(part, labels={head: part.labels[head]}) for part in parts], seed)
        for head in parts[0].labels
    ]
    return [{head: score for said in of_part for head, score in said.items()} for of_part in zip(*heads, strict=True)]


def _predicted(model: str, parts: list[Columns], seed: int) -> list[dict[str, NDArray[np.float32]]]:
    """By one net. As with our nets a head weighs as many as it has positives, two epochs without a gain end it."""
    torch.manual_seed(seed)
    train, valid, *_ = parts
    net = built(model, train)
    where, tasks = {"model_path": tempfile.gettempdir()}, ["classification"] * len(train.labels)
    trainer = MTLTrainer(net, tasks, **where) if len(tasks) > 1 else CTRTrainer(net, **where)
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
    """MMoE: 4 experts of 128-64; PLE: two levels of 2 shared and one for each head; towers of 32. DIN: 128-64."""
    past = columns.shared if model == "DIN" else {}
    field = {
        name: SparseFeature(name, columns.sizes[name], WIDTH, padding_idx=0 if name in past.values() else None)
        for name in columns.codes
    }
    bag = {}
    for name in columns.bags:
        shared = columns.shared.get(name)
        size, pooling = columns.sizes[shared or name], "concat" if name in past else "mean"
        bag[name] = SequenceFeature(name, size, WIDTH, pooling=pooling, shared_with=shared, padding_idx=0)
    target = [field.pop(name) for name in past.values()]
    entries = [bag.pop(name) for name in past]
    features = [*field.values(), *bag.values(), *(DenseFeature(name) for name in columns.numbers)]
    if model == "DIN":
        return din(features, entries, target, **EXPERT)
    tasks, towers = ["classification"] * len(columns.labels), [{"dims": [32]} for _ in columns.labels]
    if model == "MMoE":
        return MMOE(features, tasks, 4, EXPERT, towers)
    return PLE(features, tasks, 2, 1, 2, EXPERT, towers)


def din(beside: list[Any], past: list[Any], target: list[Any], dims: list[int], dropout: float = 0.0) -> DIN:
    """DIN with an attention of 36. past: the fields of an entry.   target: the candidate's same fields, then others."""
    net = DIN(beside, past, target, {"dims": dims, "dropout": dropout}, {"dims": [36]})
    if any(isinstance(feature, DenseFeature) for feature in beside):
        net.embedding = _WithNumbers([*beside, *past, *target])
    return net


class _WithNumbers(EmbeddingLayer):
    """DIN asks for embeddings in a stack, in which numbers have no place: they would be lost without a word."""

    def forward(self, x: dict[str, torch.Tensor], features: list[Any], squeeze_dim: bool = False) -> torch.Tensor:
        numbers = any(isinstance(feature, DenseFeature) for feature in features)
        return super().forward(x, features, squeeze_dim=squeeze_dim or numbers)


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
    """[n, heads], or [n] of a single one."""
    return torch.from_numpy(np.stack(list(columns.labels.values()), 1)).squeeze(1)


def scores(net: torch.nn.Module, columns: Columns) -> dict[str, NDArray[np.float32]]:
    """Each head's probabilities for all rows."""
    net.eval()
    rows = tensors(columns)
    with torch.no_grad():
        count = len(next(iter(columns.labels.values())))
        pieces = [slice(at, at + 4096) for at in range(0, count, 4096)]
        out = torch.cat([net({name: tensor[part] for name, tensor in rows.items()}) for part in pieces]).numpy()
    return {head: out.reshape(count, -1)[:, at] for at, head in enumerate(columns.labels)}
