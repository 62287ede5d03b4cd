import gzip
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.config import convert
from tamis.data.sources import SOURCES, raw, read_source
from tamis.data.sources.files import TextFormat, read_file, with_numbers
from tamis.data.sources.mapping import TableConfig, read_mapping
from tamis.data.tables import RawTables, check
from tamis.errors import ConfigError, DataError

MAPPING = """
[[users]]
file = "people.csv"
columns = { user_id = "uid" }
rest = true

[[items]]
file = "clips.csv"
columns = { item_id = "vid", author = "by", keywords = "tags", duration_seconds = "length_ms" }
lists = { keywords = "|" }
scales = { duration_seconds = 0.001 }
times = { publish_time = { column = "uploaded", format = "%Y-%m-%d", offset_hours = 8 } }

[[events]]
file = "log-*.csv"
columns = { user_id = "uid", item_id = "vid", request_id = ["uid", "ms"], scene = "tab" }
times = { time = { column = "ms", unit = "ms" } }
repeats = ["uid", "vid", "ms"]
keep = [{ column = "bot", equals = "0" }]
emit = [
  { action = "impression" },
  { action = "click", when = { column = "clicked", at_least = 1 } },
  { action = "play", when = { column = "played", above = 0 }, value = "played", scale = 0.001 },
]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mapping.toml").write_text(MAPPING)
    (tmp_path / "people.csv").write_text('uid,age,zip,name\na,30,007,"Ann, A."\nb,,12,Bob\n')
    (tmp_path / "clips.csv").write_text("vid,by,tags,length_ms,uploaded\nx,k,red| blue|,1500,2020-01-02\ny,,,,\n")
    head = "uid,vid,ms,tab,clicked,played,bot\n"
    (tmp_path / "log-1.csv").write_text(head + "a,x,1600000000000,1,1,2500,0\na,y,1600000000000,1,0,0,0\n")
    (tmp_path / "log-2.csv").write_text(
        head
        + "a,x,1600000000000,1,1,2500,0\n"  # again
        + "b,x,1600000001000,2,maybe,0,0\n"  # not a number
        + "b,y,1600000002000,2,1,,0\n"
        + "b,y,1600000003000,2,1,9,1\n"  # a bot
        + "b,y,16,2,1,9,0,7\n"  # a field too many
    )
    return tmp_path


def test_a_mapping_in_toml_fills_the_tables(folder: Path) -> None:
    tables = check(read_source("table", folder))
    assert tables.users.select("user_id", "age", "zip", "name").rows() == [
        ("a", 30, "007", "Ann, A."),
        ("b", None, "12", "Bob"),
    ]
    first, second = tables.items.rows(named=True)
    assert (first["author"], first["keywords"], first["duration_seconds"]) == ("k", ["red", "blue"], 1.5)
    assert first["publish_time"] == 1_577_923_200 - 8 * 3600
    assert second["keywords"] is second["publish_time"] is second["duration_seconds"] is None
    events = tables.events.select("user_id", "item_id", "action", "time", "value", "request_id", "scene").rows()
    assert events == [
        ("a", "x", "impression", 1.6e9, 0.0, "a-1600000000000", "1"),
        ("a", "x", "click", 1.6e9, 0.0, "a-1600000000000", "1"),
        ("a", "x", "play", 1.6e9, 2.5, "a-1600000000000", "1"),
        ("a", "y", "impression", 1.6e9, 0.0, "a-1600000000000", "1"),
        ("b", "y", "impression", 1.6e9 + 2, 0.0, "b-1600000002000", "2"),
        ("b", "y", "click", 1.6e9 + 2, 0.0, "b-1600000002000", "2"),
    ]


def test_rows_that_cannot_be_used_are_named_by_file_row_and_reason(folder: Path) -> None:
    rejected = check(read_source("table", folder)).rejected
    assert sorted(rejected.select("source", "row", "reason").rows()) == [
        ("log-2.csv", 1, "exact repeat"),
        ("log-2.csv", 2, "clicked is not a number"),
        ("log-2.csv", 4, "left out: only where bot is 0"),
        ("log-2.csv", 5, "line has more than 7 fields"),
    ]


def test_a_row_that_the_tables_reject_still_knows_its_file(folder: Path) -> None:
    (folder / "log-2.csv").write_text(
        "uid,vid,ms,tab,clicked,played,bot\na,x,1600000009000,1,0,0,0\n,x,1600000009000,1,0,0,0\n"
    )
    rejected = check(read_source("table", folder)).rejected
    assert rejected.select("source", "row", "reason").rows() == [("log-2.csv", 2, "user_id is empty")]


def test_the_mapping_file_itself_or_a_config_may_be_given(folder: Path) -> None:
    tables = read_source("table", folder / "mapping.toml")
    assert len(tables) == len(read_source("table", folder))
    users = [{"file": "people.csv", "columns": {"user_id": "uid"}}]
    assert read_source("table", folder, {"users": users}).users["user_id"].to_list() == ["a", "b"]


def mapped(folder: Path, **tables: object) -> RawTables:
    return read_mapping(folder, convert(tables, TableConfig))


def log_mapping(**more: object) -> dict[str, object]:
    columns = {"user_id": "u", "item_id": "i"}
    return {
        "file": "e.csv",
        "columns": columns,
        "times": {"time": {"column": "t"}},
        "emit": [{"action": "click"}],
        **more,
    }


@pytest.mark.parametrize(
    ("text", "time", "seconds"),
    [
        ("1600000000", {"column": "t"}, 1.6e9),
        ("1600000000000000", {"column": "t", "unit": "us"}, 1.6e9),
        ("90", {"column": "t", "unit": "minute", "since": "2020-01-01T01:00"}, 1_577_836_800 + 9000),
        ("2020-01-01 00:00:10", {"column": "t", "format": "%Y-%m-%d %H:%M:%S"}, 1_577_836_810),
        ("01/02/2020", {"column": "t", "format": "%d/%m/%Y", "offset_hours": -1}, 1_580_515_200 + 3600),
    ],
)
def test_times_come_in_units_and_formats(tmp_path: Path, text: str, time: dict[str, object], seconds: float) -> None:
    (tmp_path / "e.csv").write_text(f"u,i,t\na,x,{text}\n")
    events = check(mapped(tmp_path, events=[log_mapping(times={"time": time})])).events
    assert events["time"].to_list() == [seconds]


def test_a_time_that_does_not_have_the_format_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("u,i,t\na,x,yesterday\na,x,2020-01-01\n")
    tables = mapped(tmp_path, events=[log_mapping(times={"time": {"column": "t", "format": "%Y-%m-%d"}})])
    assert tables.rejected["reason"].to_list() == ["t is not a time like %Y-%m-%d"]
    assert tables.events.height == 1


def test_a_log_without_times_gets_one_second_between_a_users_rows(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("u,i\na,x\nb,x\na,y\n")
    events = mapped(tmp_path, events=[log_mapping(times={"time": {"since": "2020-01-01"}})]).events
    assert (events["time"] - 1_577_836_800).to_list() == [0, 0, 1]


def test_the_action_may_stand_in_a_column(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("u,i,t,what\na,x,1600000000,view\na,x,1600000001,like\na,x,1600000002,dance\n")
    tables = check(mapped(tmp_path, events=[log_mapping(emit=[], action_column="what", actions={"view": "click"})]))
    assert tables.events["action"].to_list() == ["click", "like"]
    assert tables.rejected["reason"].to_list() == ["action is not a known action"]


def test_an_action_in_a_column_keeps_the_value_beside_it(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(
        "u,i,t,what,ms\na,x,1600000000,play,1500\na,x,1600000001,like,\na,x,1600000002,play,long\n"
    )
    log = log_mapping(
        emit=[], action_column="what", columns={"user_id": "u", "item_id": "i", "value": "ms"}, scales={"value": 1e-3}
    )
    tables = check(mapped(tmp_path, events=[log]))
    assert tables.events.select("action", "value").rows() == [("play", 1.5), ("like", 0.0)]
    assert tables.rejected["reason"].to_list() == ["ms is not a number"]
    log["emit"] = [{"action": "impression"}]  # these have the value that they say themselves: none
    events = check(mapped(tmp_path, events=[log])).events
    assert events.filter(action="impression")["value"].to_list() == [0.0, 0.0]
    assert events.filter(action="play")["value"].to_list() == [1.5]


def test_a_rule_may_say_several_bounds_and_an_empty_value_meets_none(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("u,i,t,n\na,w,1600000000,1\na,x,1600000001,2\na,y,1600000002,\na,z,1600000003,3\n")
    rule = {"column": "n", "at_least": 2, "below": 3}
    events = check(mapped(tmp_path, events=[log_mapping(emit=[{"action": "click", "when": rule}])])).events
    assert events["item_id"].to_list() == ["x"]
    tables = mapped(tmp_path, events=[log_mapping(keep=[rule])])
    assert set(tables.rejected["reason"]) == {"left out: only where n is at least 2.0 and n is below 3.0"}


def test_a_table_can_be_read_out_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("u,i,t,country\na,x,1600000000,fr\na,y,1600000001,de\nb,x,1600000002,it\n")
    user = {"file": "e.csv", "columns": {"user_id": "u", "country": "country"}, "distinct": True}
    assert check(mapped(tmp_path, users=[user])).users.select("user_id", "country").rows() == [("a", "fr"), ("b", "it")]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (log_mapping(emit=[{"action": "jump"}]), "unknown action 'jump'"),
        (log_mapping(emit=[]), "emit"),
        (log_mapping(times={"time": {"since": "whenever"}}), "whenever"),
        (log_mapping(times={"time": {}}), "since"),
        (log_mapping(times={"publish_time": {"since": "2020-01-01"}}), "times.publish_time"),
        (log_mapping(colour="red"), "colour"),
        (log_mapping(columns={"user_id": "u", "item_id": "i", "place": "p"}), "place"),
        (log_mapping(columns={"user_id": "u", "item_id": "i", "time": "t"}), "both columns and times"),
        (log_mapping(columns={"user_id": "u", "item_id": "i", "value": "v"}), "action_column"),
        (log_mapping(scales={"velue": 2}), "velue"),
        (log_mapping(lists={"user_id": "|", "keywords": "|"}), "keywords"),
        (log_mapping(columns={"user_id": "u", "item_id": ["i", "j"]}, scales={"item_id": 2}), "one column"),
        (log_mapping(rest=True), "rest"),
        (log_mapping(distinct=True), "distinct"),
    ],
)
def test_a_mapping_that_cannot_work_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        convert({"events": [wrong]}, TableConfig)


def test_a_missing_file_or_column_is_named_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"e\.csv: no such file"):
        mapped(tmp_path, events=[log_mapping()])
    (tmp_path / "e.csv").write_text("u,i,when\na,x,1\n")
    with pytest.raises(DataError, match=r"e\.csv: column 't' is missing; it has \['u', 'i', 'when'\]"):
        mapped(tmp_path, events=[log_mapping()])
    with pytest.raises(DataError, match="no such file or folder"):
        mapped(tmp_path / "nowhere", events=[log_mapping()])


@pytest.mark.parametrize("pattern", ["", "/tmp/e.csv"])
def test_a_file_outside_the_folder_is_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(DataError, match=f"file '{pattern}': wanted a name or a pattern relative to {tmp_path}"):
        mapped(tmp_path, events=[log_mapping(file=pattern)])


def test_the_table_source_wants_a_mapping_that_names_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mapping\.toml: no such file"):
        read_source("table", tmp_path)
    (tmp_path / "mapping.toml").write_text("")
    with pytest.raises(DataError, match="names no file"):
        read_source("table", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.csv", b"", "empty file"),
        ("e.csv", b"u,i\nfine,x\ncaf\xe9,x\n", "line 3 is not UTF-8"),
        ("e.parquet", b"not a parquet file", "cannot be read"),
        ("e.csv.gz", b"not gzip", "cannot be read"),
        ("e.csv.gz", gzip.compress(b"u,i\na,x\n" * 9, mtime=0)[:10] + b"\xff" * 20, "cannot be read"),
        ("e.csv", b'u,i\na,"x\n' + b"a,x\n" * 40_000, "cannot be read"),  # a quote that is never closed
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: .*{message}"):
        read_file(tmp_path / name, TextFormat())
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        read_file(tmp_path / "gone.csv", TextFormat())


def test_text_files_may_be_compressed_latin_or_with_a_mark_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"u,i\na,x\n", mtime=0))
    (tmp_path / "b.csv").write_bytes("u,i\ncafé,x\n".encode("latin-1"))
    (tmp_path / "c.csv").write_bytes("\ufeffu,i\ncafé,x\n".encode())
    assert read_file(tmp_path / "a.csv.gz", TextFormat())[0].select("u", "i").rows() == [("a", "x")]
    for encoding in ("latin-1", "either"):
        assert read_file(tmp_path / "b.csv", TextFormat(encoding=encoding))[0]["u"].to_list() == ["café"]
    for odd in ("", "a,x,y\n"):  # a line that cannot be split sends the whole file the slow way
        (tmp_path / "c.csv").write_bytes(f"\ufeffu,i\ncafé,x\n{odd}".encode())
        for encoding in ("utf-8", "either"):
            assert read_file(tmp_path / "c.csv", TextFormat(encoding=encoding))[0]["u"].to_list() == ["café"]


@pytest.mark.parametrize("long", ["", "6::seven::8::9\n"])
def test_lines_with_too_many_fields_cost_only_themselves_and_shorter_ones_end_empty(tmp_path: Path, long: str) -> None:
    (tmp_path / "a.txt").write_text(f"1::two::3\n4::five\n{long}10::::11\n")
    frame, bad = read_file(tmp_path / "a.txt", TextFormat(separator="::", quote="", names=("a", "b", "c")))
    last = 4 if long else 3
    assert frame.select("_row", "a", "b", "c").rows() == [
        (1, "1", "two", "3"),
        (2, "4", "five", None),
        (last, "10", None, "11"),
    ]
    assert bad.select("row", "reason").rows() == ([(3, "line has more than 3 fields")] if long else [])


def test_numbers_are_recognised_only_where_nothing_is_lost() -> None:
    frame = pl.DataFrame({"age": ["1", None], "zip": ["007", "1"], "score": ["1.5", "-2"], "mixed": ["1", "x"],
                          "none": pl.Series([None, None], dtype=pl.String)})  # fmt: skip
    numbers = with_numbers(frame, frame.columns)
    assert numbers.schema == {
        "age": pl.Int64,
        "zip": pl.String,
        "score": pl.Float64,
        "mixed": pl.String,
        "none": pl.Null,
    }


def test_an_unknown_source_or_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown source 'netflix'; there are movielens, kuairand, table, tamis"):
        read_source("netflix", tmp_path)
    with pytest.raises(ConfigError, match="movielens"):
        read_source("movielens", tmp_path, {"colour": "red"})
    assert all(source.config() is not None for source in SOURCES.values())


text_ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.tuples(text_ids, text_ids, st.floats(7e8, 4e9), st.lists(text_ids, max_size=3)), max_size=8))
def test_raw_tables_survive_the_disk(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, float, list[str]]]
) -> None:
    folder = tmp_path_factory.mktemp("raw")
    users, items, times, words = ([row[part] for row in rows] for part in range(4))
    given_tables = RawTables.of(
        items=pl.DataFrame(
            {"item_id": items, "keywords": words}, schema={"item_id": pl.String, "keywords": pl.List(pl.String)}
        ),
        events=pl.DataFrame(
            {"user_id": users, "item_id": items, "action": ["like"] * len(rows), "time": times},
            schema={"user_id": pl.String, "item_id": pl.String, "action": pl.String, "time": pl.Float64},
        ),
    )
    raw.write(given_tables, folder)
    read = read_source("tamis", folder)
    for name in ("users", "items", "requests", "events"):
        assert getattr(read, name).drop("_source", "_row").equals(getattr(given_tables, name))


def test_a_folder_without_raw_tables_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of users\.parquet"):
        read_source("tamis", tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read_source("tamis", tmp_path / "nowhere")
