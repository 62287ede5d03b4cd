"""What the state accepts, and how a refusal names what is wrong."""

import msgspec
import pytest

from tamis.errors import RequestError
from tamis.state.checks import check_event, check_id, check_item, require
from tamis.state.protocol import Event, ItemRow

GOOD = Event(event_id="e", user_id="u", item_id="i", action="click", time=1.7e9)


def test_a_good_event_has_no_problem() -> None:
    assert check_event(GOOD) == ""
    assert check_event(msgspec.structs.replace(GOOD, item_id="", value=-3.5, position=0, time=-1.0)) == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("event_id", ""),
        ("event_id", "x" * 257),
        ("user_id", ""),
        ("user_id", "ü" * 129),
        ("user_id", "\udcff"),
        ("item_id", "x" * 257),
        ("request_id", "x" * 1000),
        ("scene", "ü" * 200),
        ("action", "Click"),
        ("action", ""),
        ("time", float("nan")),
        ("time", float("inf")),
        ("time", 1.7e12),
        ("value", float("nan")),
        ("value", float("-inf")),
        ("value", 1e39),
        ("position", -2),
        ("position", 2**31),
    ],
)
def test_a_bad_field_is_named_first(field: str, value: object) -> None:
    assert check_event(msgspec.structs.replace(GOOD, **{field: value})).startswith(f"{field}: ")


def test_seconds_played_are_not_negative_here_as_in_an_import() -> None:
    played = msgspec.structs.replace(GOOD, action="play", value=-3.0)
    assert check_event(played) == "value: -3.0, wanted seconds played, at least 0"
    assert check_event(msgspec.structs.replace(played, value=0.0)) == ""
    rated = msgspec.structs.replace(played, action="rate")
    assert check_event(rated) == "value: -3.0, wanted stars (0 = unknown), at least 0"


def test_ids_of_exactly_the_limit_are_accepted() -> None:
    assert check_id("user_id", "x" * 256) == ""
    assert check_id("user_id", "ü" * 128) == ""


def test_a_good_item_has_no_problem_and_a_bad_one_is_named() -> None:
    assert check_item(ItemRow(item_id="i", vector=(), quality=0.0)) == ""
    assert check_item(ItemRow(item_id="")).startswith("item_id: ")
    assert check_item(ItemRow(item_id="i", longitude=float("nan"))).startswith("longitude: ")
    assert check_item(ItemRow(item_id="i", vector=(float("inf"),))).startswith("vector: ")


def test_a_problem_becomes_an_error_with_its_field() -> None:
    require("")
    with pytest.raises(RequestError, match=r"events\[2\]\.time: late") as caught:
        require("time: late", "events[2].")
    assert caught.value.field == "events[2].time"
