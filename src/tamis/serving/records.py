"""Items, users and events: what callers write into the state and read back from it."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from tamis.errors import NotFound, RequestError
from tamis.serving.catalog_live import LiveCatalog, View
from tamis.serving.model import Model
from tamis.serving.wire import (
    DeletedReply,
    EventRequest,
    EventsReply,
    ItemRequest,
    PastAction,
    RejectedEvent,
    UserReply,
)
from tamis.state.checks import check_event, check_item, require
from tamis.state.protocol import Event, ItemRow, State, UserRow
from tamis.types import ACTIONS

_RECENT: Final = 20


class Records:
    """The part of the engine that does not rank. tolerance_seconds: events dated further ahead are rejected."""

    def __init__(
        self,
        model: Model,
        state: State,
        catalog: LiveCatalog,
        tolerance_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tolerance_seconds: Final = tolerance_seconds
        self._model: Final = model
        self._state: Final = state
        self._catalog: Final = catalog
        self._clock: Final = clock

    # ---- events ------------------------------------------------------------------------------------------------

    def observe(self, events: Sequence[EventRequest | RejectedEvent]) -> EventsReply:
        """Applies events in one transaction; those that are wrong are named and do not hold up the others.

        A missing event_id is made up and a missing time is now. An item that is neither in the bundle nor was put is
        refused; one that was taken down is not, since late events of it are true. On return all accepted are on disk.
        """
        view, now = self._catalog.view(), self._clock()
        good: list[Event] = []
        rejected: list[RejectedEvent] = []
        for index, request in enumerate(events):
            checked = request if isinstance(request, RejectedEvent) else self._checked(index, request, view, now)
            if isinstance(checked, RejectedEvent):
                rejected.append(checked)
            else:
                good.append(checked)
        applied = self._state.apply(good) if good else []
        accepted = sum(applied)
        return EventsReply(accepted, len(applied) - accepted, rejected)

    def _checked(self, index: int, request: EventRequest, view: View, now: float) -> Event | RejectedEvent:
        event = Event(
            event_id=request.event_id or new_id(now),
            user_id=request.user_id,
            item_id=request.item_id,
            action=request.action,
            time=now if request.time is None else request.time,
            value=request.value,
            request_id=request.request_id,
            position=request.position,
            scene=request.scene,
        )
        if problem := check_event(event):
            return RejectedEvent(index, problem, problem.partition(":")[0])
        if event.time < 0 or event.time > now + self._tolerance_seconds:
            wanted = f"wanted seconds since the epoch, at most {self._tolerance_seconds:g} s in the future"
            return RejectedEvent(index, f"time: {event.time!r}, {wanted}", "time")
        if view.number(event.item_id) < 0 and self._state.item(event.item_id) is None:
            return RejectedEvent(index, f"item_id: unknown item {event.item_id!r}; put it first", "item_id")
        return event

    # ---- items -------------------------------------------------------------------------------------------------

    def put_item(self, item_id: str, request: ItemRequest) -> ItemRow:
        """Publishes an item, or replaces what is known of it; fields left out are unknown from now on.

        A missing publish time keeps the one that is known, else is now. → the item as it is now
        """
        published = request.publish_time
        if published is None:
            before = self._known(item_id)
            published = before.publish_time if before else None
        fields = {name: getattr(request, name) for name in request.__struct_fields__}
        fields["publish_time"] = self._clock() if published is None else published
        row = ItemRow(item_id=item_id, **fields)
        require(check_item(row))
        self._check_vector(row)
        self._model.check("item", {**row.extra, **{name: getattr(row, name) for name in request.__struct_fields__}})
        self._state.put_item(row)
        return row

    def _check_vector(self, row: ItemRow) -> None:
        column = self._model.catalog.columns.get("vector")
        width = column[0].shape[1] if column is not None else 0
        if row.vector is not None and width and len(row.vector) != width:
            raise RequestError(f"vector: {len(row.vector)} numbers, the bundle's items have {width}", "vector")

    def item(self, item_id: str) -> ItemRow:
        """The item as it was put, else as the bundle knows it. Raises NotFound when it is unknown or taken down."""
        row = self._known(item_id)
        if row is None:
            raise NotFound(f"unknown item {item_id!r}", "item_id")
        if row.closed:
            raise NotFound(f"item {item_id!r} was taken down", "item_id")
        return row

    def delete_item(self, item_id: str) -> DeletedReply:
        """Takes an item down: it is not shown any more, its events and what was learnt of it stay."""
        row = self.item(item_id)
        self._state.put_item(msgspec.structs.replace(row, closed=True))
        return DeletedReply(item_id)

    def _known(self, item_id: str) -> ItemRow | None:
        row = self._state.item(item_id)
        if row is None and (number := self._model.item_ids.number(item_id)) >= 0:
            row = self._model.describe(number)
        return row

    # ---- users -------------------------------------------------------------------------------------------------

    def put_user(self, user_id: str, profile: Mapping[str, Any]) -> UserReply:
        """Replaces the profile. → the user as he is now"""
        self._model.check("user", profile)
        self._state.put_user(user_id, profile)
        return self._described(user_id, self._state.user(user_id))

    def user(self, user_id: str) -> UserReply:
        """What is remembered of a user. Raises NotFound when it is nothing."""
        row = self._state.user(user_id)
        if not row.known:
            raise NotFound(f"unknown user {user_id!r}", "user_id")
        return self._described(user_id, row)

    def _described(self, user_id: str, row: UserRow) -> UserReply:
        """The row of a user in words; of somebody deleted since, that nothing is remembered."""
        view = self._catalog.view()
        newest = row.timeline[::-1][:_RECENT]
        numbers = view.numbers_of(newest["key"]).tolist()
        recent = [
            PastAction(view.external(number) if number >= 0 else "", ACTIONS[action], when)
            for number, action, when in zip(numbers, newest["action"].tolist(), newest["time"].tolist(), strict=True)
        ]
        counts = {ACTIONS[code]: count for code, count in enumerate(row.counts.tolist()) if count}
        return UserReply(user_id, dict(row.profile), counts, recent)

    def delete_user(self, user_id: str) -> DeletedReply:
        """Forgets the user: all that the state holds, log included, and his number in any bundle.

        Raises NotFound when he is unknown.
        """
        if not self._state.delete_user(user_id):
            raise NotFound(f"unknown user {user_id!r}", "user_id")
        return DeletedReply(user_id)


def new_id(now: float) -> str:
    """32 hexadecimal digits, nobody else's, that sort by time: 12 of milliseconds since the epoch, 20 random ones."""
    return f"{int(now * 1000) & 0xFFFFFFFFFFFF:012x}{secrets.token_hex(10)}"
