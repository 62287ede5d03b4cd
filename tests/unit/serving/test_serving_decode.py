import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.errors import (
    ArtifactError,
    DeadlineExceeded,
    NotFound,
    NotReady,
    Overloaded,
    RequestError,
    StateError,
    StepError,
    TooLarge,
)
from tamis.serving.decode import decode, decode_events, integer
from tamis.serving.wire import EventRequest, ItemRequest, RecommendRequest, RejectedEvent, failure

REQUEST = msgspec.json.Decoder(RecommendRequest)
ITEM = msgspec.json.Decoder(ItemRequest)


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        (b"", "", "empty"),
        (b"{", "", "cut off"),
        (b'{"user_id": "\\ud800"}', "", "surrogate"),
        (b"nonsense", "", "JSON is malformed"),
        (b'{"user_id": "a"} {}', "", "trailing"),
        (b'{"user_id": "\xff"}', "", "not UTF-8"),
        (b"[" * 100_000, "", "expected `object`"),
        (b"null", "", "expected `object`"),
        (b"{}", "user_id", "missing required"),
        (b'{"user_id": 42}', "user_id", "expected `str`, got `int`"),
        (b'{"user_id": ""}', "user_id", "length >= 1"),
        (b'{"user_id": "%s"}' % (b"a" * 257), "user_id", "length <= 256"),
        (b'{"user_id": "a", "size": "20"}', "size", "expected `int`, got `str`"),
        (b'{"user_id": "a", "size": 0}', "size", ">= 1"),
        (b'{"user_id": "a", "size": 1.5}', "size", "expected `int`"),
        (b'{"user_id": "a", "siez": 3}', "siez", "unknown field"),
        (b'{"user_id": "a", "exclude": ["b", 3]}', "exclude[1]", "expected `str`"),
        (b'{"user_id": "a", "context": {"city": {"name": "b"}}}', "context[...]", "got `object`"),
        (b'{"user_id": "a", "context": {"lat": 1e999}}', "context[...]", "out of range"),
        (b'{"user_id": "a", "context": {"%s": 1}}' % (b"c" * 129), "context", "length <= 128"),
    ],
)
def test_a_bad_body_is_refused_with_the_path_of_the_field(body: bytes, field: str, words: str) -> None:
    with pytest.raises(RequestError, match=words) as refused:
        decode(REQUEST, body)
    assert refused.value.field == field


def test_an_item_is_checked_field_by_field() -> None:
    with pytest.raises(RequestError) as refused:
        decode(ITEM, b'{"latitude": 91}')
    assert refused.value.field == "latitude"
    with pytest.raises(RequestError) as refused:
        decode(ITEM, b'{"publish_time": 1700000000000}')
    assert refused.value.field == "publish_time"
    with pytest.raises(RequestError) as refused:
        decode(ITEM, b'{"vector": [0.5, "x"]}')
    assert refused.value.field == "vector[1]"


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_request_error(body: bytes) -> None:
    with contextlib.suppress(RequestError):
        assert isinstance(decode(REQUEST, body), RecommendRequest)


@given(st.binary(max_size=200))
def test_no_bytes_as_events_raise_anything_but_a_request_error(body: bytes) -> None:
    for wrapped in (body, b"[" + body + b"]"):
        with contextlib.suppress(RequestError):
            assert len(decode_events(wrapped, 1000)[0]) <= 1000


def test_one_event_and_a_list_of_events_are_both_taken() -> None:
    one = b'{"user_id": "u", "item_id": "i", "action": "click"}'
    events, single = decode_events(one, 10)
    assert single
    assert events == [EventRequest(user_id="u", item_id="i", action="click")]
    events, single = decode_events(b"[" + one + b"," + one + b"]", 10)
    assert not single
    assert len(events) == 2


def test_a_bad_event_in_a_list_is_rejected_in_its_place_and_the_others_stay() -> None:
    good = b'{"user_id": "u", "item_id": "i", "action": "click"}'
    body = b"[" + good + b',{"user_id": 3, "item_id": "i", "action": "click"},' + good + b"]"
    events, _ = decode_events(body, 10)
    assert [type(event) for event in events] == [EventRequest, RejectedEvent, EventRequest]
    assert events[1] == RejectedEvent(1, "user_id: expected `str`, got `int`", "user_id")


def test_a_single_bad_event_and_too_many_events_are_refused() -> None:
    with pytest.raises(RequestError, match="item_id"):
        decode_events(b'{"user_id": "u", "action": "click"}', 10)
    one = b'{"user_id": "u", "item_id": "i", "action": "click"}'
    with pytest.raises(RequestError, match="3 events in one call, at most 2"):
        decode_events(b"[" + b",".join([one] * 3) + b"]", 2)
    with pytest.raises(RequestError, match="cut off"):
        decode_events(b"[" + one, 10)


def test_an_empty_list_of_events_is_nothing_to_do() -> None:
    assert decode_events(b"[]", 10) == ([], False)


def test_an_integer_of_a_query_string_is_strict() -> None:
    assert integer({}, "size", 20) == 20
    assert integer({"size": ["7"]}, "size", 20) == 7
    for text in ("", "x", "1.5", "1e3", "9" * 30):
        with pytest.raises(RequestError) as refused:
            integer({"size": [text]}, "size", 20)
        assert refused.value.field == "size"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RequestError("m", "f"), 400, "bad_request"),
        (NotFound("m", "f"), 404, "not_found"),
        (TooLarge("m"), 413, "too_large"),
        (Overloaded("m", 3.0), 429, "overloaded"),
        (NotReady("m"), 503, "not_ready"),
        (StateError("m"), 503, "state_unavailable"),
        (ArtifactError("m"), 503, "bundle_unavailable"),
        (DeadlineExceeded("m"), 504, "deadline_exceeded"),
    ],
)
def test_every_error_has_a_status_and_keeps_its_words(error: Exception, status: int, code: str) -> None:
    got, body, wait = failure(error)
    assert (got, body.error.code, body.error.message) == (status, code, "m")
    assert (wait == 3.0) == (status == 429)


@pytest.mark.parametrize("error", [StepError("secret"), ZeroDivisionError("secret"), KeyError("secret")])
def test_a_bug_is_500_and_its_words_stay_inside(error: Exception) -> None:
    status, body, _ = failure(error)
    assert (status, body.error.code) == (500, "internal")
    assert "secret" not in body.error.message
