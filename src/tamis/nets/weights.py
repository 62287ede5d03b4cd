"""The weights of two towers, read back from their exported graphs: a bundle keeps no other copy of them."""

from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from tamis.errors import ArtifactError
from tamis.features.earlier import Earlier, carried_rows
from tamis.features.encode import Encoder
from tamis.nets.tower import Towers

_PREFIX: Final = "towers."
_TABLE: Final = "table.weight"


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights by their names in `Towers`; the embeddings are those of the user's graph, which increments move."""
    weights = {}
    for side in ("item", "user"):
        try:
            graph = onnx.load(str(folder / f"{side}.onnx")).graph
        except Exception as error:  # onnx and protobuf raise errors of many classes
            raise ArtifactError(f"{folder / side}.onnx: cannot be read as a net: {error}") from None
        for tensor in graph.initializer:
            if tensor.name.startswith(_PREFIX):
                weights[tensor.name.removeprefix(_PREFIX)] = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
        # The exporter writes equal weights once: the numbers of a side without any, for instance.
        for node in graph.node:
            if node.op_type == "Identity" and node.input[0].startswith(_PREFIX) and node.output[0].startswith(_PREFIX):
                weights[node.output[0].removeprefix(_PREFIX)] = weights[node.input[0].removeprefix(_PREFIX)].clone()
    return weights


def restore(towers: Towers, weights: dict[str, Tensor], where: Path) -> None:
    """Gives the towers these weights. Raises ArtifactError when they are those of towers of another shape."""
    try:
        towers.load_state_dict(weights)
    except RuntimeError:
        raise ArtifactError(
            f"{where}: its towers have another shape (layers, sizes, interests); train without its weights"
        ) from None


def begin_with(towers: Towers, earlier: Earlier, encoder: Encoder) -> None:
    """Gives the towers the weights of an earlier training; embeddings of words and ids it did not know stay new."""
    weights = read_weights(earlier.folder)
    rows = torch.from_numpy(carried_rows(earlier.encoder, encoder))
    table = towers.table.weight.detach().clone()
    if weights[_TABLE].shape[1] == table.shape[1]:
        table[rows >= 0] = weights[_TABLE][rows[rows >= 0]]
        weights[_TABLE] = table
    restore(towers, weights, earlier.folder)
