"""The importers on the real data sets; skipped where they are absent."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tamis.data.dataset import Dataset
from tamis.data.samples import Log, SampleConfig, Timeline, build_samples
from tamis.data.sources import read_source
from tamis.data.split import SplitConfig, by_time
from tamis.data.write import ImportReport, import_tables
from tamis.types import Action


def imported(shared_data: Path, name: str, source: str, into: Path) -> tuple[Dataset, ImportReport]:
    folder = shared_data / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    report = import_tables(read_source(source, folder), into)
    return Dataset.open(into), report


def test_ml_100k_is_complete(shared_data: Path, tmp_path: Path) -> None:
    dataset, report = imported(shared_data, "ml-100k", "movielens", tmp_path)
    assert dataset.counts() == {"users": 943, "items": 1682, "requests": 0, "events": 155_375}
    assert report.actions == {"rate": 100_000, "click": 55_375}
    assert report.rejected == {}
    assert dataset.items["category"].null_count() < 10


@pytest.mark.slow
def test_ml_1m_rebuilt_has_every_positive_and_imports_once(shared_data: Path, tmp_path: Path) -> None:
    dataset, report = imported(shared_data, "ml-1m-rebuilt", "movielens", tmp_path)
    assert report.actions == {"rate": 1_000_209, "click": 575_281}
    again = import_tables(read_source("movielens", shared_data / "ml-1m-rebuilt"), tmp_path)
    assert again.added == dict.fromkeys(("users", "items", "requests", "events"), 0)
    truth = pl.read_parquet(shared_data / "ml-1m-rebuilt" / "interactions.parquet")
    clicks = dataset.events(actions=[Action.CLICK])
    user = dataset.user_ids.number("1")
    mine = truth.filter(pl.col("user_id") == 1, pl.col("is_positive")).sort("order_in_user")
    assert dataset.item_ids.externals(clicks.item[clicks.user == user]) == mine["item_id"].cast(pl.String).to_list()


@pytest.mark.slow
def test_kuairand_is_split_and_sampled_as_published(shared_data: Path, tmp_path: Path) -> None:
    dataset, report = imported(shared_data, "kuairand-pure", "kuairand", tmp_path)
    assert report.rejected == {"exact repeat": 2_979}
    assert dataset.counts()["users"] == 27_285
    assert dataset.counts()["items"] == 7_583
    assert report.actions["impression"] == 91_805
    split = by_time(dataset, SplitConfig(offset_hours=8))
    events, requests = dataset.events(until=split.train_until), dataset.requests(until=split.train_until)
    timeline = Timeline.of(events, len(dataset.users), [Action.CLICK, Action.LIKE, Action.LONG_VIEW])
    published = dataset.items["publish_time"].fill_null(np.nan).to_numpy()
    samples = build_samples(Log(events, requests, timeline, published), -np.inf, split.train_until, SampleConfig())
    assert len(samples.item) + len(dataset.events(split.test_since, actions=[Action.IMPRESSION])) == 91_805
    assert 0.4 < samples.labels["click"].mean() < 0.5
    last = samples.history_end - 1
    some = samples.history_end > samples.history_start
    assert some.mean() > 0.9
    assert (timeline.time[last[some]] < samples.time[some]).all()


@pytest.mark.parametrize(
    ("name", "users", "items", "events"),
    [
        ("foursquare-nyc", 1_083, 5_135, 147_480),
        ("citeulike-t", 7_947, 25_975, 134_860),
        ("hetrec-lastfm", 1_892, 17_632, 92_834),
        ("retailrocket-core", 3_431, 8_885, 92_487),
        ("steam-200k", 12_393, 5_155, 200_000),
    ],
)
def test_small_public_sets_come_in_whole(
    shared_data: Path, tmp_path: Path, name: str, users: int, items: int, events: int
) -> None:
    dataset, _ = imported(shared_data, name, name, tmp_path)
    assert dataset.counts() == {"users": users, "items": items, "requests": 0, "events": events}
    assert by_time(dataset).test_since > dataset.span()[0]


@pytest.mark.slow
def test_large_public_sets_come_in_whole(shared_data: Path, tmp_path: Path) -> None:
    dataset, _ = imported(shared_data, "gowalla-ngcf", "gowalla-ngcf", tmp_path / "gowalla")
    split = by_time(dataset)
    assert len(dataset.events(split.test_since)) == 217_242
    assert len(dataset.events(until=split.train_until)) == 810_128
    dataset, report = imported(shared_data, "uci-online-retail", "uci-online-retail", tmp_path / "retail")
    assert dataset.counts()["events"] + sum(report.rejected.values()) == 502_938
