"""The settings of the state: how much of each user is remembered and how the store keeps it."""

from typing import Annotated

from msgspec import Meta

from tamis.config import AtLeastOne, Config, NotNegative
from tamis.types import ACTION_CODE, ACTIONS


class StateConfig(Config, frozen=True):
    """What a user's row remembers, and the limits of the LMDB environment.

    timeline_limit: newest entries kept per user.   timeline_actions: the actions that go into the timeline; all others
    are only counted and mark their item as seen.
    seen_capacity: shown items per Bloom generation; a full one starts the next.   seen_generations: generations kept,
    so that between (generations − 1)·capacity and generations·capacity of the newest shown items are remembered.
    seen_days: what was shown is forgotten between so many days and generations / (generations − 1) times as many
    after it; 0 = by number alone.   seen_false_positive_rate: of all full generations together.
    map_size_gib: address space the LMDB file starts with, at most 64 TiB; it grows by itself.
    max_readers: reads under way at once, of all processes.   durable: False gives up the fsync of every transaction: a
    killed process still loses nothing, a machine that loses power may lose or damage the file; for tests and
    simulations.
    """

    timeline_limit: AtLeastOne = 200
    timeline_actions: tuple[str, ...] = ("click", "like", "collect", "share", "comment", "follow", "long_view", "rate")
    seen_capacity: AtLeastOne = 500
    seen_generations: Annotated[int, Meta(ge=1, le=255)] = 4
    seen_days: NotNegative = 0.0
    seen_false_positive_rate: Annotated[float, Meta(gt=0, lt=1)] = 0.01
    map_size_gib: Annotated[float, Meta(gt=0, le=65536)] = 4.0
    max_readers: AtLeastOne = 512
    durable: bool = True

    def __post_init__(self) -> None:
        if self.seen_days and self.seen_generations < 2:
            raise ValueError("seen_days wants at least 2 seen_generations, so that one can expire")
        unknown = [name for name in self.timeline_actions if name not in ACTION_CODE]
        if unknown:
            raise ValueError(f"timeline_actions {unknown}: no such action; there are {', '.join(ACTIONS)}")
