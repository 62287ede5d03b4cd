"""The REST calls as one table: the transport serves it, `/schema` describes it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tamis.errors import RequestError
from tamis.serving.decode import decode, decode_events, integer
from tamis.serving.engine import Engine
from tamis.serving.service import Service
from tamis.serving.wire import (
    DeletedReply,
    EventRequest,
    EventsReply,
    ItemRequest,
    Profile,
    RankReply,
    RankRequest,
    RecommendReply,
    RecommendRequest,
    SimilarReply,
    UserReply,
)
from tamis.state.protocol import ItemRow

Work = Callable[[Engine], Any]


@dataclass(frozen=True, slots=True)
class Call:
    """The parts of an HTTP call that the routes look at. id: from the path, "" when it has none."""

    body: bytes
    id: str
    query: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Route:
    """One call. prepare decodes and checks in the event loop, the work it gives runs behind a gate.

    ranks: goes through the gate of calls that rank.   request: type of the body, None = it has none.
    """

    name: str
    method: str
    path: str
    summary: str
    ranks: bool
    request: Any
    reply: Any
    prepare: Callable[[Service, Call], Work]
    query: tuple[str, ...] = ()


_RECOMMEND: Final = msgspec.json.Decoder(RecommendRequest)
_RANK: Final = msgspec.json.Decoder(RankRequest)
_ITEM: Final = msgspec.json.Decoder(ItemRequest)
_PROFILE: Final = msgspec.json.Decoder(Profile)


def _recommend(service: Service, call: Call) -> Work:
    request = decode(_RECOMMEND, call.body)
    return lambda engine: service.recommend(engine, request)


def _rank(service: Service, call: Call) -> Work:
    request = decode(_RANK, call.body)
    return lambda engine: engine.rank(request)


def _similar(service: Service, call: Call) -> Work:
    size = integer(call.query, "size", 20)
    return lambda engine: engine.similar(call.id, size)


def _events(service: Service, call: Call) -> Work:
    events, single = decode_events(call.body, service.most_events)

    def work(engine: Engine) -> EventsReply:
        reply = service.observe(engine, events)
        if single and reply.rejected:  # a call that did nothing is no success
            raise RequestError(reply.rejected[0].error, reply.rejected[0].field)
        return reply

    return work


def _put_item(service: Service, call: Call) -> Work:
    request = decode(_ITEM, call.body)
    return lambda engine: engine.put_item(call.id, request)


def _put_user(service: Service, call: Call) -> Work:
    profile = decode(_PROFILE, call.body)
    return lambda engine: engine.put_user(call.id, profile)


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "recommend", "POST", "/v1/recommend", "A page for a user", True, RecommendRequest, RecommendReply, _recommend
    ),
    Route(
        "rank", "POST", "/v1/rank", "The caller's own items, scored and ordered", True, RankRequest, RankReply, _rank
    ),
    Route(
        "similar",
        "GET",
        "/v1/items/{id}/similar",
        "The neighbours of an item",
        True,
        None,
        SimilarReply,
        _similar,
        ("size",),
    ),
    Route(
        "events",
        "POST",
        "/v1/events",
        "What users did: one event, or a list of which each is taken or rejected by itself",
        False,
        EventRequest | list[EventRequest],
        EventsReply,
        _events,
    ),
    Route("put_item", "PUT", "/v1/items/{id}", "Publishes or changes an item", False, ItemRequest, ItemRow, _put_item),
    Route(
        "item",
        "GET",
        "/v1/items/{id}",
        "An item as it is known",
        False,
        None,
        ItemRow,
        lambda service, call: lambda engine: engine.item(call.id),
    ),
    Route(
        "delete_item",
        "DELETE",
        "/v1/items/{id}",
        "Takes an item down",
        False,
        None,
        DeletedReply,
        lambda service, call: lambda engine: engine.delete_item(call.id),
    ),
    Route("put_user", "PUT", "/v1/users/{id}", "Replaces a user's profile", False, Profile, UserReply, _put_user),
    Route(
        "user",
        "GET",
        "/v1/users/{id}",
        "What is remembered of a user",
        False,
        None,
        UserReply,
        lambda service, call: lambda engine: engine.user(call.id),
    ),
    Route(
        "delete_user",
        "DELETE",
        "/v1/users/{id}",
        "Forgets a user everywhere",
        False,
        None,
        DeletedReply,
        lambda service, call: lambda engine: engine.delete_user(call.id),
    ),
)
