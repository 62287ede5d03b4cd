from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tamis.config import convert
from tamis.data.dataset import Dataset
from tamis.data.split import SplitConfig, by_time, sizes
from tamis.data.tables import RawTables
from tamis.data.write import import_tables
from tamis.errors import ConfigError, DataError

DAY = 86_400.0
START = 1_600_000_000.0 // DAY * DAY


def dataset(folder: Path, times: list[float], action: str = "click") -> Dataset:
    frame = pl.DataFrame({"time": times}).with_columns(
        user_id=pl.lit("u"), item_id=pl.int_range(pl.len()).cast(pl.String), action=pl.lit(action)
    )
    import_tables(RawTables.of(events=frame), folder)
    return Dataset.open(folder)


def evenly(days: int, each: int) -> list[float]:
    return [START + day * DAY + DAY * k / each for day in range(days) for k in range(each)]


def test_the_last_day_is_the_test(tmp_path: Path) -> None:
    split = by_time(dataset(tmp_path, evenly(5, 10)))
    assert split.test_since == split.train_until == START + 4 * DAY
    assert split.test_until > START + 4 * DAY + DAY * 0.9


def test_every_event_before_the_end_belongs_to_one_part(tmp_path: Path) -> None:
    data = dataset(tmp_path, evenly(5, 10))
    split = by_time(data)
    parts = [
        data.events(until=split.valid_since),
        data.events(split.valid_since, split.train_until),
        data.events(split.test_since, split.test_until),
    ]
    assert [len(part) for part in parts] == [36, 4, 10]
    assert sizes(data, split) == (40, 10)


def test_local_midnight_is_where_the_offset_says(tmp_path: Path) -> None:
    split = by_time(dataset(tmp_path, evenly(5, 24)), SplitConfig(offset_hours=8))
    assert split.test_since == START + 4 * DAY + 16 * 3600


def test_more_days_may_be_held_out(tmp_path: Path) -> None:
    assert by_time(dataset(tmp_path, evenly(5, 10)), SplitConfig(test_days=2)).test_since == START + 3 * DAY


def test_a_stated_moment_is_used_as_it_is(tmp_path: Path) -> None:
    assert by_time(dataset(tmp_path, evenly(5, 10)), SplitConfig(test_since=START + 1000)).test_since == START + 1000


def test_a_thin_last_day_makes_the_cut_by_share(tmp_path: Path) -> None:
    times = [START + second for second in range(1000)] + [START + 9 * DAY]
    split = by_time(dataset(tmp_path, times), SplitConfig(test_share=0.2))
    assert split.test_since == START + 801
    assert split.valid_since == START + 721


def test_events_of_one_moment_are_never_torn_apart(tmp_path: Path) -> None:
    times = [START] * 50 + [START + 1] * 50
    split = by_time(dataset(tmp_path, times), SplitConfig(test_share=0.3, valid_share=0.5))
    assert split.test_since == START + 1
    assert START < split.valid_since <= split.train_until  # and nothing to validate on


def test_events_of_a_single_day_are_cut_by_share(tmp_path: Path) -> None:
    assert by_time(dataset(tmp_path, evenly(1, 10)), SplitConfig(test_share=0.3)).test_since == START + 0.7 * DAY


def test_impressions_alone_decide_where_there_are_some(tmp_path: Path) -> None:
    dataset(tmp_path, [START - 10 * DAY + second for second in range(5000)], "play")
    split = by_time(dataset(tmp_path, evenly(3, 100), "impression"))
    assert split.test_since == START + 2 * DAY
    assert split.valid_since == pytest.approx(START + 1.8 * DAY)


def test_without_events_or_without_events_on_both_sides_there_is_no_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no events to split"):
        by_time(Dataset.open(tmp_path))
    data = dataset(tmp_path, evenly(1, 10))
    with pytest.raises(DataError, match="no events before"):
        by_time(data, SplitConfig(test_since=START - 1))
    with pytest.raises(DataError, match="no events from"):
        by_time(data, SplitConfig(test_since=START + 3 * DAY))


def test_training_rows_of_one_moment_are_learnt_from_and_not_all_validated_on(tmp_path: Path) -> None:
    split = by_time(dataset(tmp_path, [START] * 5 + [START + DAY] * 5))
    assert START < split.valid_since <= split.train_until == START + DAY


def test_no_validation_share_means_no_validation(tmp_path: Path) -> None:
    split = by_time(dataset(tmp_path, evenly(3, 10)), SplitConfig(valid_share=0))
    assert np.nextafter(START + 1.9 * DAY, np.inf) == split.valid_since <= split.train_until


@pytest.mark.parametrize("wrong", [{"test_days": 0}, {"test_share": 1.0}, {"valid_share": -0.1}, {"days": 3}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        convert(wrong, SplitConfig)
