"""What a request leaves over for the next ones of the same user, kept in the state for the channel `cached`."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tamis.funnel import Funnel
from tamis.recall.cached import Cached
from tamis.serving.catalog_live import View
from tamis.state.protocol import State
from tamis.types import LEFTOVER, Candidates, Page, Query

_NONE: Final = np.empty(0, LEFTOVER)


class Leftovers:
    """Reads and writes what waits for each user; does neither where the funnel has no channel `cached`."""

    def __init__(self, funnel: Funnel, state: State) -> None:
        steps = [step for stage in funnel.stages for step in stage.steps.values()]
        self._channel: Final = next((step for step in steps if isinstance(step, Cached)), None)
        self._state: Final = state

    def of(self, user_id: str, query: Query, view: View) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """(LEFTOVER rows that may be recalled, their item numbers); those of items that are closed or gone are out."""
        if self._channel is None:
            return _NONE, query.cached
        waiting = self._state.leftovers(user_id)
        if not len(waiting):
            return waiting, query.cached
        residents = self._channel.residents(waiting, query.seen, query.now)
        numbers = view.numbers_of(residents["key"])
        there = numbers >= 0
        there[there] = ~view.catalog.closed[numbers[there]]
        return residents[there], numbers[there]

    def keep(self, user_id: str, residents: NDArray[Any], answer: tuple[Query, Page, Mapping[str, Candidates]]) -> None:
        """Writes what waits once a request was answered. answer: query, page, the table that left each stage."""
        query, page, tables = answer
        if self._channel is None or "rank" not in tables:
            return
        keys = query.catalog.keys_of
        after = self._channel.after(residents, keys(tables["rank"].ids), keys(page.items.ids), query.now)
        if len(after) or len(residents):
            self._state.keep_leftovers(user_id, after)
