"""Where a net is trained: in the processor's memory by compiled loops, or on a graphics card by torch's own operations.

Every compiled loop of the nets has a form in plain operations that says the same (`test_nets_device.py` compares them):
that of the exported graph where it serves one request, one of its own where rows belong to many. `compiled` is the only
question that decides between them. What is drawn at random is drawn on the processor and then moved, so that a net is
taught the same on either; sums of many numbers may differ in the last digits. Batches are made and moved by a thread
of their own, and the copies wait their turn among what the card was given to do. When training ends the net is back in
the processor's memory.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tamis.errors import ConfigError
from tamis.nets.plans import Device

T = TypeVar("T")


def chosen(wanted: Device) -> torch.device:
    """The device of a training: "auto" = the graphics card if there is one, else the processor.

    Raises ConfigError for "cuda" where torch sees no card.
    """
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ConfigError(
            "device 'cuda': torch sees no graphics card here; wanted 'auto' or 'cpu', or a build of torch for the card"
        )
    if wanted == "auto":
        return torch.device("cuda" if there else "cpu")
    return torch.device(wanted)


def compiled(tensor: Tensor) -> bool:
    """True where the compiled loops can work on the tensor, which are made for the processor and not exported."""
    return tensor.device.type == "cpu" and not torch.onnx.is_in_onnx_export()


def device_of(net: nn.Module) -> torch.device:
    """Where the weights of a net are."""
    return next(net.parameters()).device


def placed(thing: T, device: torch.device) -> T:
    """A batch with all its tensors on the device: tuples, mappings and dataclasses of them; anything else stays."""
    moved: Any = thing
    if device.type == "cpu":
        return thing
    if isinstance(thing, Tensor):
        moved = thing.to(device)
    elif isinstance(thing, tuple):
        parts = [placed(part, device) for part in thing]
        moved = type(thing)(*parts) if hasattr(thing, "_fields") else tuple(parts)
    elif isinstance(thing, Mapping):
        moved = {name: placed(part, device) for name, part in thing.items()}
    elif is_dataclass(thing):
        moved = replace(moved, **{each.name: placed(getattr(thing, each.name), device) for each in fields(thing)})
    out: T = moved
    return out
