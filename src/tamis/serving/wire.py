"""The structs of every transport, and the one table from errors to statuses.

Requests are strict: an unknown field, a wrong type or a value outside its bounds is refused with the path of the
field. Bounds that are the same everywhere stand here; those an operator may set are checked by the engine.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tamis.errors import (
    ArtifactError,
    DeadlineExceeded,
    NotFound,
    NotReady,
    Overloaded,
    RequestError,
    StateError,
    TooLarge,
)

LONGEST_ID: Final = 256
MOST_CANDIDATES: Final = 2000
Scalar = str | int | float | bool | None
ExternalId = Annotated[str, Meta(min_length=1, max_length=LONGEST_ID)]
Name = Annotated[str, Meta(max_length=128)]
Number = Annotated[float, Meta(ge=-1e9, le=1e9)]
Seconds = Annotated[float, Meta(ge=0, le=4e9, description="seconds since the epoch")]
Latitude = Annotated[float, Meta(ge=-90, le=90)]
Longitude = Annotated[float, Meta(ge=-180, le=180)]
Mapped = Annotated[dict[Name, Scalar], Meta(max_length=64)]
Profile = Annotated[dict[Name, Scalar | Annotated[list[Scalar], Meta(max_length=256)]], Meta(max_length=256)]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all request bodies share: they are frozen and strict."""


class RecommendRequest(Request, frozen=True):
    """A page, please. context: what the caller knows of the moment (lat, lon, city, device and the project's own)."""

    user_id: ExternalId
    size: Annotated[int, Meta(ge=1)] = 20
    scene: Annotated[str, Meta(min_length=1, max_length=128)] = "feed"
    context: Mapped = {}
    exclude: Annotated[list[ExternalId], Meta(max_length=2000)] = []
    explain: bool = False


class RankRequest(Request, frozen=True):
    """The caller's own candidates, to be scored and ordered."""

    user_id: ExternalId
    item_ids: list[ExternalId]
    scene: Annotated[str, Meta(min_length=1, max_length=128)] = "feed"
    context: Mapped = {}
    explain: bool = False


class EventRequest(Request, frozen=True):
    """Something a user did. Without event_id the server makes one, so a repetition then counts twice."""

    user_id: ExternalId
    item_id: ExternalId
    action: str
    event_id: Annotated[str, Meta(max_length=LONGEST_ID)] = ""
    time: float | None = None
    value: Number = 0.0
    request_id: Name = ""
    position: Annotated[int, Meta(ge=-1, le=32767)] = -1
    scene: Name = ""


class ItemRequest(Request, frozen=True):
    """An item as it shall be from now on: fields that are left out are unknown (publish_time: keeps, or now)."""

    author: Name | None = None
    category: Name | None = None
    keywords: Annotated[tuple[Name, ...], Meta(max_length=256)] = ()
    text: Annotated[str, Meta(max_length=100_000)] | None = None
    vector: Annotated[tuple[Number, ...], Meta(max_length=4096)] | None = None
    city: Name | None = None
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    duration_seconds: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    publish_time: Seconds | None = None
    quality: Number | None = None
    extra: Profile = {}


class Step(msgspec.Struct, frozen=True):
    """What one step of the funnel did; see types.StepTrace."""

    stage: str
    step: str
    kind: str
    rows_in: int
    rows_out: int
    milliseconds: float
    status: str
    error: str
    relaxed: dict[str, int]


class ScoredItem(msgspec.Struct, frozen=True):
    """One item of an answer. found_by and scores (every number the stages gave it) only when asked to explain."""

    item_id: str
    score: float
    channel: str
    reason: str
    found_by: list[str] | UnsetType = UNSET
    scores: dict[str, float] | UnsetType = UNSET


class RecommendReply(msgspec.Struct, frozen=True):
    """A page. degraded: some step failed or was late, the page is what the others made of it."""

    request_id: str
    user_id: str
    bundle: str
    degraded: bool
    arms: dict[str, str]
    items: list[ScoredItem]
    trace: list[Step] | UnsetType = UNSET


class RankReply(msgspec.Struct, frozen=True):
    """The caller's items, best first. missing: those that are unknown or taken down."""

    request_id: str
    user_id: str
    bundle: str
    degraded: bool
    items: list[ScoredItem]
    missing: list[str]
    trace: list[Step] | UnsetType = UNSET


class SimilarItem(msgspec.Struct, frozen=True):
    """One neighbour of an item."""

    item_id: str
    score: float


class SimilarReply(msgspec.Struct, frozen=True):
    """The neighbours of an item, nearest first."""

    item_id: str
    bundle: str
    items: list[SimilarItem]


class RejectedEvent(msgspec.Struct, frozen=True):
    """An event that was not taken, and why. index: its place in the call. field: "" when it is the whole event."""

    index: int
    error: str
    field: str = ""


class EventsReply(msgspec.Struct, frozen=True):
    """What became of the events. accepted: on disk and applied. duplicates: applied by an earlier call."""

    accepted: int
    duplicates: int
    rejected: list[RejectedEvent]


class PastAction(msgspec.Struct, frozen=True):
    """One entry of a user's timeline. item_id "": the item is no longer known."""

    item_id: str
    action: str
    time: float


class UserReply(msgspec.Struct, frozen=True):
    """What is remembered of a user. counts: events by action. recent: his latest actions, newest first."""

    user_id: str
    profile: dict[str, Any]
    counts: dict[str, int]
    recent: list[PastAction]


class DeletedReply(msgspec.Struct, frozen=True):
    """The thing of that id is gone."""

    id: str
    deleted: bool = True


class StatusReply(msgspec.Struct, frozen=True):
    """How the server is. bundle "": none is loaded."""

    status: str
    bundle: str = ""


class ErrorBody(msgspec.Struct, frozen=True):
    """Why a call failed. field: the path of the offending field, "" if it is the whole call."""

    code: str
    message: str
    field: str = ""


class ErrorReply(msgspec.Struct, frozen=True):
    """The body of every answer that is not a success."""

    error: ErrorBody


STATUS: Final[tuple[tuple[type[BaseException], int, str], ...]] = (
    (NotFound, 404, "not_found"),
    (TooLarge, 413, "too_large"),
    (RequestError, 400, "bad_request"),
    (Overloaded, 429, "overloaded"),
    (DeadlineExceeded, 504, "deadline_exceeded"),
    (NotReady, 503, "not_ready"),
    (StateError, 503, "state_unavailable"),
    (ArtifactError, 503, "bundle_unavailable"),
)
"""The one table: error class → HTTP status and code. The first class that fits counts; all others are 500 internal."""


def failure(error: BaseException) -> tuple[int, ErrorReply, float | None]:
    """(HTTP status, body, seconds to wait before trying again or None) of an error; never the text of a bug."""
    for kind, status, code in STATUS:
        if isinstance(error, kind):
            wait = error.retry_after_seconds if isinstance(error, Overloaded) else None
            return status, ErrorReply(ErrorBody(code, str(error), getattr(error, "field", ""))), wait
    return 500, ErrorReply(ErrorBody("internal", "the server failed; its log says why")), None
