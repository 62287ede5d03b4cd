"""FuxiCTR's DCNv2, DIN and MMoE for `speed_rank.py`.

The zoo's MMoE is not in the package: here it is put together from FuxiCTR's own blocks (`MLP_Block`,
`FeatureEmbedding`) on its `MultiTaskModel`. All train by its own `train_step`, clipping included, with embeddings drawn
as tamis draws them.
"""

import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _fuxictr_zoo import Batch, published


@dataclass(frozen=True)
class Columns:
    """sizes: codes of each field.   item: the item's fields.   past: column of the history → the field it shares.

    length: entries of a history.   width: of an embedding.   spread: standard deviation of new embeddings.
    """

    sizes: dict[str, int]
    item: list[str]
    past: dict[str, str]
    length: int
    labels: list[str]
    width: int
    spread: float


def net(model: str, columns: Columns, learning_rate: float) -> Any:
    """The model of that name ("DCNv2", "DIN", "MMoE") with the sizes of `speed_rank.py`."""
    from fuxictr.features import FeatureMap

    folder = tempfile.gettempdir()
    features = FeatureMap("rows", folder)
    features.labels, features.default_emb_dim = columns.labels, columns.width
    features.features = OrderedDict()
    for name, size in columns.sizes.items():
        source = "item" if model == "DIN" and name in columns.item else ""
        features.features[name] = {"source": source, "type": "categorical", "vocab_size": size}
    features.num_fields = features.get_num_fields()
    common = {"optimizer": "adam", "loss": "binary_crossentropy", "metrics": ["AUC"], "verbose": 0}
    common |= {"model_root": folder, "learning_rate": learning_rate, "embedding_dim": columns.width}
    made = {"DCNv2": _dcn, "DIN": _din, "MMoE": _mmoe}[model](features, columns, common)
    made._max_gradient_norm, made._eval_steps, made._total_steps, made._batch_index = 10.0, 10**9, 0, 0
    made._stop_training = False
    for module in made.modules():
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, 0.0, columns.spread)
    made.columns = columns
    return made


def step(model: Any, batch: Batch) -> int:
    """FuxiCTR's own step; → rows."""
    model.train()
    model.train_step(batch).item()
    return len(next(iter(batch.values())))


def trainer(model: Any, arrays: dict[str, np.ndarray], batch: int) -> Callable[[], int]:
    """One epoch of FuxiCTR's own loop over its own loader of a file in its own format."""
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders import RankDataLoader

    features = FeatureMap("rows", tempfile.gettempdir())
    features.labels, features.features = model.columns.labels, OrderedDict(model.feature_map.features)
    for name in model.columns.past:
        features.features[name] = {"source": "", "type": "sequence", "max_len": model.columns.length}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.npz"
        np.savez(file, **arrays)
        loader, _ = RankDataLoader(features, "train", str(file), batch_size=batch, data_format="npz", num_workers=0)
    rows = len(next(iter(arrays.values())))

    def epoch() -> int:
        model.train_epoch(loader)
        return rows

    return epoch


def predicted(model: Any, tensors: Batch, size: int = 8192) -> np.ndarray:
    """[n] the first label's probability."""
    rows = len(next(iter(tensors.values())))
    model.eval()
    with torch.no_grad():
        parts = [model({n: t[at : at + size] for n, t in tensors.items()})["y_pred"] for at in range(0, rows, size)]
    return torch.cat(parts).view(-1).numpy()


def _dcn(features: Any, columns: Columns, common: dict[str, Any]) -> Any:
    sizes = {"num_cross_layers": 2, "parallel_dnn_hidden_units": [256, 128], "batch_norm": True}
    return published("DCNv2")(features, **sizes, **common)


def _din(features: Any, columns: Columns, common: dict[str, Any]) -> Any:
    sizes = {"dnn_hidden_units": [256, 128], "attention_hidden_units": [36], "attention_hidden_activations": "ReLU"}
    return published("DIN", columns.past)(features, **sizes, **common)


def _mmoe(features: Any, columns: Columns, common: dict[str, Any]) -> Any:
    from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import MultiTaskModel

    class Mmoe(MultiTaskModel):
        def __init__(self) -> None:
            tasks = len(columns.labels)
            super().__init__(features, task=["binary_classification"] * tasks, num_tasks=tasks, **common)
            width = features.sum_emb_out_dim()
            self.embedding_layer = FeatureEmbedding(features, columns.width)
            self.experts = torch.nn.ModuleList(MLP_Block(width, hidden_units=[128, 64]) for _ in range(4))
            self.gates = torch.nn.ModuleList(torch.nn.Linear(width, 4) for _ in range(tasks))
            self.towers = torch.nn.ModuleList(MLP_Block(64, [32], output_dim=1) for _ in range(tasks))
            self.compile(common["optimizer"], common["loss"], common["learning_rate"])
            self.reset_parameters()

        def forward(self, inputs: Batch) -> Batch:
            x = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
            experts, out = torch.stack([expert(x) for expert in self.experts], 1), {}
            for name, gate, tower, end in zip(
                columns.labels, self.gates, self.towers, self.output_activation, strict=True
            ):
                mixed = torch.bmm(torch.softmax(gate(x), 1).unsqueeze(1), experts).squeeze(1)
                out[f"{name}_pred"] = end(tower(mixed))
            return out

    return Mmoe()
