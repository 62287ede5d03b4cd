import numpy as np
import polars as pl
import pytest

from tamis.data.tables import SCHEMAS, RawTables, check
from tamis.simulate.sessions import FLAGS


@pytest.fixture(scope="module")
def tables(world) -> RawTables:
    return world.tables()


def test_the_import_finds_nothing_to_reject(tables):
    checked = check(tables)
    assert checked.rejected.height == 0
    assert checked.events.height == tables.events.height


def test_the_tables_have_the_well_known_columns_and_types(tables):
    assert tables.items.schema == pl.Schema(SCHEMAS["items"])
    assert dict(tables.events.schema) == dict(SCHEMAS["events"])
    assert set(SCHEMAS["requests"]) <= set(tables.requests.columns)
    assert {"user_id", "gender", "age", "city", "device", "register_time"} == set(tables.users.columns)


def test_row_and_number_are_the_same(tables, world):
    assert tables.users["user_id"][123] == "u000123"
    assert tables.items["item_id"][456] == "i000456"
    assert world.numbers(tables.items["item_id"]).tolist() == list(range(600))
    assert world.numbers(["u000007", "alice", "", "u12", "u-00001"]).tolist() == [7, -1, -1, -1, -1]


def test_item_columns_are_of_sensible_values(tables):
    items = tables.items
    assert items["quality"].is_between(0, 1).all()
    assert items["duration_seconds"].is_between(5, 300).all()
    assert (items["keywords"].list.n_unique() == 4).all()
    lengths = np.linalg.norm(np.array(items["vector"].to_list()), axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-5)
    somewhere = items["city"].is_not_null()
    assert 0.2 < somewhere.mean() < 0.6
    assert (items["latitude"].is_not_null() == somewhere).all()
    assert (items["longitude"].is_not_null() == somewhere).all()


def test_every_event_of_a_request_is_by_its_user_and_not_before_it(tables):
    joined = tables.events.join(tables.requests, on="request_id", how="left", suffix="_of_request")
    assert joined["user_id_of_request"].null_count() == 0
    assert (joined["user_id"] == joined["user_id_of_request"]).all()
    assert (joined["time"] >= joined["time_of_request"]).all()
    others = joined.filter(pl.col("action") != "impression")
    assert (others["time"] > others["time_of_request"]).all()


def test_a_page_is_over_before_the_user_asks_for_the_next(tables):
    pages = tables.events.group_by("request_id").agg(pl.col("user_id").first(), last=pl.col("time").max())
    pages = pages.join(tables.requests.select("request_id", "time"), on="request_id").sort("user_id", "time")
    following = pages["time"].shift(-1).filter(pages["user_id"] == pages["user_id"].shift(-1))
    assert (following > pages["last"].filter(pages["user_id"] == pages["user_id"].shift(-1))).all()


def test_every_other_event_has_its_impression_and_reactions_follow_a_click(tables):
    events = tables.events
    keys = ["request_id", "item_id", "user_id", "position"]
    impressions = events.filter(pl.col("action") == "impression").select(keys)
    assert impressions.is_unique().all()
    assert events.join(impressions, on=keys, how="anti").height == 0
    clicks = events.filter(pl.col("action") == "click")
    free = ["impression", "click", "hide"]
    followed = events.filter(~pl.col("action").is_in(free)).join(clicks, on=keys, how="left", suffix="_of_click")
    assert followed["time_of_click"].null_count() == 0
    assert (followed["time"] >= followed["time_of_click"]).all()


def test_events_and_requests_are_in_order_and_inside_the_log(tables, world):
    for frame in (tables.events, tables.requests):
        assert frame["time"].is_sorted()
        assert frame["time"].min() >= world.config.start_time
        assert frame["time"].max() < world.config.end_time
    assert tables.events["event_id"].is_unique().all()


def test_all_kinds_of_action_occur_and_only_plays_have_a_value(tables):
    events = tables.events
    assert set(events["action"].unique()) == {"impression", "play", *FLAGS}
    assert (events.filter(pl.col("action") == "play")["value"] > 0).all()
    assert (events.filter(pl.col("action") != "play")["value"] == 0).all()
