from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.errors import ConfigError, RequestError
from tamis.features.encode import Encoder
from tamis.features.online import check_values
from tamis.features.raw import TICKS, learnt_from, raw_values, tick_of
from tamis.features.spec import FeaturesConfig, Geohash, HistoryConfig, Hour, Scene, Weekday
from tamis.features.statistics import Statistics

HERE, THERE = (57.64911, 10.40744), (-25.69, -52.13)


def fitted(**context) -> Encoder:
    nothing = Statistics.of(np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0), 0)
    raw = {"user": {}, "item": {}, "context": {"lat": [HERE[0], None], "lon": [HERE[1], 5.0], "scene": ["feed"]}}
    return Encoder.fit(FeaturesConfig(context=context, history=HistoryConfig(fields=())), raw, nothing, nothing)


@given(st.integers(0, 2**32), st.sampled_from([0.0, 8.0, -9.5, 5.75]))
def test_hours_and_days_are_those_of_the_calendar(time: int, offset: float) -> None:
    local = datetime.fromtimestamp(time + offset * 3600, UTC)
    at = np.array([float(time)])
    assert tick_of(Hour(offset_hours=offset), at).tolist() == [local.hour]
    assert tick_of(Weekday(offset_hours=offset), at).tolist() == [local.weekday()]


def test_every_hour_and_day_has_a_code_of_its_own() -> None:
    encoder = fitted(hour=Hour(), day=Weekday())
    codes = encoder.context(np.arange(7 * 24) * 3600.0, [""] * 168, {}).codes
    for column, (kind, name) in enumerate(((Hour, "hour"), (Weekday, "day"))):
        field = encoder.layout.field(f"context.{name}")
        known = np.unique(codes[:, column])
        assert len(known) == len(TICKS[kind]) == field.size - 1
        assert known.min() == field.offset + 1


def test_a_position_is_its_cell_and_none_is_unknown() -> None:
    encoder = fitted(cell=Geohash(length=5, latitude="lat", longitude="lon"))
    assert encoder.learnt.context["cell"].words == ("u4pru",)
    offset = encoder.layout.field("context.cell").offset
    raw = {"lat": [HERE[0], THERE[0], None, HERE[0], 91.0], "lon": [HERE[1], THERE[1], 3.0, float("nan"), HERE[1]]}
    codes = encoder.context(np.zeros(5), [""] * 5, raw).codes[:, 0]
    assert (codes - offset).tolist() == [1, 0, 0, 0, 0]
    assert encoder.context(np.zeros(1), [""], {}).codes[0, 0] == offset  # who denies his location is answered too


def test_what_the_data_has_not_is_named() -> None:
    with pytest.raises(ConfigError, match=r"features\.context\.x: the data has no column 'latitude'; it has \['lat'"):
        fitted(x=Geohash())
    with pytest.raises(ConfigError, match=r"features\.context\.tab: the data has no column 'scene'"):
        learnt_from({}, Scene(), "context.tab")
    assert raw_values({}, Scene(), 2) == [None, None]


def test_a_position_that_is_no_number_is_refused_by_its_field() -> None:
    encoder = fitted(cell=Geohash(latitude="lat", longitude="lon"), tab=Scene())
    check_values(encoder, "context", {"lat": 1.5, "lon": None, "other": ["x"]})
    with pytest.raises(RequestError, match=r"context\.lon: got 'east', wanted a number"):
        check_values(encoder, "context", {"lat": 1.5, "lon": "east"})
