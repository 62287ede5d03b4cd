"""What Deep Retrieval is to look like and how items find their paths: plain values, so that a part needs no torch."""

from dataclasses import dataclass
from typing import Literal

from tamis.errors import ConfigError
from tamis.nets.tower_plan import ContrastPlan

Penalty = Literal["paper", "course"]
ITEMS_PER_PATH = 20  # the default structure has this many possible paths per item
_MOST_CODES = 2**62  # a path is one number of 64 bits


@dataclass(frozen=True, slots=True)
class PathShape:
    """The structure: `depth` layers of `width` nodes; hidden: width of each layer's hidden layer."""

    depth: int
    width: int
    hidden: int

    def __post_init__(self) -> None:
        if min(self.depth, self.width, self.hidden) < 1 or self.width**self.depth > _MOST_CODES:
            raise ConfigError(
                f"paths of depth {self.depth}, width {self.width}, hidden {self.hidden}: "
                "wanted each at least 1, and width ** depth at most 2 ** 62"
            )

    @staticmethod
    def of(depth: int, width: int, hidden: int, items: int) -> "PathShape":
        """The shape for so many items; width 0: the least whole number with width ** depth ≥ 20 · items."""
        if width < 0 or depth < 1:
            raise ConfigError(f"paths of depth {depth}, width {width}: wanted depth ≥ 1 and width ≥ 0")
        if not width:
            while max(1, width) ** depth < ITEMS_PER_PATH * items or not width:
                width += 1
        return PathShape(depth, width, hidden)


@dataclass(frozen=True, slots=True)
class AssignPlan:
    """How items find their paths while the net stands still; see `nets.path_assignment`.

    paths: most of one item.   penalty, alpha: what a full path costs.   kept: best-scored paths remembered per item.
    decay: an item's scores shrink by it with each of its examples.   sweeps: rounds over all items.
    """

    paths: int
    penalty: Penalty
    alpha: float
    kept: int
    decay: float
    sweeps: int

    def __post_init__(self) -> None:
        if self.paths < 1 or self.kept < self.paths or self.sweeps < 1:
            raise ConfigError(
                f"paths {self.paths}, kept {self.kept}, sweeps {self.sweeps}: wanted 1 ≤ paths ≤ kept and sweeps ≥ 1"
            )
        if self.alpha < 0 or not 0 < self.decay <= 1:
            raise ConfigError(f"alpha {self.alpha}, decay {self.decay}: wanted alpha ≥ 0 and decay inside (0, 1]")


@dataclass(frozen=True, slots=True)
class DeepPlan:
    """The whole training: towers with their softmax, the structure, the assignment.

    beam: paths that are kept in view per layer.   scored: training requests per epoch that score paths.
    """

    contrast: ContrastPlan
    shape: PathShape
    assign: AssignPlan
    beam: int
    scored: int

    def __post_init__(self) -> None:
        if self.beam < 1 or self.scored < 1:
            raise ConfigError(f"beam {self.beam}, scored {self.scored}: wanted at least 1")
