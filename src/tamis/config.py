"""Configuration: TOML read into one frozen tree of structs, patched by value, never by mutation."""

import hashlib
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from tamis.errors import ConfigError

T = TypeVar("T", bound="Config")
AtLeastZero = Annotated[int, Meta(ge=0)]
AtLeastOne = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[float, Meta(ge=0)]
AboveZero = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
ShareAboveZero = Annotated[float, Meta(gt=0, le=1)]  # so that something is taken
ShareBelowOne = Annotated[float, Meta(ge=0, lt=1)]  # so that something is left
_SOME_VALUE: Final = re.compile(r"\$((?:\.[^.\[\]`]+)*)\[\.\.\.\]")
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+$")]  # of what becomes a folder, a column or part of a path


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every section of the configuration: frozen, and a misspelt key is an error."""


class StepConfig(Config, frozen=True, tag_field="kind"):
    """Base of every step's section. Subclasses give `tag="…"`, the value of `kind` in the TOML file.

    One that gives rows (a source, a selector) has a key `limit`: most rows it gives back; 0 = no limit of its own.
    """


def read(path: Path, kind: type[T]) -> T:
    """The configuration in a TOML file. Raises ConfigError with the path of the offending key."""
    return convert(read_toml(path), kind, where=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The plain tree in a TOML file. Raises ConfigError naming the file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = "; `tamis init DIR` writes a commented one" if path.name == "tamis.toml" else ""
        raise ConfigError(f"{path}: no such file{hint}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def convert(tree: Mapping[str, Any], kind: type[T], where: str = "config") -> T:
    """A plain tree as a frozen config. Raises ConfigError naming `where` and the key."""
    for path in _not_finite(tree, "$"):
        raise ConfigError(f"{where}: not a finite number - at `{path}`")
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_plain(_named(str(error), tree, kind))}") from None
    except ValueError as error:  # raised by a section's __post_init__
        raise ConfigError(f"{where}: {error}") from None


def _named(message: str, tree: Mapping[str, Any], kind: type[Config]) -> str:
    """The message with the keys that msgspec leaves out of a path: it writes `[...]` for any value of a mapping.

    Which one it was is found by trying each alone.
    """
    named = message
    while found := _SOME_VALUE.search(named):
        parents = found.group(1).split(".")[1:]
        for key in reduce(lambda node, name: node[name], parents, tree):
            alone = _with_only(tree, parents, key)
            try:
                msgspec.convert(alone, kind)
            except ValueError as error:
                if str(error) == message:
                    tree, named = alone, named.replace("[...]", f".{key}", 1)
                    break
        else:
            break
    return named


def _with_only(tree: Mapping[str, Any], parents: Sequence[str], key: str) -> dict[str, Any]:
    """The tree without the other keys of one mapping."""
    if not parents:
        return {key: tree[key]}
    first, *rest = parents
    return {**tree, first: _with_only(tree[first], rest, key)}


def _plain(message: str) -> str:
    """What msgspec says of a tree, in the words of those who wrote the file."""
    for theirs, ours in (
        ("Object contains unknown field", "unknown key"),
        ("Object missing required field", "missing"),
    ):
        message = message.replace(theirs, ours)
    return message


def override(config: T, patches: Mapping[str, Any]) -> T:
    """A new tree with some keys changed; the old one stays as it was.

    patches: dotted path → value, for instance {"funnel.rank.steps.fuse.weights.like": 6.0}. A path may add a key to a
    mapping (a step, a weight) but not to a struct. None as a value removes the key.
    """
    tree = msgspec.to_builtins(config)
    for path, value in patches.items():
        *parents, last = path.split(".")
        node = tree
        for name in parents:
            if not isinstance(node, dict) or name not in node:
                raise ConfigError(f"override {path}: there is no {name!r}")
            node = node[name]
        if not isinstance(node, dict):
            raise ConfigError(f"override {path}: {'.'.join(parents)} is a value, not a section")
        if value is None and last not in node:
            raise ConfigError(f"override {path}: there is no {last!r} to remove")
        if value is None:
            del node[last]
        else:
            node[last] = value
    return convert(tree, type(config), where="override")


def digest(config: msgspec.Struct) -> str:
    """Twelve hexadecimal digits that change when, and only when, a value of the tree changes."""
    canonical = msgspec.json.encode(config, order="deterministic")
    return hashlib.blake2b(canonical, digest_size=6).hexdigest()


def _not_finite(node: Any, path: str) -> Iterator[str]:
    """The paths of all numbers that are NaN or infinite: TOML has both, and no setting means anything by them."""
    if isinstance(node, Mapping):
        for name, below in node.items():
            yield from _not_finite(below, f"{path}.{name}")
    elif isinstance(node, list | tuple):
        for place, below in enumerate(node):
            yield from _not_finite(below, f"{path}[{place}]")
    elif isinstance(node, float) and not math.isfinite(node):
        yield path
