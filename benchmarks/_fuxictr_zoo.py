"""FuxiCTR's DCNv2, FinalMLP and DIN as they were published: `pip install fuxictr` (asked with 2.3.10).

What the package installs of its model zoo are the variants for long histories. They have all layers of the published
models; what a row goes through is overridden here: every field once, FinalMLP's feature selection in use, and DIN's
entries compared with the candidate by the fields that both have. The zoo's MMoE and PLE are not in the package.
"""

import importlib.util
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

Batch = dict[str, torch.Tensor]


@cache
def installed() -> bool:
    """False when the package is missing; says so once."""
    there = importlib.util.find_spec("fuxictr") is not None
    if not there:
        print("FuxiCTR is not installed (pip install fuxictr): it is left out")
    return there


def published(model: str, past: Mapping[str, str] | None = None, padded: bool = False) -> Any:
    """The class of the model of that name ("DCNv2", "FinalMLP", "DIN").

    past: for DIN, column of the history → the item's field whose table it reads; those fields are the last of its
    feature map, in this order, and of source "item".   padded: whether code 0 says that an entry is absent.
    """
    from fuxictr.pytorch.models import BaseModel
    from model_zoo.LongCTR.DCNv2.DCNv2 import DCNv2
    from model_zoo.LongCTR.DIN.DIN import DIN
    from model_zoo.LongCTR.FinalMLP.FinalMLP import FinalMLP

    class FlatDCNv2(DCNv2):
        get_inputs, get_labels, train_step = BaseModel.get_inputs, BaseModel.get_labels, BaseModel.train_step

        def forward(self, inputs: Batch) -> Batch:
            x = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
            out = self.fc(torch.cat([self.crossnet(x), self.parallel_dnn(x)], dim=-1))
            return {"y_pred": self.output_activation(out)}

    class FlatFinalMLP(FinalMLP):
        get_inputs, get_labels, train_step = BaseModel.get_inputs, BaseModel.get_labels, BaseModel.train_step

        def forward(self, inputs: Batch) -> Batch:
            fields = self.get_inputs(inputs)
            one, two = self.fs_module(fields, self.embedding_layer(fields, flatten_emb=True))
            return {"y_pred": self.output_activation(self.fusion_module(self.mlp1(one), self.mlp2(two)))}

    class FlatDIN(DIN):
        get_labels, train_step = BaseModel.get_labels, BaseModel.train_step

        def forward(self, inputs: Batch) -> Batch:
            fields = {name: inputs[name] for name in self.feature_map.features}
            row = self.embedding_layer(fields, flatten_emb=True)
            tables = self.embedding_layer.embedding_layer.embedding_layers
            entries = torch.cat([tables[shared](inputs[name].long()) for name, shared in past.items()], -1)
            there = inputs[next(iter(past))] > 0 if padded else None
            pooled = self.attention_layers(row[:, -self.item_info_dim :], entries, there)
            return {"y_pred": self.dnn(torch.cat([row, pooled], -1))}

    return {"DCNv2": FlatDCNv2, "FinalMLP": FlatFinalMLP, "DIN": FlatDIN}[model]
