from pathlib import Path

import polars as pl
import pytest

from tamis.data.sources import SOURCES, read_source
from tamis.data.tables import RawTables, check
from tamis.errors import DataError

FLAGS = "0|0|0|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0"  # Animation and Children's
RATINGS = [(1, 10, 5, 880_000_000), (1, 11, 3, 880_000_000), (2, 10, 4, 880_000_100)]
EXPECTED = [
    ("1", "10", "rate", 5.0, 8.8e8),
    ("1", "10", "click", 0.0, 8.8e8),
    ("1", "11", "rate", 3.0, 8.8e8),
    ("2", "10", "rate", 4.0, 8.8e8 + 100),
    ("2", "10", "click", 0.0, 8.8e8 + 100),
]


def events(tables: RawTables) -> list[tuple[object, ...]]:
    return check(tables).events.select("user_id", "item_id", "action", "value", "time").rows()


def lines(separator: str) -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in RATINGS)


def ml_100k(folder: Path) -> None:
    (folder / "u.data").write_text(lines("\t"))
    row = (
        f"10|Toy Story (1995)|02-Jan-1995||http://x|{FLAGS}\n11|Été (1994)|||http://y|1{FLAGS[1:].replace('1', '0')}\n"
    )
    (folder / "u.item").write_bytes(row.encode("latin-1"))
    (folder / "u.user").write_text("1|24|M|technician|85711\n2|53|F|other|T8H1N\n")


def ml_1m(folder: Path) -> None:
    (folder / "ratings.dat").write_text(lines("::"))
    movies = "10::Toy Story (1995)::Animation|Children's\n11::Été (1994)::\n"
    (folder / "movies.dat").write_bytes(movies.encode("latin-1"))
    (folder / "users.dat").write_text("1::M::24::10::85711\n2::F::53::3::T8H1N\n")


def ml_latest(folder: Path) -> None:
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + lines(","))
    movies = 'movieId,title,genres\n10,"Toy Story (1995)",Animation|Children\'s\n11,"Été (1994)",(no genres listed)\n'
    (folder / "movies.csv").write_text(movies)


@pytest.mark.parametrize("layout", [ml_100k, ml_1m, ml_latest])
def test_each_layout_of_movielens_gives_the_same_tables(tmp_path: Path, layout: object) -> None:
    layout(tmp_path)  # type: ignore[operator]
    tables = read_source("movielens", tmp_path)
    assert events(tables) == EXPECTED
    checked = check(tables)
    items = checked.items.select("item_id", "text", "keywords", "category", "publish_time").rows()
    first = 788_918_400.0 + (86_400 if layout is ml_100k else 0)
    assert items[0] == ("10", "Toy Story (1995)", ["Animation", "Children's"], "Animation", first)
    assert items[1][:2] == ("11", "Été (1994)")
    assert not items[1][2]
    assert items[1][3] is None
    assert items[1][4] == 757_382_400.0
    assert checked.rejected.height == 0
    if layout is not ml_latest:
        assert checked.users.select("user_id", "age", "gender", "zip").rows()[1] == ("2", 53, "F", "T8H1N")


def test_the_rating_from_which_on_one_likes_a_film_can_be_chosen(tmp_path: Path) -> None:
    ml_1m(tmp_path)
    actions = [row[2] for row in events(read_source("movielens", tmp_path, {"positive_rating": 5}))]
    assert actions == ["rate", "click", "rate", "rate"]


def test_a_scale_of_ten_doubles_the_threshold(tmp_path: Path) -> None:
    pl.DataFrame({"user_id": [1, 1], "imdb_id": [7, 8], "rating": [8, 7], "timestamp": [1.4e9, 1.4e9]}).write_parquet(
        tmp_path / "ratings.parquet"
    )
    movies = pl.DataFrame({"imdb_id": [7, 8], "title": ["A (2001)", "B"], "genres": ["Drama|War", None]})
    movies.write_parquet(tmp_path / "movies.parquet")
    rows = events(read_source("movielens", tmp_path))
    assert [(row[1], row[2]) for row in rows] == [("7", "rate"), ("7", "click"), ("8", "rate")]


def test_the_rebuilt_set_keeps_order_and_unknown_ratings_are_nought(tmp_path: Path) -> None:
    interactions = {
        "user_id": [1, 1, 1],
        "item_id": [12, 10, 11],
        "rating": [None, 5, None],
        "is_positive": [False, True, False],
        "timestamp": [1e9, 1e9, 1e9],
        "order_in_user": [2, 0, 1],
    }
    pl.DataFrame(interactions).write_parquet(tmp_path / "interactions.parquet")
    pl.DataFrame({"item_id": [10, 11, 12], "title": ["A (2000)"] * 3, "genres": ["Drama"] * 3}).write_parquet(
        tmp_path / "movies.parquet"
    )
    rows = [(row[1], row[2], row[3]) for row in events(read_source("movielens", tmp_path))]
    assert rows == [("10", "rate", 5.0), ("10", "click", 0.0), ("11", "rate", 0.0), ("12", "rate", 0.0)]


def test_a_folder_that_is_no_movielens_or_lacks_a_column_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no MovieLens files here; wanted u\.data and u\.item"):
        read_source("movielens", tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read_source("movielens", tmp_path / "nowhere")
    ml_latest(tmp_path)
    (tmp_path / "ratings.csv").write_text("userId,movieId,stars,timestamp\n1,10,5,880000000\n")
    with pytest.raises(DataError, match=r"ratings\.csv: column 'rating' is missing"):
        read_source("movielens", tmp_path)


def test_a_rating_that_is_no_number_costs_its_row(tmp_path: Path) -> None:
    ml_1m(tmp_path)
    (tmp_path / "ratings.dat").write_text(lines("::") + "2::11::good::880000200\n")
    tables = check(read_source("movielens", tmp_path))
    assert tables.rejected.select("source", "row", "reason").rows() == [("ratings.dat", 4, "rating is not a number")]
    assert tables.events.height == len(EXPECTED)


LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,play_time_ms,"
    "duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)


def kuairand(folder: Path) -> None:
    (folder / "log_standard_4_08_to_4_21_pure.csv").write_text(
        LOG
        + "0,5,20220408,0,1650000000000,1,1,0,0,1,0,1,2500,9000,0,0,1,0,1\n"
        + "0,6,20220408,0,1650000000000,0,0,0,0,0,1,0,0,9000,0,0,0,0,1\n"
        + "0,5,20220408,0,1650000000000,0,0,0,0,0,0,0,0,9000,0,0,0,0,1\n"
    )
    (folder / "log_random_4_22_to_5_08_pure.csv").write_text(
        LOG + "1,5,20220422,0,1651000000000,0,0,1,1,0,0,0,100,9000,0,0,0,1,0\n"
    )
    (folder / "user_features_pure.csv").write_text(
        "user_id,user_active_degree,follow_user_num,onehot_feat4\n0,full_active,5,\n"
    )
    (folder / "video_features_basic_pure.csv").write_text(
        "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,tag\n"
        '5,77,NORMAL,2022-04-07,Kmovie,0.0,9000.0,"12,65"\n6,78,AD,2022-04-07,Kmovie,0.0,,\n'
    )


def test_a_row_of_kuairand_gives_an_impression_and_an_event_for_each_thing_done(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    kuairand(tmp_path / "data")
    tables = check(read_source("kuairand", tmp_path))
    rows = tables.events.select("item_id", "action", "value", "request_id", "scene").rows()
    acted = ["impression", "click", "like", "share", "long_view", "profile_enter"]
    page = ("0-1650000000000", "tab1")
    assert rows == [
        *(("5", action, 0.0, *page) for action in acted),
        ("5", "play", 2.5, *page),
        ("6", "impression", 0.0, *page),
        ("6", "hide", 0.0, *page),
    ]
    assert tables.rejected.select("source", "row", "reason").rows() == [
        ("log_standard_4_08_to_4_21_pure.csv", 3, "exact repeat")
    ]


def test_kuairand_describes_users_and_videos(tmp_path: Path) -> None:
    kuairand(tmp_path)
    tables = check(read_source("kuairand", tmp_path))
    assert tables.users.select("user_id", "user_active_degree", "follow_user_num").rows() == [("0", "full_active", 5)]
    video, advertisement = tables.items.rows(named=True)
    assert (video["author"], video["category"], video["keywords"], video["duration_seconds"]) == (
        "77",
        "12",
        ["12", "65"],
        9.0,
    )
    assert (video["publish_time"], video["video_type"]) == (1_649_289_600.0, "NORMAL")
    assert (advertisement["category"], advertisement["duration_seconds"]) == (None, None)


def test_videos_shown_at_random_are_read_when_asked_for(tmp_path: Path) -> None:
    kuairand(tmp_path)
    tables = check(read_source("kuairand", tmp_path, {"random": True}))
    mine = tables.events.filter(pl.col("user_id") == "1").select("action", "value", "scene").rows()
    assert mine == [
        ("impression", 0.0, "tab0"),
        ("comment", 0.0, "tab0"),
        ("follow", 0.0, "tab0"),
        ("play", 0.1, "tab0"),
    ]


def kuairand_parquet(folder: Path) -> None:
    kuairand(folder)
    history = {"user_id": [0, 1], "history_len": [3, 0], "last_time_ms": [1_649_999_000_000, 1_649_000_000_000],
               "watch_seq": [[5, 6, 5], []], "like_seq": [[6], []], "long_watch_seq": [[8, 9, 5], []]}  # fmt: skip
    schema = {"watch_seq": pl.List(pl.UInt16), "like_seq": pl.List(pl.UInt16), "long_watch_seq": pl.List(pl.UInt16)}
    pl.DataFrame(history, schema_overrides=schema).write_parquet(folder / "history_0409_0424.parquet")


def test_history_lists_become_events_one_second_apart_that_end_at_the_last_time(tmp_path: Path) -> None:
    kuairand_parquet(tmp_path)
    tables = check(read_source("kuairand", tmp_path))
    history = tables.events.filter(pl.col("request_id").is_null())
    last = 1_649_999_000
    rows = [(row[0], row[1], row[2] - last) for row in history.select("item_id", "action", "time").rows()]
    assert rows == [
        ("8", "long_view", -4),  # older than what the watch list remembers
        ("9", "long_view", -3),
        ("5", "play", -2),
        ("6", "play", -1),
        ("6", "like", -1),
        ("5", "play", 0),
        ("5", "long_view", 0),
    ]
    assert history["value"].sum() == 0
    assert (
        read_source("kuairand", tmp_path, {"history": False}).events.filter(pl.col("request_id").is_null()).height == 0
    )


def test_damaged_history_lists_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    kuairand_parquet(tmp_path)
    (tmp_path / "history_0409_0424.parquet").write_bytes(b"half a fi")
    with pytest.raises(DataError, match=r"history_0409_0424\.parquet: cannot be read"):
        read_source("kuairand", tmp_path)


def test_a_missing_file_or_column_of_kuairand_is_named(tmp_path: Path) -> None:
    kuairand(tmp_path)
    (tmp_path / "user_features_pure.csv").unlink()
    with pytest.raises(DataError, match=r"user_features\*: no such file"):
        read_source("kuairand", tmp_path)
    kuairand(tmp_path)
    log = tmp_path / "log_standard_4_08_to_4_21_pure.csv"
    log.write_text(LOG.replace("long_view", "lv"))
    with pytest.raises(DataError, match="column 'long_view' is missing"):
        read_source("kuairand", tmp_path)


def write(folder: Path, **frames: dict[str, list[object]]) -> None:
    for name, columns in frames.items():
        pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet")


def short(tables: RawTables) -> list[tuple[object, ...]]:
    """(user, item, action, value, day) of each event."""
    checked = check(tables).events
    day = pl.from_epoch(pl.col("time").cast(pl.Int64)).dt.strftime("%m-%d")
    return checked.select("user_id", "item_id", pl.col("action").cast(pl.String), "value", day).rows()


def test_gowalla_keeps_its_public_split_as_two_days(tmp_path: Path) -> None:
    write(tmp_path, train={"user_id": [0, 0], "item_id": [1, 2]}, test={"user_id": [0], "item_id": [3]})
    rows = short(read_source("gowalla-ngcf", tmp_path))
    assert rows == [("0", "1", "click", 0, "01-01"), ("0", "2", "click", 0, "01-01"), ("0", "3", "click", 0, "01-02")]


def test_foursquare_has_places_and_true_minutes(tmp_path: Path) -> None:
    write(
        tmp_path,
        checkins={"user_id": [1], "venue_id": [4], "minute": [60]},
        venues={"venue_id": [4], "lat": [40.7], "lon": [-74.0]},
    )
    tables = check(read_source("foursquare-nyc", tmp_path))
    assert tables.events["time"].to_list() == [1_333_479_600.0]
    assert tables.items.select("item_id", "latitude", "longitude").rows() == [("4", 40.7, -74.0)]


def test_citeulike_has_words_the_most_frequent_first(tmp_path: Path) -> None:
    write(
        tmp_path,
        interactions={"user_id": [1], "item_id": [4]},
        item_bow={"item_id": [4, 5], "word_counts": ["7:1 8:3 9:2", None]},
    )
    tables = check(read_source("citeulike-t", tmp_path))
    assert tables.items.select("item_id", "keywords").rows() == [("4", ["8", "9", "7"]), ("5", None)]
    assert short(tables) == [("1", "4", "click", 0, "01-01")]


def test_lastfm_has_play_counts_and_friends(tmp_path: Path) -> None:
    write(
        tmp_path,
        user_artists={"userID": [2], "artistID": [51], "weight": [138]},
        artists={"id": [51], "name": ["Duran Duran"], "url": ["u"], "pictureURL": [None]},
        user_friends={"userID": [2, 2], "friendID": [3, 4]},
    )
    tables = check(read_source("hetrec-lastfm", tmp_path))
    assert short(tables) == [("2", "51", "click", 138, "01-01")]
    assert tables.items.select("item_id", "text").rows() == [("51", "Duran Duran")]
    assert tables.users.select("user_id", "friends").rows() == [("2", ["3", "4"])]


def test_retailrocket_has_three_strengths_of_feedback(tmp_path: Path) -> None:
    write(tmp_path, events={"visitorid": [1, 1, 1], "itemid": [2, 2, 2], "event": ["view", "add_to_cart", "purchase"]})
    assert [row[2] for row in short(read_source("retailrocket-core", tmp_path))] == ["click", "like", "collect"]


def test_steam_has_purchases_and_hours_as_seconds(tmp_path: Path) -> None:
    write(
        tmp_path,
        games={"Game_ID": [1], "Game Name": ["Spore"]},
        purchases={"User_ID": [5], "Game_ID": [1], "Purchase": [1.0]},
        play_hours={"User_ID": [5], "Game_ID": [1], "Hours": [1.5]},
    )
    rows = short(read_source("steam-200k", tmp_path))
    assert rows == [("5", "1", "click", 0, "01-01"), ("5", "1", "play", 5400, "01-02")]


def test_online_retail_leaves_out_returns_and_lines_without_a_customer(tmp_path: Path) -> None:
    moment = pl.Series(["2009-12-01 07:45:00"] * 3).str.to_datetime()
    columns = {"Invoice": ["1", "1", "2"], "StockCode": ["A", "A", "B"], "Description": [None, " Glass ball ", "Light"],
               "Quantity": [12, -1, 3], "InvoiceDate": moment, "Price": [1.0, 3.0, 2.0], "CustomerID": [7, 7, None],
               "Country": ["France", "France", "Spain"]}  # fmt: skip
    pl.DataFrame(columns).write_parquet(tmp_path / "retail_2009.parquet")
    tables = check(read_source("uci-online-retail", tmp_path))
    assert tables.events.select("user_id", "item_id", "value", "time").rows() == [("7", "A", 12.0, 1_259_653_500.0)]
    assert tables.rejected.select("row", "reason").rows() == [
        (2, "left out: only where Quantity is above 0"),
        (3, "left out: only where CustomerID is known"),
    ]
    assert tables.items.select("item_id", "text", "price").rows() == [("A", "Glass ball", 2.0), ("B", "Light", 2.0)]
    assert tables.users.select("user_id", "country").rows() == [("7", "France")]


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ("table", "tamis", "movielens", "kuairand")])
def test_a_public_set_that_is_not_there_is_an_error_that_names_the_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="parquet: no such file"):
        read_source(name, tmp_path)
