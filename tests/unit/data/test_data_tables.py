import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.data.tables import LATEST, REPEAT, SCHEMAS, RawTables, check, harmless
from tamis.errors import DataError

GOOD = {"user_id": "u", "item_id": "i", "action": "click", "time": 1e9, "value": 0.0, "position": 0, "request_id": "r"}


def events(**wrong: object) -> RawTables:
    return RawTables.of(events=pl.DataFrame([GOOD, {**GOOD, **wrong}], strict=False))


def reasons(raw: RawTables) -> list[str]:
    return check(raw).rejected["reason"].to_list()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"user_id": None}, "user_id is empty"),
        ({"item_id": "  "}, "item_id is empty"),
        ({"user_id": "x" * 257}, "user_id is longer than 256 bytes"),
        ({"action": "jump"}, "action is not a known action"),
        ({"action": None}, "action is missing"),
        ({"time": None}, "time is missing or not finite"),
        ({"time": float("nan")}, "time is missing or not finite"),
        ({"time": float("inf")}, "time is missing or not finite"),
        ({"time": 12.0}, "time is before 1990 or after 2100"),
        ({"time": LATEST}, "time is before 1990 or after 2100"),
        (
            {"time": 1.7672256e12},
            'time is in milliseconds, wanted seconds since the epoch (a mapping says unit = "ms")',
        ),
        ({"value": float("nan")}, "value is not finite"),
        ({"action": "play", "value": -0.5}, "seconds played are negative"),
        ({"action": "rate", "value": -4.0}, "stars are negative"),
        ({"position": -2}, "position is below −1"),
        ({"position": 40_000}, "position is above 32767"),
    ],
)
def test_an_event_with_a_fault_is_rejected_with_the_reason(wrong: dict[str, object], reason: str) -> None:
    checked = check(events(**wrong))
    assert checked.rejected["reason"].to_list() == [reason]
    assert checked.rejected["row"].to_list() == [2]
    assert checked.events.height == 1


def test_a_rejected_row_keeps_its_content_as_json() -> None:
    assert '"item_id":"i"' in check(events(user_id="")).rejected["json"][0]


def test_text_that_is_no_number_is_told_from_a_missing_one() -> None:
    frame = pl.DataFrame(
        {"user_id": ["u", "u"], "item_id": ["i", "i"], "action": ["click"] * 2, "time": ["1e9", "soon"]}
    )
    assert reasons(RawTables.of(events=frame)) == ["time is not a number"]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"item_id": "a"}, "item_id appears twice"),
        ({"latitude": 91.0}, "latitude is outside −90…90"),
        ({"longitude": -181.0}, "longitude is outside −180…180"),
        ({"duration_seconds": -1.0}, "duration_seconds is negative or not finite"),
        ({"quality": float("inf")}, "quality is not finite"),
        ({"publish_time": 5e9}, "publish_time is after 2100 or not finite"),
        (
            {"publish_time": 1e12},
            'publish_time is in milliseconds, wanted seconds since the epoch (a mapping says unit = "ms")',
        ),
        ({"vector": [1.0]}, "vector differs in length from the first one"),
        ({"vector": [1.0, float("nan")]}, "vector has a number that is missing or not finite"),
    ],
)
def test_an_item_with_a_fault_is_rejected_with_the_reason(wrong: dict[str, object], reason: str) -> None:
    good = {"item_id": "a", "latitude": 1.0, "longitude": 2.0, "duration_seconds": 3.0, "quality": 0.1,
            "publish_time": -1e9, "vector": [1.0, 2.0]}  # fmt: skip
    items = pl.DataFrame([good, {**good, "item_id": "b", **wrong}])
    assert reasons(RawTables.of(items=items)) == [reason]


def test_nan_in_an_item_means_unknown() -> None:
    items = check(RawTables.of(items=pl.DataFrame({"item_id": ["a"], "latitude": [float("nan")]}))).items
    assert items["latitude"].to_list() == [None]


def test_numbers_serve_as_ids_and_dates_as_times() -> None:
    moment = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    frame = pl.DataFrame({"user_id": [7], "item_id": [8], "action": ["click"], "time": [moment]})
    checked = check(RawTables.of(events=frame)).events
    assert checked.select("user_id", "item_id", "time").row(0) == ("7", "8", 1_577_836_800.0)


def test_a_missing_column_is_an_error_that_names_it() -> None:
    with pytest.raises(DataError, match="'time' is missing"):
        check(RawTables.of(events=pl.DataFrame({"user_id": ["u"], "item_id": ["i"], "action": ["click"]})))


def test_a_column_that_cannot_be_stored_or_has_a_reserved_name_is_an_error() -> None:
    with pytest.raises(DataError, match="'nested'"):
        check(RawTables.of(users=pl.DataFrame({"user_id": ["u"], "nested": [{"a": 1}]})))
    with pytest.raises(DataError, match="'number'"):
        check(RawTables.of(users=pl.DataFrame({"user_id": ["u"], "number": [1]})))
    for value in (datetime.time(3), datetime.timedelta(hours=1)):
        with pytest.raises(DataError, match="'when'"):
            check(RawTables.of(users=pl.DataFrame({"user_id": ["u"], "when": [value]})))


def test_hashes_of_64_bits_and_decimals_lose_nothing() -> None:
    users = pl.DataFrame({"user_id": ["u"], "hash": pl.Series([2**64 - 1], dtype=pl.UInt64),
                          "price": pl.Series(["1.25"]).cast(pl.Decimal(10, 2))})  # fmt: skip
    assert check(RawTables.of(users=users)).users.select("hash", "price").rows() == [("18446744073709551615", 1.25)]


def test_an_empty_vector_is_an_unknown_one_and_sets_no_length() -> None:
    items = pl.DataFrame({"item_id": ["i", "j", "k"], "vector": [[], [1.0, 2.0], None]})
    checked = check(RawTables.of(items=items))
    assert checked.items["vector"].to_list() == [None, [1.0, 2.0], None]
    assert not checked.rejected.height


def test_further_columns_hold_truth_values_texts_numbers_times_or_lists_of_them() -> None:
    kinds = {"a": pl.Boolean, "b": pl.Categorical, "c": pl.UInt8, "d": pl.Float32, "e": pl.Date, "f": pl.List(pl.Int8)}
    users = pl.DataFrame({"user_id": ["u"], **dict.fromkeys(kinds)}, schema_overrides={**kinds, "g": pl.Null})
    schema = check(RawTables.of(users=users)).users.drop("_row").schema
    assert schema == {"user_id": pl.String, "a": pl.Boolean, "b": pl.String, "c": pl.Int64, "d": pl.Float64,
                      "e": pl.Float64, "f": pl.List(pl.Int64)}  # fmt: skip


def test_a_list_where_a_value_belongs_is_an_error() -> None:
    with pytest.raises(DataError, match="'keywords' is String"):
        check(RawTables.of(items=pl.DataFrame({"item_id": ["i"], "keywords": ["a|b"]})))


def test_empty_tables_have_all_their_columns() -> None:
    checked = check(RawTables.of())
    assert len(checked) == 0
    assert set(checked.items.columns) >= set(SCHEMAS["items"])


def test_repeats_and_rows_left_out_by_rule_are_harmless() -> None:
    assert [harmless(text) for text in (REPEAT, "left out: only adults", "user_id is empty")] == [True, True, False]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "", None]),
            st.sampled_from(["click", "play", "what", None]),
            st.sampled_from([1e9, 5.0, float("nan"), None]),
            st.sampled_from([0.0, -1.0, float("inf"), None]),
            st.integers(-3, 3),
        )
    )
)
def test_every_row_comes_out_exactly_once_good_or_rejected(rows: list[tuple[object, ...]]) -> None:
    schema = {"user_id": pl.String, "action": pl.String, "time": pl.Float64, "value": pl.Float64, "position": pl.Int64}
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_columns(item_id=pl.lit("i"))
    checked = check(RawTables.of(events=frame))
    good = checked.events
    assert sorted([*good["_row"], *checked.rejected["row"]]) == list(range(1, len(rows) + 1))
    assert np.isfinite(good["time"].to_numpy()).all()
    assert np.isfinite(good["value"].to_numpy()).all()
    assert good["action"].null_count() == good["user_id"].null_count() == 0
