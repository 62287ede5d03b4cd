"""A trained net as an ONNX graph that servers run without torch."""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

OPSET = 17
_APART_BYTES = 65_536


def export(
    net: nn.Module,
    example: Mapping[str, Tensor],
    outputs: Sequence[str],
    path: Path,
    dynamic: Mapping[str, Mapping[int, str]],
) -> None:
    """Writes `net` to `path` (.onnx), large weights beside it in `<stem>.weights`, where they can be memory-mapped.

    example: input name → an example tensor, in the order of `forward`'s arguments.
    outputs: names of the tensors that `forward` returns, a tensor or a tuple.
    dynamic: input or output name → {axis: name of the length}, for every length that may differ from the example's.
    """
    axes = {name: dict(lengths) for name, lengths in dynamic.items()}
    net.eval()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        # The newer exporter needs a further package and gives a slower graph for these nets.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            tuple(example.values()),
            f"{folder}/net.onnx",
            input_names=list(example),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamic_axes=axes,
            dynamo=False,
        )
        graph = onnx.load(f"{folder}/net.onnx")
    for node in graph.graph.node:
        node.doc_string = ""  # holds paths of the machine that trained
    onnx.save_model(
        graph,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{path.stem}.weights",
        size_threshold=_APART_BYTES,
    )
