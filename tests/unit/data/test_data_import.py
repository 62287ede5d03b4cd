import fcntl
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.data.dataset import MANIFEST, Dataset
from tamis.data.tables import RawTables
from tamis.data.write import import_tables
from tamis.errors import DataError
from tamis.types import ACTION_CODE, Action

DAY = 86_400.0
START = 1_600_000_000.0 // DAY * DAY


def events(*rows: tuple[str, str, str, float], **columns: list[object]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "action", "time"], orient="row")
    return frame.with_columns(pl.Series(name, values, strict=False) for name, values in columns.items())


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and ".lock" not in p.name
    }


def test_numbers_are_given_in_the_order_of_appearance_and_never_change(tmp_path: Path) -> None:
    users = pl.DataFrame({"user_id": ["b", "a"], "age": [30, 20]})
    import_tables(RawTables.of(users=users, events=events(("c", "x", "click", START))), tmp_path)
    import_tables(
        RawTables.of(users=pl.DataFrame({"user_id": ["d", "a"]}), events=events(("e", "y", "click", START))), tmp_path
    )
    dataset = Dataset.open(tmp_path)
    assert dataset.users["user_id"].to_list() == ["b", "a", "c", "d", "e"]
    assert dataset.users["age"].to_list() == [30, 20, None, None, None]
    assert dataset.items["item_id"].to_list() == ["x", "y"]
    assert dataset.user_ids.numbers(["e", "b", "?"]).tolist() == [4, 0, -1]
    assert dataset.item_ids.externals([1]) == ["y"]
    assert dataset.events().user.tolist() == [2, 4]


def test_a_later_import_changes_and_adds_attributes_but_a_null_erases_nothing(tmp_path: Path) -> None:
    first = pl.DataFrame({"item_id": ["x", "y"], "category": ["red", "blue"], "quality": [0.1, 0.2]})
    second = pl.DataFrame({"item_id": ["y", "x"], "category": ["green", None], "tags": [["a"], ["b"]]})
    import_tables(RawTables.of(items=first), tmp_path)
    report = import_tables(RawTables.of(items=second), tmp_path)
    items = Dataset.open(tmp_path).items
    assert items["category"].to_list() == ["red", "green"]
    assert items["quality"].to_list() == [0.1, 0.2]
    assert items["tags"].to_list() == [["b"], ["a"]]
    assert report.changed["items"] == 2
    assert report.added["items"] == 0


def test_saying_the_same_again_adds_no_rows(tmp_path: Path) -> None:
    items = pl.DataFrame({"item_id": ["x"], "keywords": [["a", "b"]], "vector": [[1.0, 2.0]], "colour": ["red"]})
    import_tables(RawTables.of(items=items), tmp_path)
    report = import_tables(RawTables.of(items=items), tmp_path)
    assert report.changed["items"] == 0
    assert len(list(tmp_path.glob("items/*.parquet"))) == 1


def test_a_column_that_was_a_number_and_becomes_text_is_text_for_all(tmp_path: Path) -> None:
    import_tables(RawTables.of(users=pl.DataFrame({"user_id": ["a"], "zip": [12]})), tmp_path)
    import_tables(RawTables.of(users=pl.DataFrame({"user_id": ["b", "a"], "zip": ["K1A", "12"]})), tmp_path)
    import_tables(RawTables.of(users=pl.DataFrame({"user_id": ["c"], "zip": [99]})), tmp_path)
    assert Dataset.open(tmp_path).users["zip"].to_list() == ["12", "K1A", "99"]


def test_a_value_that_becomes_a_list_and_vectors_of_another_length_are_errors(tmp_path: Path) -> None:
    import_tables(RawTables.of(items=pl.DataFrame({"item_id": ["a"], "tag": ["t"], "vector": [[1.0, 2.0]]})), tmp_path)
    with pytest.raises(DataError, match=r"column 'tag' holds List\(String\), earlier imports had String"):
        import_tables(RawTables.of(items=pl.DataFrame({"item_id": ["b"], "tag": [["t"]]})), tmp_path)
    with pytest.raises(DataError, match="vectors of 3 numbers, earlier imports had 2"):
        import_tables(RawTables.of(items=pl.DataFrame({"item_id": ["b"], "vector": [[1.0, 2.0, 3.0]]})), tmp_path)


def test_events_come_back_sorted_by_time_with_ties_in_the_order_of_the_log(tmp_path: Path) -> None:
    import_tables(RawTables.of(events=events(("u", "b", "click", START + 5), ("u", "a", "like", START + 5))), tmp_path)
    import_tables(RawTables.of(events=events(("u", "c", "click", START + 5), ("u", "d", "click", START - 1))), tmp_path)
    dataset = Dataset.open(tmp_path)
    stored = dataset.events()
    assert dataset.item_ids.externals(stored.item) == ["d", "b", "a", "c"]
    assert stored.action.tolist() == [1, 1, 2, 1]
    assert dataset.span() == (START - 1, START + 5)
    assert (stored.request == -1).all()
    assert (stored.position == -1).all()


def test_values_and_positions_survive_the_disk(tmp_path: Path) -> None:
    frame = events(("u", "a", "play", START), ("u", "a", "impression", START), value=[12.5, None], position=[None, 3])
    import_tables(RawTables.of(events=frame), tmp_path)
    stored = Dataset.open(tmp_path).events()
    assert stored.value.tolist() == [12.5, 0.0]
    assert stored.position.tolist() == [-1, 3]
    dtypes = ("int32", "int32", "uint8", "float32", "float64", "int64", "int16")
    assert tuple(str(getattr(stored, name).dtype) for name in stored.__slots__) == dtypes


def test_only_the_days_and_actions_asked_for_are_read(tmp_path: Path) -> None:
    rows = [("u", "a", action, START + day * DAY) for day in range(4) for action in ("click", "like")]
    import_tables(RawTables.of(events=events(*rows)), tmp_path)
    for day in (0, 3):
        next(tmp_path.glob(f"events/day={np.datetime64(int(START + day * DAY), 's').astype('M8[D]')}/*")).write_bytes(
            b""
        )
    dataset = Dataset.open(tmp_path)
    middle = dataset.events(since=START + DAY, until=START + 3 * DAY)
    assert middle.time.tolist() == [START + DAY, START + DAY, START + 2 * DAY, START + 2 * DAY]
    likes = dataset.events(START + DAY, START + 3 * DAY, actions=[Action.LIKE])
    assert likes.action.tolist() == [2, 2]
    assert len(dataset.events(START + DAY, START + 3 * DAY, actions=[])) == 0
    assert len(dataset.events(since=START + 9 * DAY)) == 0


def test_since_belongs_to_the_span_and_until_does_not(tmp_path: Path) -> None:
    import_tables(RawTables.of(events=events(*[("u", "a", "click", START + s) for s in range(4)])), tmp_path)
    assert Dataset.open(tmp_path).events(since=START + 1, until=START + 3).time.tolist() == [START + 1, START + 2]


def test_requests_keep_their_context_and_number(tmp_path: Path) -> None:
    first = pl.DataFrame(
        {"request_id": ["r1"], "user_id": ["u"], "time": [START], "scene": ["feed"], "device": ["phone"]}
    )
    second = pl.DataFrame({"request_id": ["r2"], "user_id": ["v"], "time": [START - DAY], "lat": [1.5]})
    import_tables(RawTables.of(requests=first), tmp_path)
    import_tables(RawTables.of(requests=second), tmp_path)
    requests = Dataset.open(tmp_path).requests()
    assert requests.number.tolist() == [0, 1]
    assert requests.time.tolist() == [START, START - DAY]
    assert list(requests.scene) == ["feed", ""]
    assert requests.context.to_dict(as_series=False) == {"device": ["phone", None], "lat": [None, 1.5]}
    assert Dataset.open(tmp_path).requests(since=START).number.tolist() == [0]


def test_a_request_id_that_only_events_mention_becomes_a_bare_request(tmp_path: Path) -> None:
    frame = events(("u", "a", "click", START + 9), ("u", "b", "impression", START + 1), request_id=["r", "r"],
                   scene=[None, "feed"])  # fmt: skip
    import_tables(RawTables.of(events=frame), tmp_path)
    dataset = Dataset.open(tmp_path)
    requests = dataset.requests()
    assert (requests.number.tolist(), requests.time.tolist(), list(requests.scene)) == ([0], [START + 1], ["feed"])
    assert dataset.events().request.tolist() == [0, 0]
    late = events(("u", "a", "like", START + 20), request_id=["r"])
    import_tables(RawTables.of(events=late), tmp_path)
    assert Dataset.open(tmp_path).counts()["requests"] == 1
    assert Dataset.open(tmp_path).events().request.tolist() == [0, 0, 0]


def test_an_event_of_another_users_request_is_rejected_now_and_later(tmp_path: Path) -> None:
    requests = pl.DataFrame({"request_id": ["r"], "user_id": ["u"], "time": [START]})
    thief = events(("v", "a", "click", START), request_id=["r"])
    for raw in (RawTables.of(requests=requests, events=thief), RawTables.of(events=thief)):
        report = import_tables(raw, tmp_path, max_rejected_share=1)
        assert report.rejected == {"request belongs to another user": 1}
    assert Dataset.open(tmp_path).users["user_id"].to_list() == ["u"]
    stolen = requests.with_columns(user_id=pl.lit("v"))
    report = import_tables(RawTables.of(requests=stolen), tmp_path, max_rejected_share=1)
    assert report.rejected == {"request_id is known for another user": 1}


def test_importing_the_same_again_doubles_nothing(tmp_path: Path) -> None:
    requests = pl.DataFrame({"request_id": ["r"], "user_id": ["u"], "time": [START]})
    frame = events(*[("u", "a", "click", START + second) for second in range(3)],
                   request_id=["r", None, None], event_id=[None, None, "e"])  # fmt: skip
    raw = RawTables.of(requests=requests, events=frame)
    import_tables(raw, tmp_path)
    before = Dataset.open(tmp_path).counts()
    report = import_tables(raw, tmp_path)
    assert Dataset.open(tmp_path).counts() == before
    assert report.repeats == {"requests": 1, "events": 3}
    assert report.rejected == {}


def test_an_event_id_counts_once_however_often_it_is_sent(tmp_path: Path) -> None:
    frame = events(("u", "a", "click", START), ("u", "b", "like", START + 1), event_id=["e", "e"])
    report = import_tables(RawTables.of(events=frame), tmp_path)
    assert report.rejected == {"exact repeat": 1}
    again = events(("u", "c", "click", START + 5 * DAY), event_id=["e"])
    assert import_tables(RawTables.of(events=again), tmp_path).repeats["events"] == 1
    assert Dataset.open(tmp_path).events().item.tolist() == [0]


def test_equal_events_with_different_ids_are_different(tmp_path: Path) -> None:
    frame = events(("u", "a", "click", START), ("u", "a", "click", START), event_id=["e1", "e2"])
    assert import_tables(RawTables.of(events=frame), tmp_path).added["events"] == 2


def test_rejected_rows_are_kept_with_place_reason_and_content(tmp_path: Path) -> None:
    frame = events(("u", "a", "click", START), ("", "b", "click", START), ("u", "a", "click", START))
    for _ in range(2):
        import_tables(RawTables.of(events=frame), tmp_path, max_rejected_share=0.5)
    kept = pl.read_parquet(tmp_path / "rejected.parquet")
    assert kept.columns == ["source", "row", "reason", "json"]
    assert kept.select("source", "row", "reason").rows() == [
        ("events", 2, "user_id is empty"),
        ("events", 3, "exact repeat"),
    ]
    assert '"item_id":"b"' in kept["json"][0]


def test_a_damaged_file_of_rejected_rows_is_put_aside_and_stops_no_import(tmp_path: Path) -> None:
    (tmp_path / "rejected.parquet").write_bytes(b"half a file")
    frame = events(("u", "a", "click", START), ("", "b", "click", START))
    assert import_tables(RawTables.of(events=frame), tmp_path, 0.5).added["events"] == 1
    assert pl.read_parquet(tmp_path / "rejected.parquet").height == 1
    assert (tmp_path / "rejected.damaged").read_bytes() == b"half a file"


def test_too_many_bad_rows_import_nothing_but_can_be_looked_at(tmp_path: Path) -> None:
    good = [("u", "a", "click", START + second) for second in range(8)]
    frame = events(*good, ("", "b", "click", START), ("u", "b", "hop", START))
    with pytest.raises(DataError, match=r"2 of 10 rows \(20.0%\) are bad.*user_id is empty: 1"):
        import_tables(RawTables.of(events=frame), tmp_path, max_rejected_share=0.19)
    assert Dataset.open(tmp_path).counts()["events"] == 0
    assert pl.read_parquet(tmp_path / "rejected.parquet").height == 2
    assert import_tables(RawTables.of(events=frame), tmp_path, max_rejected_share=0.2).added["events"] == 8


def test_repeats_do_not_count_as_bad_rows(tmp_path: Path) -> None:
    frame = events(*[("u", "a", "click", START)] * 10)
    report = import_tables(RawTables.of(events=frame), tmp_path, max_rejected_share=0.0)
    assert report.added["events"] == 1
    assert report.rejected == {"exact repeat": 9}


def test_an_interrupted_import_leaves_the_data_as_it_was(tmp_path: Path) -> None:
    import_tables(RawTables.of(events=events(("u", "a", "click", START))), tmp_path)
    before = files(tmp_path)
    more = events(*[("v", "b", "click", START + day * DAY) for day in range(5)])

    def interrupt(what: str, done: int, total: int) -> None:
        if what == "write events" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_tables(RawTables.of(events=more), tmp_path, progress=interrupt)
    assert files(tmp_path) == before
    assert import_tables(RawTables.of(events=more), tmp_path).added == {
        "users": 1,
        "items": 1,
        "requests": 0,
        "events": 5,
    }


def test_what_a_killed_import_left_behind_is_not_read_and_goes_away(tmp_path: Path) -> None:
    import_tables(RawTables.of(events=events(("u", "a", "click", START))), tmp_path)
    part = next(tmp_path.glob("events/*/*.parquet"))
    left = part.with_name("part-000002.parquet")
    left.write_bytes(part.read_bytes())
    assert len(Dataset.open(tmp_path).events()) == 1
    import_tables(RawTables.of(users=pl.DataFrame({"user_id": ["w"]})), tmp_path)
    assert not left.exists()


def test_files_and_the_names_of_folders_are_on_disk_before_the_manifest(tmp_path: Path, synced: list[Path]) -> None:
    import_tables(RawTables.of(events=events(("a", "x", "click", START), ("", "x", "click", START))), tmp_path, 0.5)
    before = synced[: len(synced) - 1 - synced[::-1].index(tmp_path / f".{MANIFEST}")]
    day = next((tmp_path / "events").iterdir())
    assert {tmp_path, day.parent, day, next(day.iterdir())} <= set(before)
    assert {tmp_path / ".rejected.parquet"} <= set(before)
    assert synced[-1] == tmp_path


def test_a_second_import_at_the_same_time_is_refused(tmp_path: Path) -> None:
    with (tmp_path / ".import.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another import is running"):
            import_tables(RawTables.of(), tmp_path)


def test_an_empty_data_set_answers_with_nothing(tmp_path: Path) -> None:
    for dataset in (Dataset.open(tmp_path), Dataset.open(_imported_nothing(tmp_path))):
        assert len(dataset.events()) == len(dataset.requests()) == len(dataset.users) == len(dataset.items) == 0
        assert dataset.counts() == {"users": 0, "items": 0, "requests": 0, "events": 0}
        assert dataset.span() == (0.0, 0.0)
        assert dataset.actions() == {}
        assert len(dataset.user_ids) == 0


def _imported_nothing(folder: Path) -> Path:
    report = import_tables(RawTables.of(), folder)
    assert report.added == {"users": 0, "items": 0, "requests": 0, "events": 0}
    return folder


def test_a_folder_that_is_missing_damaged_or_of_another_format_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        Dataset.open(tmp_path / "nowhere")
    import_tables(RawTables.of(users=pl.DataFrame({"user_id": ["u"]})), tmp_path)
    manifest = tmp_path / MANIFEST
    text = manifest.read_text()
    manifest.write_text(text.replace('"format":1', '"format":99'))
    with pytest.raises(DataError, match="data format 99"):
        Dataset.open(tmp_path)
    manifest.write_text(text.replace('"format":1', '"format":99,"never_heard_of":[]'))
    with pytest.raises(DataError, match="data format 99, this version reads 1; import again"):
        Dataset.open(tmp_path)
    manifest.write_text(text[:20])
    with pytest.raises(DataError, match=MANIFEST):
        Dataset.open(tmp_path)
    manifest.unlink()
    with pytest.raises(DataError, match="missing although there are part files"):
        Dataset.open(tmp_path)


def test_two_items_whose_keys_collide_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tamis.data.ids.item_keys", lambda externals: np.zeros(len(externals), np.uint64))
    with pytest.raises(DataError, match="the same 64-bit key"):
        import_tables(RawTables.of(items=pl.DataFrame({"item_id": ["a", "b"]})), tmp_path)


def test_the_report_says_what_came_in(tmp_path: Path) -> None:
    frame = events(("u", "a", "click", START), ("u", "a", "like", START + 7), ("u", "b", "click", START + 3))
    report = import_tables(RawTables.of(events=frame), tmp_path)
    assert report.added == {"users": 1, "items": 2, "requests": 0, "events": 3}
    assert report.actions == {"click": 2, "like": 1}
    assert report.span == (START, START + 7)
    assert report.seconds > 0
    import_tables(RawTables.of(events=events(("u", "c", "share", START))), tmp_path)
    assert Dataset.open(tmp_path).actions() == {"click": 2, "like": 1, "share": 1}


log_rows = st.lists(
    st.tuples(
        st.sampled_from("uvw"),
        st.sampled_from("abcd"),
        st.sampled_from(["click", "like", "impression"]),
        st.integers(0, 3 * 86_400),
        st.sampled_from(["r1", "r2", None]),
        st.sampled_from(["e1", "e2", None, None]),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(first=log_rows, second=log_rows)
def test_what_was_logged_is_read_back_once_whatever_comes_twice(
    tmp_path_factory: pytest.TempPathFactory, first: list[tuple[object, ...]], second: list[tuple[object, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    names = {"user_id": pl.String, "item_id": pl.String, "action": pl.String, "time": pl.Float64,
             "request_id": pl.String, "event_id": pl.String}  # fmt: skip
    expected: dict[object, tuple[object, ...]] = {}
    owners: dict[object, object] = {}
    for rows in (first, second):
        frame = pl.DataFrame([(*r[:3], START + r[3], *r[4:]) for r in rows], schema=names, orient="row")  # type: ignore[operator]
        import_tables(RawTables.of(events=frame), folder, max_rejected_share=1)
        seen_before = set(expected)
        for row in rows:
            if row[4] is not None and owners.setdefault(row[4], row[0]) != row[0]:
                continue
            key = row[5] or row[:5]
            if row[5] is None and row[:5] in {kept[:5] for kept in expected.values()}:
                continue
            expected.setdefault(key, row)
        assert seen_before <= set(expected)
    dataset = Dataset.open(folder)
    stored = dataset.events()
    assert (np.diff(stored.time) >= 0).all()
    got = zip(dataset.user_ids.externals(stored.user), dataset.item_ids.externals(stored.item), stored.action.tolist(),
              (stored.time - START).astype(int).tolist(), stored.request >= 0, strict=True)  # fmt: skip
    wanted = [(r[0], r[1], ACTION_CODE[str(r[2])], r[3], r[4] is not None) for r in expected.values()]
    assert Counter(got) == Counter(wanted)
