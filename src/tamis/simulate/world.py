"""A synthetic world from one seed: its people, its items, its log, and the truth behind them.

world = World.generate(WorldConfig.tiny())
world.tables()                              the log as raw tables, ready to import
world.preference(users, items, times)       the oracle: what the users would really do
world.respond(users, items, times)          what they do with pages that somebody else made
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tamis.data.tables import RawTables
from tamis.simulate.behaviour import PREFERENCES, Behaviour, Outcomes
from tamis.simulate.memory import Diary, Memory, Recent
from tamis.simulate.population import Population
from tamis.simulate.sessions import Log, write_log
from tamis.simulate.settings import WorldConfig
from tamis.simulate.tables import raw_tables
from tamis.types import Progress, silent

__all__ = ["World", "WorldConfig"]

F64 = NDArray[np.float64]
_PAIRS_AT_ONCE: Final = 100_000


def _number(external_id: str) -> int:
    digits = external_id[1:]
    return int(digits) if len(digits) >= 6 and digits.isascii() and digits.isdecimal() else -1


@dataclass(frozen=True, slots=True)
class World:
    """A generated world. User and item numbers are the rows of its tables; times are seconds since the epoch."""

    config: WorldConfig
    population: Population
    behaviour: Behaviour
    log: Log
    diary: Diary
    memory: Memory  # what the users have in mind at the end of the log; copy it to carry it on

    @classmethod
    def generate(cls, config: WorldConfig, progress: Progress = silent) -> "World":
        """The world of a config. progress: called with (what, done, total) after every day."""
        population = Population.generate(config)
        behaviour = Behaviour.calibrate(config, population)
        log, memory = write_log(config, population, behaviour, progress)
        return cls(config, population, behaviour, log, log.diary(config), memory)

    def tables(self) -> RawTables:
        """The log as raw tables: user i is row i of users, item i is row i of items."""
        return raw_tables(self.config, self.population, self.log)

    def preference(self, users: NDArray[Any], items: NDArray[Any], times: NDArray[Any]) -> dict[str, F64]:
        """True probability of every action if the item stood first on a page at that time; play: mean seconds.

        users and times: [r].   items: [r], or [r, n] for n items in each moment; the answer has its shape.
        Interests of the moment, recent clicks and repeated impressions are those of the log before that time.
        A user or item of −1 (unknown), or an item that is not out yet at that time, gets 0 everywhere.
        """
        users, items, times = self._checked(users, items, times)
        unknown = users < 0
        users = np.maximum(users, 0)
        wide = items[:, None] if items.ndim == 1 else items
        answer = {name: np.zeros(wide.shape) for name in PREFERENCES}
        step = max(1, _PAIRS_AT_ONCE // max(wide.shape[1], 1))
        for begin in range(0, len(wide), step):
            rows = slice(begin, begin + step)
            recent = self.diary.recent(users[rows], times[rows])
            known = np.maximum(wide[rows], 0)
            none = unknown[rows, None] | (wide[rows] < 0)
            for name, values in self.behaviour.expect(users[rows], known, times[rows], recent).items():
                answer[name][rows] = np.where(none, 0.0, values)
        return {name: values.reshape(items.shape) for name, values in answer.items()}

    def respond(
        self,
        users: NDArray[Any],
        items: NDArray[Any],
        times: NDArray[Any],
        positions: NDArray[Any] | None = None,
        memory: Memory | None = None,
    ) -> Outcomes:
        """What users [r] do with pages of items [r, n] (−1 = no item) that are shown to them at times [r].

        Columns of shape [r, n]: a bool for every action; play: seconds; time: when the user came to the item.
        positions: 0-based places, [n] or [r, n]; the column numbers if not given.   memory: what the users have in
        mind (the caller lets it `remember` the page afterwards); as the log stands at those times if not given.
        The same call gives the same answer, and a page the same in any company.
        """
        users, items, times = self._checked(users, items, times)
        if (users < 0).any():
            raise ValueError("users must be known: nobody knows what user −1 does")
        if items.ndim != 2:
            raise ValueError(f"items must be pages [r, n], not of shape {items.shape}")
        recent: Recent = self.diary.recent(users, times) if memory is None else memory.recent(users)
        places = np.arange(items.shape[1]) if positions is None else np.asarray(positions)
        if places.shape not in (items.shape, items.shape[1:]):
            raise ValueError(f"positions must have shape {items.shape[1:]} or {items.shape}, not {places.shape}")
        return self.behaviour.respond(users, items, times, np.maximum(places, 0), recent)

    @staticmethod
    def numbers(external_ids: Iterable[str]) -> NDArray[np.int64]:
        """User or item numbers of external ids: u000123 → 123; −1 for an id that no world gives."""
        return np.fromiter((_number(external_id) for external_id in external_ids), np.int64)

    def _checked(
        self, users: NDArray[Any], items: NDArray[Any], times: NDArray[Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], F64]:
        users, items, times = np.asarray(users, np.int64), np.asarray(items, np.int64), np.asarray(times, np.float64)
        if users.ndim != 1 or times.shape != users.shape:
            raise ValueError(f"users and times must be [r], not {users.shape} and {times.shape}")
        if items.ndim not in (1, 2) or len(items) != len(users):
            raise ValueError(f"items must be [{len(users)}] or [{len(users)}, n], not {items.shape}")
        if len(users) and not -1 <= users.min() <= users.max() < self.config.users:
            raise ValueError(f"users must be from −1 to {self.config.users - 1}")
        if items.size and not -1 <= items.min() <= items.max() < self.config.items:
            raise ValueError(f"items must be from −1 to {self.config.items - 1}")
        if not np.isfinite(times).all():
            raise ValueError("times must be finite")
        return users, items, times
