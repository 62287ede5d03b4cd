"""How far a training is, on disk: after a crash it goes on from there and ends with the same weights.

One file, replaced by one atomic rename: the net, the optimizer's moments, the best weights so far, and the state of
every stream of random numbers. Arrays and JSON only, no pickle.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.artifact import replace_durably
from tamis.config import Config
from tamis.errors import ArtifactError
from tamis.nets.optimizer import Optimizer

_FACTS: Final = "facts"
Arrays = Mapping[str, NDArray[Any]]


class Place(Config, frozen=True):
    """Where in its course a training stands.

    epoch, batch: the next one to be done.   done: rows so far.   scores, best: as in `loop.Report`.
    streams: states of the generators that make batches, and of those inside the net that are NumPy's.
    """

    epoch: int = 0
    batch: int = 0
    done: int = 0
    scores: tuple[float, ...] = ()
    best: int = -1
    streams: tuple[dict[str, Any], ...] = ()


def streams_of(net: nn.Module) -> tuple[list[np.random.Generator], list[torch.Generator]]:
    """The generators that the net's own modules draw from, in the order of the modules, each once."""
    found = {id(value): value for module in net.modules() for value in vars(module).values()}.values()
    return (
        [value for value in found if isinstance(value, np.random.Generator)],
        [value for value in found if isinstance(value, torch.Generator)],
    )


def states(streams: Sequence[np.random.Generator]) -> tuple[dict[str, Any], ...]:
    """Where each stream stands; see `set_states`."""
    return tuple(dict(stream.bit_generator.state) for stream in streams)


def set_states(streams: Sequence[np.random.Generator], kept: Sequence[Mapping[str, Any]]) -> None:
    """Puts the streams where they stood."""
    for stream, state in zip(streams, kept, strict=True):
        stream.bit_generator.state = state


def save(file: Path, place: Place, net: nn.Module, optimizer: Optimizer, best: Mapping[str, Tensor] | None) -> None:
    """Writes a checkpoint. best: the weights of epoch `place.best`, None = those that the net has or none yet."""
    arrays = {f"net.{name}": value.numpy(force=True) for name, value in net.state_dict().items()}
    arrays |= {f"best.{name}": value.numpy(force=True) for name, value in (best or {}).items()}
    arrays |= {f"moved.{name}": value for name, value in optimizer.state().items()}
    arrays |= {f"random.{i}": stream.get_state().numpy() for i, stream in enumerate(streams_of(net)[1])}
    arrays[_FACTS] = np.frombuffer(msgspec.json.encode(place), np.uint8)

    def write(path: Path) -> None:
        with path.open("wb") as out:
            np.savez(out, **arrays)

    file.parent.mkdir(parents=True, exist_ok=True)
    replace_durably(file, write)


def load(file: Path, net: nn.Module, optimizer: Optimizer) -> tuple[Place, dict[str, Tensor] | None]:
    """(place, best weights) of a checkpoint, its weights, moments and torch's streams put into `net` and `optimizer`.

    The place is the beginning when there is no file. Raises ArtifactError for one that belongs to another net.
    """
    if not file.is_file():
        return Place(), None
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        place = msgspec.json.decode(arrays[_FACTS].tobytes(), type=Place)
        net.load_state_dict(_tensors(arrays, "net."))
        optimizer.set_state(_under(arrays, "moved."))
        for i, stream in enumerate(streams_of(net)[1]):
            stream.set_state(torch.from_numpy(arrays[f"random.{i}"]))
    except (OSError, ValueError, KeyError, RuntimeError, msgspec.MsgspecError) as error:
        raise ArtifactError(f"{file}: no checkpoint of this training: {error}") from None
    return place, _tensors(arrays, "best.") or None


def _under(arrays: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _tensors(arrays: Arrays, prefix: str) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in _under(arrays, prefix).items()}
