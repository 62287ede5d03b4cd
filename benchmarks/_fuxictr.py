"""FuxiCTR's DCNv2 and FinalMLP on columns in memory: `pip install fuxictr` (asked with 2.3.10).

What the package installs of its model zoo are the variants for long histories. They have all layers of the published
models; what a row goes through is overridden here to be as published (`flat`): every field once, a history as the mean
of its embeddings, and FinalMLP's feature selection in use. The zoo's MMoE and PLE are not in the package.
"""

import importlib.util
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from _columns import Columns

MISSING = "FuxiCTR is not installed (pip install fuxictr): its rows are left out"


def installed() -> bool:
    """False when the package is missing; says so."""
    there = importlib.util.find_spec("fuxictr") is not None
    if not there:
        print(MISSING)
    return there


class Batches:
    """The rows in batches of tensors, as FuxiCTR's own loaders give them; in a new order each time if `random`."""

    def __init__(self, columns: Columns, label: str, size: int, random: np.random.Generator | None) -> None:
        arrays = {**columns.codes, **columns.bags, **columns.numbers, "label": columns.labels[label]}
        self.tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        self.size, self.random = size, random

    def __len__(self) -> int:
        return -(-len(self.tensors["label"]) // self.size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rows = len(self.tensors["label"])
        order = np.arange(rows) if self.random is None else self.random.permutation(rows)
        for at in range(0, rows, self.size):
            part = torch.from_numpy(order[at : at + self.size])
            yield {name: tensor[part] for name, tensor in self.tensors.items()}


def predicted(
    model: str, settings: dict[str, Any], parts: tuple[Columns, Columns, tuple[Columns, ...]], label: str, seed: int
) -> tuple[list[NDArray[np.float64]], float]:
    """Scores of each test part of a model trained by FuxiCTR's own `fit`, and its validation AUC.

    parts: training, validation and test rows.   settings: of the model; `batch_size` and `epochs` besides.
    """
    from fuxictr.metrics import evaluate_metrics
    from fuxictr.pytorch.torch_utils import seed_everything

    train, valid, tests = parts
    seed_everything(seed)
    size = settings["batch_size"]
    with tempfile.TemporaryDirectory() as folder:
        net = flat(model)(
            feature_map(train, settings["embedding_dim"], folder),
            **{name: value for name, value in settings.items() if name not in ("batch_size", "epochs")},
            optimizer="adam",
            loss="binary_crossentropy",
            metrics=["AUC"],
            monitor="AUC",
            early_stop_patience=2,
            verbose=0,
            model_root=folder,
        )
        batches = Batches(train, label, size, np.random.default_rng(seed))
        net.fit(batches, epochs=settings["epochs"], validation_data=Batches(valid, label, size, None))
        of_valid = net.predict(Batches(valid, label, size, None))
        scores = [net.predict(Batches(test, label, size, None)) for test in tests]
    return scores, float(evaluate_metrics(valid.labels[label], of_valid, ["AUC"])["AUC"])


def feature_map(columns: Columns, width: int, folder: str) -> Any:
    """What FuxiCTR's models want to know of the columns."""
    from fuxictr.features import FeatureMap

    features = FeatureMap("rows", folder)
    features.labels, features.default_emb_dim = ["label"], width
    features.features = OrderedDict()
    for name in columns.codes:
        size = columns.sizes[name]
        features.features[name] = {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": size}
    for name, bag in columns.bags.items():
        shared = columns.shared.get(name)
        features.features[name] = {
            "source": "",
            "type": "sequence",
            "padding_idx": 0,
            "vocab_size": columns.sizes[shared or name],
            "max_len": bag.shape[1],
            "feature_encoder": "layers.MaskedAveragePooling()",
            **({"share_embedding": shared} if shared else {}),
        }
    for name in columns.numbers:
        features.features[name] = {"source": "", "type": "numeric"}
    features.num_fields = features.get_num_fields()
    (Path(folder) / features.dataset_id).mkdir()  # where `fit` keeps its best weights
    return features


def flat(model: str) -> Any:
    """The model of that name, reading each field once."""
    from fuxictr.pytorch.models import BaseModel
    from model_zoo.LongCTR.DCNv2.DCNv2 import DCNv2
    from model_zoo.LongCTR.FinalMLP.FinalMLP import FinalMLP

    class FlatDCNv2(DCNv2):
        get_inputs, get_labels = BaseModel.get_inputs, BaseModel.get_labels

        def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            x = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
            out = self.fc(torch.cat([self.crossnet(x), self.parallel_dnn(x)], dim=-1))
            return {"y_pred": self.output_activation(out)}

    class FlatFinalMLP(FinalMLP):
        get_inputs, get_labels = BaseModel.get_inputs, BaseModel.get_labels

        def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            fields = self.get_inputs(inputs)
            one, two = self.fs_module(fields, self.embedding_layer(fields, flatten_emb=True))
            return {"y_pred": self.output_activation(self.fusion_module(self.mlp1(one), self.mlp2(two)))}

    return {"DCNv2": FlatDCNv2, "FinalMLP": FlatFinalMLP}[model]
