"""Running an exported net: ONNX Runtime behind two verbs, open and run. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tamis.errors import ArtifactError
from tamis.features.batch import NetBatch


@dataclass(frozen=True, slots=True)
class Session:
    """An exported net, ready to run. May be shared by threads.

    inputs, outputs: names in the order of the graph.   types: the NumPy type wanted for each input.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    types: Mapping[str, np.dtype[Any]]
    _runtime: Any

    @classmethod
    def open(cls, path: Path, threads: int = 1) -> "Session":
        """The net in the file `path`; weights in `<stem>.weights` beside it are memory-mapped, shared by processes.

        threads: of one call to `run`; a server that answers requests side by side wants 1.
        Raises ArtifactError when the file is missing or is not a net.
        """
        try:
            runtime = onnxruntime.InferenceSession(str(path), _options(threads), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own error classes are not public
            raise ArtifactError(f"{path}: cannot be opened as a net: {error}") from None
        inputs = runtime.get_inputs()
        types: dict[str, np.dtype[Any]] = {node.name: _TYPES[node.type] for node in inputs}
        return cls(tuple(types), tuple(node.name for node in runtime.get_outputs()), types, runtime)

    def run(self, **arrays: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The outputs by name. Raises ValueError naming the input that is missing, unknown or of a wrong shape."""
        if missing := [name for name in self.inputs if name not in arrays]:
            raise ValueError(f"{missing[0]}: the net wants this input; it has {list(self.inputs)}")
        if unknown := sorted(set(arrays) - set(self.inputs)):
            raise ValueError(f"{unknown[0]}: the net has no such input; it has {list(self.inputs)}")
        feed = {name: np.ascontiguousarray(array, self.types[name]) for name, array in arrays.items()}
        try:
            values = self._runtime.run(None, feed)
        except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            raise ValueError(f"an input has a wrong shape: {error}") from None
        return dict(zip(self.outputs, values, strict=True))

    def answer(self, batch: NetBatch, **more: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The same for a net whose inputs are called like fields of a batch, all but those in `more`."""
        fields = {name: getattr(batch, name) for name in self.inputs if name not in more}
        return self.run(**fields, **more)


_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(bool)": np.dtype(np.bool_),
}


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_mem_pattern = False  # the number of candidates differs from call to call
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
