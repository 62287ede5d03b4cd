"""FuxiCTR's DCNv2, FinalMLP and DIN trained on columns in memory.

DCNv2 and FinalMLP read a history as the mean of its embeddings. DIN attends to the entries by what they share with the
candidate; what else is said of an entry (the action, the age) it reads as a mean too.
"""

import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from _columns import Columns
from _fuxictr_zoo import published


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
    past = train.shared if model == "DIN" else {}
    seed_everything(seed)
    size = settings["batch_size"]
    with tempfile.TemporaryDirectory() as folder:
        net = published(model, past, padded=True)(
            feature_map(train, settings["embedding_dim"], folder, past),
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


def feature_map(columns: Columns, width: int, folder: str, past: Mapping[str, str]) -> Any:
    """What FuxiCTR's models want to know of the columns. past: bags that are no field of a row → what they share."""
    from fuxictr.features import FeatureMap

    features = FeatureMap("rows", folder)
    features.labels, features.default_emb_dim = ["label"], width
    shared_by_past = list(past.values())
    kinds = {name: {"source": "", **_code(columns.sizes[name])} for name in columns.codes if name not in shared_by_past}
    for name, bag in columns.bags.items():
        if name in past:
            continue
        shared = columns.shared.get(name)
        kinds[name] = {
            "source": "",
            **_code(columns.sizes[shared or name]),
            "type": "sequence",
            "max_len": bag.shape[1],
            "feature_encoder": "layers.MaskedAveragePooling()",
            **({"share_embedding": shared} if shared else {}),
        }
    kinds |= {name: {"source": "", "type": "numeric"} for name in columns.numbers}
    kinds |= {name: {"source": "item", **_code(columns.sizes[name])} for name in shared_by_past}
    features.features = OrderedDict(kinds)
    features.num_fields = features.get_num_fields()
    (Path(folder) / features.dataset_id).mkdir()  # where `fit` keeps its best weights
    return features


def _code(size: int) -> dict[str, Any]:
    return {"type": "categorical", "padding_idx": 0, "vocab_size": size}
