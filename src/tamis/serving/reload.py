"""New bundles: noticed, checked, loaded beside the old one, warmed up, and only then swapped in.

A bundle that cannot be opened, loaded or warmed up is refused: the log and the metrics say so, the old one stays. It is
looked at again when something else was published; a worker that has no old one tries again and again, ever more rarely.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

import structlog

from tamis.artifact import current_name, published
from tamis.serving.engine import Engine
from tamis.serving.wire import EventRequest, ItemRequest, RankRequest, RecommendRequest
from tamis.state.memory import Memory
from tamis.types import ACTION_CODE

Load = Callable[[Path], Engine]
"""A bundle's folder → an engine over it that is warm; any error refuses the bundle."""

_LONGEST_PAUSE_SECONDS: Final = 30.0
_NEW: Final = "an item that was just put"
_REHEARSED: Final = 10  # items that somebody acts on before he asks
log = structlog.get_logger()


class BundleWatch:
    """Follows CURRENT in a folder of bundles.

    swap: takes the new engine into service.   refused: called for every bundle that was refused.
    """

    def __init__(
        self,
        root: Path,
        load: Load,
        swap: Callable[[Engine], None],
        refused: Callable[[], None],
        interval_seconds: float = 1.0,
    ) -> None:
        self._root: Final = root
        self._load: Final = load
        self._swap: Final = swap
        self._refused: Final = refused
        self._interval_seconds: Final = interval_seconds
        self._looked_at = ""
        self._serving = False
        self._stop: Final = Event()
        self._thread: Thread | None = None

    def check(self) -> bool:
        """Looks at CURRENT once. True when a new bundle was swapped in."""
        name = current_name(self._root)
        if not name or name == self._looked_at:
            return False
        self._looked_at = name
        return self._take(name)

    def first(self) -> bool:
        """The published bundle or, when that is refused, the last one published before that is not. False: none is."""
        if self.check():
            return True
        older = [name for name in reversed(published(self._root)) if name != self._looked_at]
        return bool(self._looked_at) and any(self._take(name) for name in older)

    def start(self) -> None:
        """Looks again and again, in a thread of its own; the first time for any bundle that can serve."""
        self._thread = Thread(target=self._follow, name="bundles", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; a bundle that is being loaded is finished first."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _follow(self) -> None:
        spread, pause_seconds = random.Random(), self._interval_seconds
        if not self._looked_at:
            self.first()
        while not self._stop.wait(pause_seconds * spread.uniform(0.8, 1.2)):  # workers do not load in step
            if self._serving or not self._looked_at:
                pause_seconds = self._interval_seconds
                self.check()
            else:
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
                self._looked_at = ""
                self.first()

    def _take(self, name: str) -> bool:
        try:
            engine = self._load(self._root / name)
        except Exception as error:
            log.error("bundle refused", bundle=name, error=f"{type(error).__name__}: {error}")
            self._refused()
            return False
        self._swap(engine)
        self._serving = True
        log.info("bundle in service", bundle=name)
        return True


def warm_up(engine: Engine, users: int = 8, extra: Sequence[str] = ("a user nobody knows",)) -> None:
    """Runs real requests, so that lazy work is done and a bundle that cannot answer shows it before it serves.

    Then the same once more over a state that is thrown away, with an item and events that are newer than the bundle:
    the first of them would else wait for what they alone need.
    """
    ids: Any = engine.model.user_ids
    known = [ids.external(place * len(ids) // users) for place in range(min(users, len(ids)))]
    _ask(engine, (*known, *extra))
    state = Memory()
    rehearsal = Engine(engine.model, state, engine.limits)
    items: Any = engine.model.item_ids
    shown = [_NEW, *(items.external(row) for row in range(min(_REHEARSED, len(items))))]
    asking = (*known[:1], *extra)
    actions = [name for name in state.config.timeline_actions if engine.model.history_actions[ACTION_CODE[name]]]
    rehearsal.put_item(_NEW, ItemRequest(author=_NEW, category=_NEW, keywords=(_NEW,)))
    for action in actions[:1]:
        events = [EventRequest(user_id=user, item_id=item, action=action) for user in asking for item in shown]
        rehearsal.observe(events)
    _ask(rehearsal, asking)
    rehearsal.similar(_NEW, 1)


def _ask(engine: Engine, users: Sequence[str]) -> None:
    size = min(RecommendRequest(user_id="").size, engine.limits.most_items)
    for user_id in users:
        reply = engine.recommend(RecommendRequest(user_id=user_id, size=size))
        if reply.items:
            item_ids = [item.item_id for item in reply.items]
            engine.rank(RankRequest(user_id=user_id, item_ids=item_ids))
