"""The two things the service does, with no transport in it: answer requests and take events.

    recommend   state.user(id) → Query → funnel → page with external ids
    observe     checked events → state, one transaction
    rank, similar, and the reading and writing of items and users

An engine belongs to one bundle; a new bundle gets a new engine. It is safe to call from several threads.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from tamis.bloom import Generations
from tamis.errors import NotFound, RequestError
from tamis.funnel import Funnel
from tamis.serving.catalog_live import LiveCatalog, View
from tamis.serving.leftovers import Leftovers
from tamis.serving.model import Model
from tamis.serving.reasons import first_reason, reason
from tamis.serving.records import Records, new_id
from tamis.serving.wire import (
    MOST_CANDIDATES,
    DeletedReply,
    EventRequest,
    EventsReply,
    ItemRequest,
    RankReply,
    RankRequest,
    RecommendReply,
    RecommendRequest,
    RejectedEvent,
    ScoredItem,
    SimilarItem,
    SimilarReply,
    Step,
    UserReply,
)
from tamis.stages import Sink
from tamis.state.protocol import ItemRow, State, UserRow
from tamis.types import Candidates, Features, History, Page, Query


class Limits(Protocol):
    """The part of the server's configuration that the engine keeps to."""

    @property
    def most_items(self) -> int:
        """The largest page that may be asked for."""
        ...

    @property
    def clock_tolerance_seconds(self) -> float:
        """How far in the future an event may be dated."""
        ...


@dataclass(frozen=True, slots=True)
class StandardLimits:
    """Limits for an engine without a server's configuration."""

    most_items: int = 200
    clock_tolerance_seconds: float = 300.0


class Engine:
    """One bundle over one state. clock: seconds since the epoch, for everything that needs to know the time."""

    def __init__(
        self,
        model: Model,
        state: State,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.model: Final = model
        self.limits: Final[Limits] = limits or StandardLimits()
        self._state: Final = state
        self._clock: Final = clock
        self._catalog: Final = LiveCatalog(model, state, clock)
        self._records: Final = Records(model, state, self._catalog, self.limits.clock_tolerance_seconds, clock)
        self._reasons: Final = {name: reason(model.kinds.get(name, "")) for name in model.funnel.channels}
        self._ranker: Final = _ranker(model.funnel)
        self._leftovers: Final = Leftovers(model.funnel, state)

    # ---- answers -----------------------------------------------------------------------------------------------

    def recommend(self, request: RecommendRequest, sink: Sink | None = None) -> RecommendReply:
        """A page for a user. An unknown user, an empty history or an empty catalogue gives what there is.

        sink: told of the query and the page (the server's metrics).
        """
        _within("size", request.size, self.limits.most_items)
        view, request_id = self._catalog.view(), new_id(self._clock())
        query = self._query(request, view, request_id, request.size)
        waiting, cached = self._leftovers.of(request.user_id, query, view)
        query = replace(query, exclude=_known(view, request.exclude), cached=cached)
        tables: dict[str, Candidates] = {}
        page = self.model.funnel.run(query, keep=tables) if len(view.catalog) else _EMPTY
        self._leftovers.keep(request.user_id, waiting, (query, page, tables))
        if sink is not None:
            sink.emit(query, page)
        return RecommendReply(
            request_id=request_id,
            user_id=request.user_id,
            bundle=self.model.name,
            degraded=page.degraded,
            arms={},
            items=self._items(view, page, request.explain, stranger=query.user < 0 and not len(query.history)),
            trace=_trace(page, request.explain),
        )

    def rank(self, request: RankRequest) -> RankReply:
        """The caller's own items through the rank stage: all of them that can be shown, best first."""
        _within("item_ids", len(request.item_ids), MOST_CANDIDATES)
        if self._ranker is None:
            raise RequestError("this bundle's funnel has no rank stage")
        view, request_id = self._catalog.view(), new_id(self._clock())
        wanted = list(dict.fromkeys(request.item_ids))
        numbers = view.numbers(wanted)
        there = numbers >= 0
        there[there] = ~view.catalog.closed[numbers[there]]
        chosen = numbers[there]
        page = _EMPTY
        if len(chosen):
            query = self._query(request, view, request_id, len(chosen))
            page = self._ranker.run(query, Candidates.of(chosen), first="rank")
        return RankReply(
            request_id=request_id,
            user_id=request.user_id,
            bundle=self.model.name,
            degraded=page.degraded,
            items=self._items(view, page, request.explain),
            missing=[item_id for item_id, known in zip(wanted, there.tolist(), strict=True) if not known],
            trace=_trace(page, request.explain),
        )

    def similar(self, item_id: str, size: int) -> SimilarReply:
        """The open neighbours of an item, as many as asked for if there are so many.

        Raises NotFound when the item is unknown, taken down or not published yet, or no channel knows a neighbour.
        """
        _within("size", size, self.limits.most_items)
        view = self._catalog.view()
        number = view.number(item_id)
        if number < 0 or view.catalog.closed[number]:
            raise NotFound(f"item {item_id!r} is unknown, taken down or not published yet", "item_id")
        numbers, scores = self.model.similar(number, size, view.catalog)
        pairs = zip(numbers.tolist(), scores.tolist(), strict=True)
        items = [SimilarItem(view.external(neighbour), score) for neighbour, score in pairs]
        return SimilarReply(item_id, self.model.name, items)

    # ---- events and records ------------------------------------------------------------------------------------

    def observe(self, events: Sequence[EventRequest | RejectedEvent]) -> EventsReply:
        """Takes what users did; see Records.observe."""
        return self._records.observe(events)

    def put_item(self, item_id: str, request: ItemRequest) -> ItemRow:
        """Publishes or changes an item; see Records.put_item."""
        return self._records.put_item(item_id, request)

    def item(self, item_id: str) -> ItemRow:
        """The item as it is known. Raises NotFound when it is unknown or taken down."""
        return self._records.item(item_id)

    def delete_item(self, item_id: str) -> DeletedReply:
        """Takes an item down. Raises NotFound when it is unknown or down already."""
        return self._records.delete_item(item_id)

    def put_user(self, user_id: str, profile: Mapping[str, Any]) -> UserReply:
        """Replaces a user's profile."""
        return self._records.put_user(user_id, profile)

    def user(self, user_id: str) -> UserReply:
        """What is remembered of a user. Raises NotFound when it is nothing."""
        return self._records.user(user_id)

    def delete_user(self, user_id: str) -> DeletedReply:
        """Forgets the user everywhere. Raises NotFound when he is unknown."""
        return self._records.delete_user(user_id)

    # ---- inside ------------------------------------------------------------------------------------------------

    def _query(self, request: RecommendRequest | RankRequest, view: View, request_id: str, size: int) -> Query:
        user = self._state.user(request.user_id)
        # A bundle keeps what it learnt of a user who was deleted since; it must not be used for him any more.
        number, now = self.model.user_ids.number(request.user_id) if user.trusted else -1, self._clock()
        _checked_place(request.context)
        self.model.check("context", request.context)
        moment = (now, request.scene, request.context)
        return Query(
            user=number,
            now=now,
            size=size,
            scene=request.scene,
            seed=int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest(), "little"),
            history=_history(user, view, self.model.history_actions),
            features=self._features(number, user, moment),
            catalog=view.catalog,
            seen=Generations.alive(user.seen, now),
            context=request.context,
            profile=user.profile,
        )

    def _features(self, number: int, user: UserRow, moment: tuple[float, str, Mapping[str, Any]]) -> Features:
        return self.model.query_features(number, user.profile, user.counts, moment)

    def _items(self, view: View, page: Page, explain: bool, *, stranger: bool = False) -> list[ScoredItem]:
        """The rows of a page.   stranger: nothing is known of the user, so no reason may speak of what he likes."""
        count, items = len(page.items), page.items
        scores = items.columns["score"].tolist() if "score" in items.columns else [0.0] * count
        channels = items.columns["channel"].tolist() if "channel" in items.columns else [-1] * count
        out = []
        for row, (number, score, channel) in enumerate(zip(items.ids.tolist(), scores, channels, strict=True)):
            name = page.channels[channel] if channel >= 0 else ""
            why = self._reasons[name] if name else ""
            if name and stranger:
                why = first_reason(self.model.kinds.get(other, "") for other in (name, *_found_by(page, row)))
            found: list[str] | UnsetType = _found_by(page, row) if explain else UNSET
            every: dict[str, float] | UnsetType = _numbers(page, row) if explain else UNSET
            out.append(ScoredItem(view.external(number), score, name, why, found, every))
        return out


_EMPTY: Final = Page(Candidates.empty(), (), False, ())


def _ranker(funnel: Funnel) -> Funnel | None:
    """A funnel of the rank stage alone that cuts nothing; None when there is no such stage."""
    stages = [replace(stage, limit=0) for stage in funnel.stages if stage.name == "rank"]
    return Funnel(stages) if stages else None


def _history(user: UserRow, view: View, actions: NDArray[np.bool_]) -> History:
    newest_first = user.timeline[::-1]
    newest_first = newest_first[actions[newest_first["action"]]]
    return History(
        items=view.numbers_of(newest_first["key"]),
        actions=np.ascontiguousarray(newest_first["action"]),
        times=np.ascontiguousarray(newest_first["time"]),
    )


def _known(view: View, item_ids: Sequence[str]) -> NDArray[np.int64]:
    numbers = view.numbers(item_ids)
    return numbers[numbers >= 0]


def _within(field: str, wanted: int, most: int) -> None:
    if not 1 <= wanted <= most:
        raise RequestError(f"{field}: {wanted}, wanted 1 to {most}", field)


def _checked_place(context: Mapping[str, Any]) -> None:
    """The well-known names of the context have the type that every part may rely on."""
    for name, limit in (("lat", 90), ("lon", 180)):
        value = context.get(name)
        if value is not None and (isinstance(value, bool | str) or not -limit <= value <= limit):
            raise RequestError(
                f"context.{name}: {value!r}, wanted a number from {-limit} to {limit}", f"context.{name}"
            )
    for name in ("city", "device"):
        value = context.get(name)
        if value is not None and not isinstance(value, str):
            raise RequestError(f"context.{name}: {value!r}, wanted a string", f"context.{name}")


def _trace(page: Page, explain: bool) -> list[Step] | UnsetType:
    if not explain:
        return UNSET
    return [
        Step(
            stage=step.stage,
            step=step.step,
            kind=step.kind,
            rows_in=step.rows_in,
            rows_out=step.rows_out,
            milliseconds=round(step.milliseconds, 3),
            status=step.status,
            error=step.error,
            relaxed=dict(step.relaxed),
        )
        for step in page.trace
    ]


def _found_by(page: Page, row: int) -> list[str]:
    """The names of all channels that found the item."""
    bits = int(page.items.columns["found_by"][row]) if "found_by" in page.items.columns else 0
    return [name for bit, name in enumerate(page.channels) if bits >> bit & 1]


def _numbers(page: Page, row: int) -> dict[str, float]:
    """Every one-dimensional number that the stages gave the item."""
    skip = ("channel", "found_by")
    columns = {name: column for name, column in page.items.columns.items() if column.ndim == 1 and name not in skip}
    return {name: float(column[row]) for name, column in columns.items() if column.dtype.kind in "fiub"}
