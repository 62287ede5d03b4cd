"""The settings of the state: how much of each user is remembered and how the store keeps it."""

from typing import Final

from tamis.config import Config
from tamis.types import ACTION_CODE, ACTIONS

_LARGEST_MAP_GIB: Final = 65536.0  # 64 TiB: beyond that no address space holds it


class StateConfig(Config, frozen=True):
    """What a user's row remembers, and the limits of the LMDB environment.

    timeline_limit: newest entries kept per user.   timeline_actions: the actions that go into the timeline; all others
    are only counted and mark their item as seen.
    seen_capacity: shown items per Bloom generation; a full one starts the next.   seen_generations: generations kept,
    so that between (generations − 1)·capacity and generations·capacity of the newest shown items are remembered.
    seen_days: what was shown is forgotten between so many days and generations / (generations − 1) times as many
    after it; 0 = by number alone.   seen_false_positive_rate: of all full generations together.
    map_size_gib: address space the LMDB file starts with; it grows by itself.   max_readers: reads under way at once,
    of all processes.   durable: False gives up the fsync of every transaction: a killed process still loses nothing, a
    machine that loses power may lose or damage the file; for tests and simulations.
    """

    timeline_limit: int = 200
    timeline_actions: tuple[str, ...] = ("click", "like", "collect", "share", "comment", "follow", "long_view", "rate")
    seen_capacity: int = 500
    seen_generations: int = 4
    seen_days: float = 0.0
    seen_false_positive_rate: float = 0.01
    map_size_gib: float = 4.0
    max_readers: int = 512
    durable: bool = True

    def __post_init__(self) -> None:
        for name in ("timeline_limit", "seen_capacity", "seen_generations", "max_readers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: wanted at least 1")
        if self.seen_generations > 255:
            raise ValueError(f"seen_generations is {self.seen_generations}: wanted at most 255")
        if self.seen_days < 0:
            raise ValueError(f"seen_days is {self.seen_days}: wanted 0 or more")
        if self.seen_days and self.seen_generations < 2:
            raise ValueError("seen_days wants at least 2 seen_generations, so that one can expire")
        if not 0 < self.seen_false_positive_rate < 1:
            raise ValueError(f"seen_false_positive_rate is {self.seen_false_positive_rate}: wanted inside (0, 1)")
        if not 0 < self.map_size_gib <= _LARGEST_MAP_GIB:
            raise ValueError(f"map_size_gib is {self.map_size_gib}: wanted inside (0, {_LARGEST_MAP_GIB:.0f}]")
        unknown = [name for name in self.timeline_actions if name not in ACTION_CODE]
        if unknown:
            raise ValueError(f"timeline_actions {unknown}: no such action; there are {', '.join(ACTIONS)}")
