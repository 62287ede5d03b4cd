"""Features, declared once: what each is made of and how it is encoded.

A declaration is a TOML table, for instance `author = { kind = "category", column = "author", min_count = 5 }`.
Categorical kinds give codes into the fused embedding table, the others give numbers that are always finite.
"""

from itertools import pairwise
from typing import Annotated, Literal

from msgspec import Meta

from tamis.config import AboveZero, AtLeastOne, AtLeastZero, Config, NotNegative
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
    """A number cut into `count` buckets of equal mass on the training data, or at `edges` (ascending) if given.

    What is missing or not finite has the code "unknown".
    """

    column: str
    count: AtLeastOne = 10
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if any(low >= high for low, high in pairwise(self.edges)):
            raise ValueError(f"edges {list(self.edges)}: wanted ascending ones")


class Number(FeatureConfig, frozen=True, tag="number"):
    """A number, `log1p`-ed and clipped as told, then standardised on the training data.

    A second number is 1 where it is missing or not finite, and the first one 0, the mean.
    """

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


class Weekday(FeatureConfig, frozen=True, tag="weekday"):
    """The day of the week of the request, UTC plus `offset_hours`. Context only."""

    offset_hours: Annotated[float, Meta(ge=-24, le=24)] = 0.0


class Geohash(FeatureConfig, frozen=True, tag="geohash"):
    """The GeoHash cell of a position, `length` letters (5: 4.9 km wide); the vocabulary is as for `category`."""

    length: Annotated[int, Meta(ge=1, le=12)] = 5
    latitude: str = "latitude"
    longitude: str = "longitude"
    min_count: AtLeastOne = 1
    most: AtLeastOne = 100_000


class Scene(FeatureConfig, frozen=True, tag="scene"):
    """Where the page is shown (tab, surface). Context only; the vocabulary is learnt from the requests."""


class Age(FeatureConfig, frozen=True, tag="age"):
    """log1p of the hours between a time column and the request, 0 when that lies ahead. Items only, dynamic.

    A second number is 1 where the time is missing, and the first one 0.
    """

    column: str = "publish_time"


class Statistic(FeatureConfig, frozen=True):
    """Base of what counts events of one user or item, up to a refresh at or before the request (`refresh_hours`).

    window_hours: only those of so many hours before the refresh; 0 = all so far.
    by: only those that share this feature with the request: of a user by a context feature, or by one of the candidate
    (his events with its author); of an item by a context feature, or by one of the asking user (its events with users
    of his city). An unknown or missing value shares nothing.
    of: items only: count events of all items that share this feature with the candidate, its author's for instance.
    as_of: "now" = up to the request, strictly before it; only for all events of a user (no window, no `by`).
    """

    window_hours: NotNegative = 0.0
    by: str = ""
    of: str = ""
    as_of: Literal["refresh", "now"] = "refresh"


class Rate(Statistic, frozen=True, kw_only=True, tag="rate"):
    """The smoothed rate (n_action + prior·p) / (n_per + prior), p the overall rate, as log of its ratio to p."""

    action: str
    per: str = "impression"
    prior: AboveZero = 20.0

    def __post_init__(self) -> None:
        _known(self.action)
        _known(self.per)


class Count(Statistic, frozen=True, tag="count"):
    """log1p of the number of events of one action."""

    action: str = "impression"

    def __post_init__(self) -> None:
        _known(self.action)


class Mean(Statistic, frozen=True, kw_only=True, tag="mean"):
    """The smoothed mean of the values of one action, stars of `rate` or seconds of `play`, minus the overall mean m.

    (sum − n·m) / (n + prior), n the events with a value above 0: stars of 0 are unknown. 0 without such an event.
    """

    action: Literal["rate", "play"] = "rate"
    prior: AboveZero = 10.0


AnyFeature = (
    Id
    | Category
    | Hash
    | Tags
    | Bucket
    | Number
    | Vector
    | Hour
    | Weekday
    | Scene
    | Geohash
    | Age
    | Rate
    | Count
    | Mean
)
Side = Literal["user", "context", "item"]


class HistoryConfig(Config, frozen=True):
    """The last-N sequence, and what else is read of the user's past.

    long_length: newest entries that a net with a `search` looks through for each candidate; 0 = no net may.
    last_n: actions whose newest `last_n_length` entries are pooled on their own, on the user's side of every net: one
    list of clicks, one of likes.
    with_action, with_age: whether an entry says what was done and how long ago, besides the item's features. A history
    of one action says nothing by naming it, and each is as many numbers of an entry as an item feature.
    """

    actions: tuple[str, ...] = ("click", "like", "collect", "share", "comment", "follow", "long_view")  # its entries
    length: AtLeastOne = 50  # newest entries that the nets see
    fields: tuple[str, ...] = ("item_id", "author", "category")  # item features that make up an entry
    long_length: AtLeastZero = 0
    last_n: tuple[str, ...] = ()
    last_n_length: AtLeastOne = 20
    with_action: bool = True
    with_age: bool = True

    def __post_init__(self) -> None:
        if not (self.fields or self.with_action or self.with_age):
            raise ValueError("history.fields is empty, with_action and with_age are false: nothing makes up an entry")
        if foreign := sorted(set(self.last_n) - set(self.actions)):
            raise ValueError(f"last_n names {foreign}, not among the actions {list(self.actions)} of a history")
        if len(set(self.last_n)) != len(self.last_n):
            raise ValueError(f"last_n {list(self.last_n)}: wanted each once")
        if len(set(self.fields)) != len(self.fields):
            raise ValueError(f"fields {list(self.fields)}: wanted each once")
        if 0 < self.long_length < self.length:
            raise ValueError(
                f"features.history.long_length is {self.long_length}: wanted 0, or at least the length {self.length}"
            )
        for action in self.actions:
            _known(action)


class FeaturesConfig(Config, frozen=True):
    """All features of a project.

    refresh_hours: training rows see statistics as of the last multiple of it since the epoch. A server has those of
    its bundle, as of the end of training, until the next one: publish a bundle that often, and neither is older.
    refresh_offset_hours: local midnight minus UTC midnight, so that days are refreshed at local midnight.
    """

    user: dict[str, AnyFeature] = {}
    context: dict[str, AnyFeature] = {}
    item: dict[str, AnyFeature] = {}
    history: HistoryConfig = HistoryConfig()
    refresh_hours: AboveZero = 24.0
    refresh_offset_hours: Annotated[float, Meta(ge=-24, le=24)] = 0.0

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
                if isinstance(feature, Statistic):
                    _check(self, side, name, feature)

    @property
    def means(self) -> bool:
        """Whether a statistic is made of the values of events, not of their number alone."""
        return any(isinstance(feature, Mean) for feature in (*self.user.values(), *self.item.values()))

    def shared(self, side: Side, feature: Statistic) -> str:
        """The feature that `by` names, as "side.name"; "" without one."""
        named = _named(self, SHARED[side], feature.by)
        return f"{named[0]}.{feature.by}" if named else ""


def single_codes(config: FeaturesConfig, side: Side) -> list[str]:
    """Names of a side's features that give one code."""
    return sorted(name for name in getattr(config, side) if _named(config, (side,), name))


def _named(config: FeaturesConfig, sides: tuple[Side, ...], name: str) -> list[Side]:
    """Those of the sides that have a feature of that name with a single code."""
    kinds = [(side, getattr(config, side).get(name)) for side in sides]
    return [side for side, feature in kinds if feature and not isinstance(feature, (*NUMERIC, Tags))]


def _check(config: FeaturesConfig, side: Side, name: str, feature: Statistic) -> None:
    """Raises ValueError for a statistic that cannot be counted."""
    where = f"{side}.{name}"
    if feature.as_of == "now" and (side != "user" or feature.by or feature.window_hours):
        raise ValueError(f'{where}: as_of = "now" is for all events of a user, without `by` and `window_hours`')
    if feature.as_of == "now" and isinstance(feature, Mean):
        raise ValueError(f'{where}: as_of = "now" is for rates and counts; the state holds no values')
    if feature.of and side != "item":
        raise ValueError(f"{where}: `of` is for items only")
    asked: tuple[tuple[str, str, tuple[Side, ...]], ...] = (
        ("by", feature.by, SHARED[side]),
        ("of", feature.of, ("item",)),
    )
    for key, value, sides in asked:
        there = _named(config, sides, value)
        if value and len(there) != 1:
            found = f"{' and '.join(there)} both have it" if there else "there is none"
            wanted = f"wanted a feature with a single code of {' or '.join(sides)}"
            raise ValueError(f"{where}: {key} names {value!r}; {wanted}, and {found}")


SHARED: dict[Side, tuple[Side, ...]] = {"user": ("context", "item"), "item": ("context", "user")}
"""Where `by` looks for its feature: what is known of the request's moment, then the other party."""

NUMERIC = (Number, Vector, Age, Statistic)
"""Kinds that give numbers; all others give codes."""

NOT_ALLOWED: dict[Side, tuple[type[FeatureConfig], ...]] = {
    "user": (Hour, Weekday, Scene, Age, Vector),
    "context": (Id, Age, Statistic, Vector, Tags),
    "item": (Hour, Weekday, Scene),
}
