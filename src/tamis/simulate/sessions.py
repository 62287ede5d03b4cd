"""The log of a world: who comes when, what is shown, what is done with it. One day after the other, page by page.

Within a day the pages are made in rounds: round k makes the k-th page of every user who has one, all at once. A user is
in a round once, so what she did on a page is in her memory before her next.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tamis.data.dataset import DAY_SECONDS
from tamis.simulate.behaviour import F64, Behaviour, Outcomes
from tamis.simulate.memory import Diary, Memory
from tamis.simulate.policy import LoggingPolicy, Popularity
from tamis.simulate.population import Population, Users
from tamis.simulate.settings import WorldConfig
from tamis.types import Progress

FLAGS: Final = ("click", "like", "collect", "share", "comment", "follow", "hide", "long_view")
"""The actions that `Log.flags` holds, bit 0 first."""

_MOST_PAGES: Final = 15  # of one session
# Share of sessions that begin in each hour of the day, midnight first: a small peak at noon, a large one at nine.
_HOURS: Final = (16, 9, 5, 3, 2, 3, 7, 14, 20, 22, 24, 28, 36, 32, 26, 25, 27, 32, 40, 48, 56, 60, 48, 30)


@dataclass(frozen=True, slots=True)
class Log:
    """All pages served, sorted by time, and what was done with each of their items."""

    user: NDArray[np.int32]  # [r]
    time: F64  # [r] when the page was served
    items: NDArray[np.int32]  # [r, page]
    flags: NDArray[np.uint8]  # [r, page] one bit for each of FLAGS
    play: NDArray[np.float32]  # [r, page] seconds, 0 = not played
    reached: NDArray[np.float32]  # [r, page] seconds after `time` at which the user came to the item

    def __len__(self) -> int:
        return len(self.user)

    def flag(self, action: str) -> NDArray[np.bool_]:
        """[r, page] where the action was done."""
        return (self.flags >> np.uint8(FLAGS.index(action)) & np.uint8(1)).astype(np.bool_)

    def diary(self, config: WorldConfig) -> Diary:
        """The log by user and time."""
        row, place = np.nonzero(self.flag("click"))
        size = self.items.shape[1]
        shown = (np.repeat(self.user, size), self.items.ravel(), np.repeat(self.time, size))
        clicked = (self.user[row], self.items[row, place], self.time[row] + self.reached[row, place])
        return Diary.of((config.start_time, config.end_time), shown, clicked)


@dataclass(frozen=True, slots=True)
class _Visits:
    """The pages of one day, sorted by user, then time."""

    user: NDArray[np.int64]  # [pages]
    time: F64  # [pages] planned begin of the session
    opens: NDArray[np.bool_]  # [pages] the first page of a session
    turn: NDArray[np.int64]  # [pages] how many pages of this user come before it on this day


def write_log(
    config: WorldConfig, population: Population, behaviour: Behaviour, progress: Progress
) -> tuple[Log, Memory]:
    """The log of all days, and what the users have in mind at its end."""
    policy = LoggingPolicy.of(config, population)
    popularity = policy.first_popularity(population.items.quality)
    memory = Memory.empty(config.users)
    busy_until = np.zeros(config.users)
    days: list[Log] = []
    for day in range(config.days):
        generator = np.random.default_rng([config.seed, 5, day])
        visits = _plan(config, population.users, day, generator)
        pages = _Day(config, policy, behaviour, popularity, memory, busy_until)
        days.append(pages.run(visits, generator))
        clicks = days[-1].items[days[-1].flag("click")]
        popularity = popularity.tomorrow(np.bincount(clicks, minlength=config.items))
        progress("days of the world", day + 1, config.days)
    log = _join(days)
    return _take(log, np.argsort(log.time, kind="stable")), memory


def _plan(config: WorldConfig, users: Users, day: int, generator: np.random.Generator) -> _Visits:
    """Who comes on a day and how many pages each session would have."""
    morning = config.start_time + day * DAY_SECONDS
    who = np.repeat(np.arange(len(users)), generator.poisson(users.visits_per_day))
    hours = np.array(_HOURS) / sum(_HOURS)
    hour = generator.choice(24, len(who), p=hours) + generator.random(len(who)) + users.hour[who]
    start = morning + hour % 24 * 3600
    arrived = start >= users.register_time[who]
    # A new user looks around right after registering.
    new = np.nonzero((users.register_time >= morning) & (users.register_time < morning + DAY_SECONDS))[0]
    who, start = np.append(who[arrived], new), np.append(start[arrived], users.register_time[new] + 5)
    order = np.lexsort((start, who))
    who, start = who[order], start[order]
    pages = np.minimum(generator.geometric(1 / config.pages_per_session, len(who)), _MOST_PAGES)
    user = np.repeat(who, pages)
    opens = np.zeros(len(user), np.bool_)
    opens[np.cumsum(pages) - pages] = True
    first = np.searchsorted(user, user)
    return _Visits(user, np.repeat(start, pages), opens, np.arange(len(user)) - first)


@dataclass(frozen=True, slots=True)
class _Day:
    """Runs the rounds of one day; `memory` and `busy_until` [u] go on to the next."""

    config: WorldConfig
    policy: LoggingPolicy
    behaviour: Behaviour
    popularity: Popularity
    memory: Memory
    busy_until: F64

    def run(self, visits: _Visits, generator: np.random.Generator) -> Log:
        """The pages that were served before the end of the log."""
        rounds = np.argsort(visits.turn, kind="stable")
        cuts = np.cumsum(np.bincount(visits.turn))[:-1]
        logs = [self._round(visits, rows, generator) for rows in np.split(rounds, cuts)]
        return _join([_nothing(self.config.page_size), *logs])

    def _round(self, visits: _Visits, rows: NDArray[Any], generator: np.random.Generator) -> Log:
        users, opens = visits.user[rows], visits.opens[rows]
        pause = np.where(opens, 60.0, 2.0) + generator.exponential(3.0, len(rows))
        times = self.busy_until[users] + pause
        times = np.round(np.where(opens, np.maximum(times, visits.time[rows]), times), 3)
        # The log is cut off at its end, as a dump of a running system is.
        users, times = users[times < self.config.end_time], times[times < self.config.end_time]
        recent = self.memory.recent(users)
        items = self.policy.pick(users, times, recent, self.popularity, generator)
        outcomes = self.behaviour.respond(users, items, times, np.arange(items.shape[1]), recent)
        self.memory.remember(users, items, outcomes)
        self.busy_until[users] = outcomes["time"][:, -1] + outcomes["play"][:, -1]
        return _page_log(users, items, times, outcomes)


def _page_log(users: NDArray[Any], items: NDArray[Any], times: F64, outcomes: Outcomes) -> Log:
    flags = np.zeros(items.shape, np.uint8)
    for bit, action in enumerate(FLAGS):
        flags |= outcomes[action].astype(np.uint8) << np.uint8(bit)
    reached = (outcomes["time"] - times[:, None]).astype(np.float32)
    return Log(users.astype(np.int32), times, items.astype(np.int32), flags, outcomes["play"], reached)


def _nothing(page: int) -> Log:
    empty = np.empty((0, page))
    floats = empty.astype(np.float32)
    return Log(np.empty(0, np.int32), np.empty(0), empty.astype(np.int32), empty.astype(np.uint8), floats, floats)


def _join(logs: list[Log]) -> Log:
    return Log(*(np.concatenate([getattr(log, name) for log in logs]) for name in Log.__slots__))


def _take(log: Log, rows: NDArray[Any]) -> Log:
    return Log(*(getattr(log, name)[rows] for name in Log.__slots__))
