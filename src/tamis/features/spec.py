"""Features, declared once: what each is made of and how it is encoded.

A declaration is a TOML table, for instance `author = { kind = "category", column = "author", min_count = 5 }`.
Categorical kinds give codes into the fused embedding table, the others give numbers that are always finite.
"""

from itertools import pairwise
from typing import Annotated, Literal

from msgspec import Meta

from tamis.config import AboveZero, AtLeastOne, AtLeastZero, Config
from tamis.types import ACTION_CODE


def _known(action: str) -> None:
    if action not in ACTION_CODE:
        raise ValueError(f"unknown action {action!r}, wanted one of {sorted(ACTION_CODE)}")


class FeatureConfig(Config, frozen=True, tag_field="kind"):
    """Base of every declaration; `kind` is its tag."""


class Id(FeatureConfig, frozen=True, tag="id"):
    """The user's or item's own number. Ones with fewer than `min_count` events share the code "unknown"."""

    min_count: AtLeastZero = 3


class Category(FeatureConfig, frozen=True, tag="category"):
    """A vocabulary: values seen at least `min_count` times in the training data, the `most` most frequent of them."""

    column: str
    min_count: AtLeastOne = 1
    most: AtLeastOne = 100_000


class Hash(FeatureConfig, frozen=True, tag="hash"):
    """BLAKE2b of the value modulo `buckets`: no vocabulary, never unknown (missing excepted)."""

    column: str
    buckets: AtLeastOne


class Tags(FeatureConfig, frozen=True, tag="tags"):
    """A list of values, the first `width` known ones, averaged by the nets; the vocabulary is as for `category`."""

    column: str
    width: AtLeastOne = 4
    min_count: AtLeastOne = 1
    most: AtLeastOne = 100_000


class Bucket(FeatureConfig, frozen=True, tag="bucket"):
    """A number cut into `count` buckets of equal mass on the training data, or at `edges` (ascending) if given."""

    column: str
    count: AtLeastOne = 10
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if any(low >= high for low, high in pairwise(self.edges)):
            raise ValueError(f"edges {list(self.edges)}: wanted ascending ones")


class Number(FeatureConfig, frozen=True, tag="number"):
    """A number, `log1p`-ed and clipped as told, then standardised on the training data; missing gives 0, the mean."""

    column: str
    log1p: bool = False
    lowest: float = -1e12
    highest: float = 1e12

    def __post_init__(self) -> None:
        if not self.lowest < self.highest:
            raise ValueError(f"lowest {self.lowest:g} and highest {self.highest:g}: wanted lowest below highest")


class Vector(FeatureConfig, frozen=True, tag="vector"):
    """A content vector of fixed width, as it is; missing gives zeros. Items only."""

    column: str


class Hour(FeatureConfig, frozen=True, tag="hour"):
    """The hour of the day of the request, UTC plus `offset_hours`. Context only."""

    offset_hours: Annotated[float, Meta(ge=-24, le=24)] = 0.0


class Scene(FeatureConfig, frozen=True, tag="scene"):
    """Where the page is shown (tab, surface). Context only; the vocabulary is learnt from the requests."""


class Age(FeatureConfig, frozen=True, tag="age"):
    """log1p of the hours between a time column and the request; missing or negative gives 0. Items only, dynamic."""

    column: str = "publish_time"


class Rate(FeatureConfig, frozen=True, tag="rate"):
    """The smoothed rate (n_action + prior·p) / (n_per + prior), p the overall rate, as log of its ratio to p.

    Items: counts as of a refresh at or before the request (`refresh_hours`). Users: counts strictly before the request.
    """

    action: str
    per: str = "impression"
    prior: AboveZero = 20.0

    def __post_init__(self) -> None:
        _known(self.action)
        _known(self.per)


class Count(FeatureConfig, frozen=True, tag="count"):
    """log1p of the number of events of one action so far; see `rate` for "so far"."""

    action: str = "impression"

    def __post_init__(self) -> None:
        _known(self.action)


AnyFeature = Id | Category | Hash | Tags | Bucket | Number | Vector | Hour | Scene | Age | Rate | Count
Side = Literal["user", "context", "item"]


class HistoryConfig(Config, frozen=True):
    """The last-N sequence."""

    actions: tuple[str, ...] = ("click", "like", "collect", "share", "comment", "follow", "long_view")  # its entries
    length: AtLeastOne = 50  # newest entries that the nets see
    fields: tuple[str, ...] = ("item_id", "author", "category")  # item features that make up an entry

    def __post_init__(self) -> None:
        if len(set(self.fields)) != len(self.fields):
            raise ValueError(f"fields {list(self.fields)}: wanted each once")
        for action in self.actions:
            _known(action)


class FeaturesConfig(Config, frozen=True):
    """All features of a project.

    refresh_hours: training rows see item statistics as of the last multiple of it since the epoch. A server has those
    of its bundle, as of the end of training, until the next one: publish a bundle that often, and neither is older.
    """

    user: dict[str, AnyFeature] = {}
    context: dict[str, AnyFeature] = {}
    item: dict[str, AnyFeature] = {}
    history: HistoryConfig = HistoryConfig()
    refresh_hours: AboveZero = 24.0

    def __post_init__(self) -> None:
        missing = [name for name in self.history.fields if name not in self.item]
        if missing:
            raise ValueError(f"history.fields names {missing}, not among the item features {sorted(self.item)}")
        numeric = [name for name in self.history.fields if isinstance(self.item[name], NUMERIC)]
        if numeric:
            raise ValueError(
                f"history.fields names {numeric}, which are numbers; wanted item features with a vocabulary"
            )
        for side, kinds in NOT_ALLOWED.items():
            for name, feature in getattr(self, side).items():
                if isinstance(feature, kinds):
                    raise ValueError(f"{side}.{name}: kind {type(feature).__name__.lower()!r} is not for this side")


NUMERIC = (Number, Vector, Age, Rate, Count)
"""Kinds that give numbers; all others give codes."""

NOT_ALLOWED: dict[Side, tuple[type[FeatureConfig], ...]] = {
    "user": (Hour, Scene, Age, Vector),
    "context": (Id, Age, Rate, Count, Vector, Tags),
    "item": (Hour, Scene),
}
