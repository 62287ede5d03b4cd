"""A formula of one's own over heads: text → a small tree → one number per row.

    click * (1 + 2 * like) * max(play, 1)^0.3 / duration_seconds

Python's own parser reads the text and a list of what is allowed walks over what it read, so nothing is ever run but the
operations below. What cannot be meant is an error before anything is served, with its place in the text:

Units: heads in seconds (`play`, `…_seconds`) and plain numbers (rates, ranks, all else) may not be added or compared. A
factor written as a number says what a second is worth, so `0.02 * play + click` is right and `play + click` is not.
Ranges: rates lie in [0, 1], seconds are at least 0. A part that reads heads and yet is always the same, such as
`max(click, 30)` or `like^0`, is refused.

Every result is finite: a divisor nearer to 0 than 1e-9 counts as 1e-9 of its sign, `log` and powers take what is below
1e-9 as 1e-9 (powers by 1, 2, 3 … excepted), `sqrt` what is below 0 as 0, and beyond ±1e100 nothing grows.
"""

import ast
import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tamis.types import ACTIONS

LEAST: Final = 1e-9  # products and logarithms are taken of at least this, so that one zero does not end all order
MOST: Final = 1e100
LONGEST: Final = 1000  # characters
MOST_PARTS: Final = 200
DEEPEST: Final = 40

Unit = float | None  # power of seconds; None = a number as it was written, which takes the unit of what it meets
Range = tuple[float, float]
Values = Any  # [n] float64, or one number where no head is read

_ALLOWED: Final = re.compile(r"[A-Za-z0-9_+\-*/^().,\s]*")
_OPERATORS: Final[Mapping[type[ast.AST], str]] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "^", ast.USub: "negative", ast.UAdd: "positive",
}  # fmt: skip
_ARGUMENTS: Final[Mapping[str, tuple[int, int]]] = {
    "log": (1, 1), "log1p": (1, 1), "exp": (1, 1), "sqrt": (1, 1), "rank": (1, 1),
    "min": (2, MOST_PARTS), "max": (2, MOST_PARTS), "clip": (3, 3),
}  # fmt: skip
_RATES: Final = frozenset(ACTIONS) - {"play", "rate", "impression"}


@dataclass(frozen=True, slots=True)
class Node:
    """One part: a number, a name, or an operation on other parts.   place: of its first character, from 1."""

    kind: str  # "number", "name", an operator or a function
    place: int
    parts: tuple["Node", ...] = ()
    name: str = ""
    value: float = 0.0


@dataclass(frozen=True)
class Expression:
    """A formula that can be read.   constants are its names that stand for numbers and for no head."""

    text: str
    root: Node

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All names, each once, in the order they are written."""
        return tuple(dict.fromkeys(_names(self.root)))

    def check(self, constants: Mapping[str, float]) -> None:
        """Raises ValueError with the place where units do not fit or a part of it is always the same."""
        if not set(self.names) - set(constants):
            raise ValueError(f"expression {self.text!r} reads no head: all rows would score the same")
        _Check(self.text, constants).unit(self.root)
        _Check(self.text, constants).range(self.root)

    def score(self, heads: Mapping[str, NDArray[Any]], constants: Mapping[str, float]) -> NDArray[np.float64]:
        """[n] the value of each row, finite.   heads: name → [n] finite predictions of one request."""
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(_value(self.root, {**heads, **constants}), np.float64)


@lru_cache(maxsize=256)
def read_expression(text: str) -> Expression:
    """The formula that a text says. Raises ValueError with the place of what cannot be read, and what was wanted."""
    if not text.strip():
        raise ValueError("expression is empty: wanted a formula over heads, like click * (1 + 2 * like)")
    if len(text) > LONGEST:
        raise ValueError(f"expression has {len(text)} characters: wanted at most {LONGEST}")
    good = _ALLOWED.match(text)
    if good is not None and good.end() < len(text):
        raise _error(text, good.end() + 1, f"no character {text[good.end()]!r} there; wanted {_wanted()}")
    return Expression(text, _Reader(text).read())


def place_of(values: NDArray[Any]) -> NDArray[np.float64]:
    """[n] the place of each row among the rows by its value, 1 = largest; equal values share one."""
    return np.asarray(1.0 + len(values) - np.searchsorted(np.sort(values), values, side="right"))


class _Reader:
    """From text to a tree. Power may be written ^ or **, and a formula may go over several lines."""

    def __init__(self, text: str) -> None:
        self.text, self.count = text, 0
        lead = len(text) - len(text.lstrip())  # Python takes space at the beginning for a mistake
        pieces = [(at, "**" if sign == "^" else " " if sign.isspace() else sign) for at, sign in enumerate(text)]
        self.source = "".join(piece for at, piece in pieces if at >= lead)
        self.places = [at + 1 for at, piece in pieces if at >= lead for _ in piece]

    def read(self) -> Node:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # "2or 3" is a number and a word only to the kind-hearted
                tree = ast.parse(self.source, mode="eval")
        except SyntaxError as error:
            place = self._place((error.offset or len(self.source) + 1) - 1)
            raise _error(self.text, place, f"cannot be read ({error.msg}); wanted {_wanted()}") from None
        except (MemoryError, RecursionError, ValueError):
            raise ValueError(f"expression: nested too deeply; wanted at most {DEEPEST} levels") from None
        return self._node(tree.body, 1)

    def _node(self, node: ast.expr, depth: int) -> Node:
        place = self._place(node.col_offset)
        self.count += 1
        if depth > DEEPEST or self.count > MOST_PARTS:
            raise _error(self.text, place, f"too large; wanted at most {MOST_PARTS} parts and {DEEPEST} levels")
        match node:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return Node("number", place, value=self._number(value, place))
            case ast.Name(id=name):
                if name in _ARGUMENTS:
                    raise _error(self.text, place, f"{name} is a function; wanted {name}(…)")
                return Node("name", place, name=name)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
                return Node(_OPERATORS[type(op)], place, (self._node(operand, depth + 1),))
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATORS:
                return Node(_OPERATORS[type(op)], place, (self._node(left, depth + 1), self._node(right, depth + 1)))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                least, most = self._arguments(name, place)
                if not least <= len(arguments) <= most:
                    wanted = f"{least}" if least == most else f"at least {least}"
                    raise _error(self.text, place, f"{name} of {len(arguments)} values; wanted {wanted}")
                return Node(name, place, tuple(self._node(each, depth + 1) for each in arguments))
        raise _error(self.text, place, f"{type(node).__name__} is no part of a formula; wanted {_wanted()}")

    def _arguments(self, name: str, place: int) -> tuple[int, int]:
        if name not in _ARGUMENTS:
            raise _error(self.text, place, f"no function {name!r}; there are {', '.join(_ARGUMENTS)}")
        return _ARGUMENTS[name]

    def _number(self, value: float, place: int) -> float:
        if abs(value) > MOST:  # before the conversion, which fails for whole numbers of any length
            raise _error(self.text, place, f"the number is too large; wanted at most {MOST:g}")
        return float(value)

    def _place(self, offset: int) -> int:
        return self.places[min(max(offset, 0), len(self.places) - 1)]


class _Check:
    """Units and ranges of a tree, before any row is seen."""

    def __init__(self, text: str, constants: Mapping[str, float]) -> None:
        self.text, self.constants = text, constants

    def unit(self, node: Node) -> Unit:
        """The power of seconds that a part is measured in. Raises ValueError where units do not fit."""
        if node.kind == "number" or node.name in self.constants:
            return None
        if node.kind == "name":
            return 1.0 if _in_seconds(node.name) else 0.0
        units = [self.unit(part) for part in node.parts]
        match node.kind:
            case "*" | "/" if None in units:
                return None
            case "*":
                return sum(filter(None, units))
            case "/":
                return units[0] - units[1]  # type: ignore[operator]
            case "^":
                return self._powered(node, *units)
            case "sqrt":
                return None if units[0] is None else units[0] / 2
            case "log" | "log1p" | "rank" | "exp":
                if node.kind == "exp" and units[0]:
                    raise self._error(node, f"exp of {_unit_name(units[0])}; wanted a plain number: divide it first")
                return 0.0
        return self._common(node, units)

    def _common(self, node: Node, units: list[Unit]) -> Unit:
        """The one unit of parts that are added up or compared."""
        known = [(unit, part) for unit, part in zip(units, node.parts, strict=True) if unit is not None]
        for unit, part in known[1:]:
            if not math.isclose(unit, known[0][0], abs_tol=1e-9):
                raise self._error(
                    part,
                    f"{_unit_name(unit)} beside {_unit_name(known[0][0])} (place {known[0][1].place}) in "
                    f"{node.kind!r}; wanted one unit: multiply by a number that says what a second is worth",
                )
        return known[0][0] if known else None

    def _powered(self, node: Node, base: Unit, exponent: Unit) -> Unit:
        if exponent:
            raise self._error(node.parts[1], f"an exponent in {_unit_name(exponent)}; wanted a plain number")
        if not base:
            return base
        low, high = self.range(node.parts[1], fixed=True)
        if low != high:
            raise self._error(node.parts[0], "seconds to an exponent that differs from row to row; divide them first")
        return base * low

    def range(self, node: Node, fixed: bool = False) -> Range:
        """The least and the largest value of a part. Raises ValueError where it reads heads and never changes.

        fixed: take constants for what they are and not for any number: they are there to be changed.
        """
        if node.kind == "number":
            return node.value, node.value
        if node.kind == "name":
            if node.name in self.constants:
                return (self.constants[node.name],) * 2 if fixed else (-MOST, MOST)
            return (0.0, MOST) if _in_seconds(node.name) else (0.0, 1.0) if _is_rate(node.name) else (-MOST, MOST)
        parts = [self.range(part, fixed) for part in node.parts]
        reads = bool(set(_names(node)) - set(self.constants))
        if node.kind == "/" and parts[1] == (0.0, 0.0):
            raise self._error(node.parts[1], "division by 0; wanted another divisor")
        if node.kind == "rank" and not reads:
            raise self._error(node, "rank of what is the same for all rows; wanted something that reads a head")
        with np.errstate(over="ignore", under="ignore"):
            low, high = _range(node.kind, parts)
        if reads and low == high:
            raise self._error(node, f"always {low:g}, whatever its heads say; wanted something that can change")
        return low, high

    def _error(self, node: Node, why: str) -> ValueError:
        return _error(self.text, node.place, why)


def _range(kind: str, parts: list[Range]) -> Range:
    """What an operation makes of ranges. All are monotone in each part, so that the corners tell, but for a few."""
    if kind == "rank":
        return 1.0, MOST
    if kind == "/" and parts[1][0] < 0 <= parts[1][1]:  # 0 itself divides as the least number above it
        return (0.0, 0.0) if parts[0] == (0.0, 0.0) else (-MOST, MOST)
    if kind == "^" and parts[0][0] < 0 and parts[1] != (0.0, 0.0):
        return -MOST, MOST
    if kind == "clip":
        within = _range("max", [parts[0], parts[1]])
        return _range("min", [within, parts[2]])
    if kind in ("min", "max"):
        ends = [[part[side] for part in parts] for side in (0, 1)]
        return _OPERATIONS[kind](*ends[0]).item(), _OPERATIONS[kind](*ends[1]).item()
    corners = [(end,) for end in parts[0]] if len(parts) == 1 else [(a, b) for a in parts[0] for b in parts[1]]
    values = [float(_bounded(_OPERATIONS[kind](*map(np.float64, corner)))) for corner in corners]
    return min(values), max(values)


def _divided(a: Values, b: Values) -> Values:
    return a / np.where(b < 0, np.minimum(b, -LEAST), np.maximum(b, LEAST))


def _powered(a: Values, b: Values) -> Values:
    whole = (b > 0) & (b == np.floor(b))
    return np.where(whole, a, np.maximum(a, LEAST)) ** b


_OPERATIONS: Final[Mapping[str, Callable[..., Values]]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _divided,
    "^": _powered,
    "negative": lambda a: -a,
    "positive": lambda a: a,
    "log": lambda a: np.log(np.maximum(a, LEAST)),
    "log1p": lambda a: np.log1p(np.maximum(a, LEAST - 1)),
    "exp": np.exp,
    "sqrt": lambda a: np.sqrt(np.maximum(a, 0)),
    "rank": place_of,
    "min": lambda *each: _folded(np.minimum, each),
    "max": lambda *each: _folded(np.maximum, each),
    "clip": lambda a, low, high: np.minimum(np.maximum(a, low), high),
}


def _folded(operation: Any, each: tuple[Values, ...]) -> Values:
    out = each[0]
    for other in each[1:]:
        out = operation(out, other)
    return out


def _bounded(values: Values) -> Values:
    return np.minimum(np.maximum(values, -MOST), MOST)


def _value(node: Node, heads: Mapping[str, Values]) -> Values:
    if node.kind == "number":
        return np.float64(node.value)
    if node.kind == "name":
        return _bounded(np.asarray(heads[node.name], np.float64))
    return _bounded(_OPERATIONS[node.kind](*(_value(part, heads) for part in node.parts)))


def _names(node: Node) -> list[str]:
    return [node.name] if node.kind == "name" else [name for part in node.parts for name in _names(part)]


def _in_seconds(name: str) -> bool:
    return name == "play" or name.endswith("_seconds")


def _is_rate(name: str) -> bool:
    return name in _RATES or name.startswith(("p_", "pre_"))


def _unit_name(unit: float) -> str:
    return "plain numbers" if not unit else "seconds" if unit == 1 else f"seconds^{unit:g}"


def _error(text: str, place: int, why: str) -> ValueError:
    return ValueError(f"expression, place {place} ({text[place - 1 : place + 23]!r}): {why}")


def _wanted() -> str:
    return f"numbers, heads, + - * / ^, round brackets and {', '.join(_ARGUMENTS)}"
