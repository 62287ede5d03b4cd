"""What a whole configuration may not say although each of its sections could be read.

A bound of a single number is its type, in config.py. The tables here are for keys of the nets that many parts have and
that mean the same in all of them; each problem begins with the path.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from tamis.types import ACTIONS, WATCH_HEADS

_LEAST: Final[Mapping[str, float]] = {
    "epochs": 1, "batch_size": 1, "threads": 1, "patience": 0, "l2": 0, "decay_to": 0,
    "extra_negatives": 0, "extra_exponent": 0, "log_q": 0, "unshown": 0, "shown_power": 0, "embedding_spread": 0,
}  # fmt: skip
_ABOVE_ZERO: Final = (
    "learning_rate",
    "embedding_learning_rate",
    "wide_learning_rate",
    "play_limit_seconds",
)
_WIDTHS: Final = ("user_layers", "item_layers", "cross_layers", "expert_hidden", "tower_hidden", "stream_hidden")
_ACTIONS: Final = ("interest_actions", "positive", "positives", "heads", "labels")


def unknown_actions(config: msgspec.Struct) -> Iterator[str]:
    """A problem for each list of actions with a name in it that is none, or that nobody does (an impression).

    Heads may also be what is made of plays.
    """
    for path, name, value in _settings(config, ""):
        known = (*ACTIONS[1:], *WATCH_HEADS) if name == "heads" else ACTIONS[1:]
        if name in _ACTIONS and (unknown := [action for action in value if action not in known]):
            yield f"{path} names {unknown}; there are {', '.join(known)}"


def idle_weights(config: msgspec.Struct) -> Iterator[str]:
    """A problem for each mapping of weights in the loss that names a head which the same step does not have."""
    heads: tuple[str, ...] = ()
    for path, name, value in _settings(config, ""):
        if name == "heads":
            heads = value
        elif name == "head_weights" and (idle := sorted(set(value) - set(heads))):
            yield f"{path} names {idle}, not among the heads {list(heads)}"


def impossible_numbers(config: msgspec.Struct) -> Iterator[str]:
    """A problem for each number outside the bounds that its key has everywhere."""
    for path, name, value in _settings(config, ""):
        if name in _LEAST and value < _LEAST[name]:
            yield f"{path} is {value}: wanted at least {_LEAST[name]}"
        if name in _ABOVE_ZERO and value <= 0:
            yield f"{path} is {value}: wanted above 0"
        if name == "head_weights" and (low := {head: weight for head, weight in value.items() if weight < 0}):
            yield f"{path} is {low}: wanted at least 0"
        if name in _WIDTHS and min(value, default=1) < 1:
            yield f"{path} is {list(value)}: wanted widths of at least 1"


def _settings(node: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """(path, key, value) of every key of every section below a node; keys of mappings are names, not settings."""
    if isinstance(node, Mapping):
        for name, below in node.items():
            yield from _settings(below, f"{path}.{name}")
    elif isinstance(node, msgspec.Struct):
        for name in node.__struct_fields__:
            value = getattr(node, name)
            here = f"{path}.{name}".removeprefix(".")
            yield here, name, value
            yield from _settings(value, here)
