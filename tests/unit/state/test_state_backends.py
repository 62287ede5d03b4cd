"""The promises of `State`, kept by every backend: one suite, run over each of them."""

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from tamis.bloom import Bloom
from tamis.errors import RequestError
from tamis.state.fold import row_from_history
from tamis.state.lmdb_ import Lmdb
from tamis.state.memory import Memory
from tamis.state.protocol import FORGOTTEN, Event, ItemRow, Past, State, UserRow
from tamis.state.settings import StateConfig
from tamis.types import ACTION_CODE, ACTIONS, LEFTOVER, TIMELINE, Action, item_key, item_keys

CONFIG = StateConfig(
    timeline_limit=5, seen_capacity=10, seen_generations=3, map_size_gib=0.01, durable=False, max_readers=64
)
Reopen = Callable[[], State]
ODD_IDS = ["ü", "用户七", "🦆" * 64, "a\x00b", " ", "x" * 256, "0", "../up", "a\nb"]


@pytest.fixture(params=["memory", "lmdb"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    """Gives the state as a process that starts now would find it (for memory: as it is)."""
    current: list[State] = []

    def fresh() -> State:
        if request.param == "memory":
            current[:] = current or [Memory(CONFIG)]
        else:
            for state in current:
                state.close()
            current[:] = [Lmdb(tmp_path / "state", CONFIG)]
        return current[0]

    yield fresh
    for state in current:
        state.close()


@pytest.fixture
def state(reopen: Reopen) -> State:
    return reopen()


def event(number: int, user: str = "u", action: str = "click", **changes: object) -> Event:
    given = {"item_id": f"item-{number}", "time": 1000.0 + number, **changes}
    return Event(event_id=f"{user}/{number}", user_id=user, action=action, **given)


def events(count: int, user: str = "u", action: str = "click", start: int = 0) -> list[Event]:
    return [event(number, user, action) for number in range(start, start + count)]


def keys(items: Sequence[str]) -> NDArray[np.uint64]:
    return item_keys(items)


def seen(row: UserRow, *items: str) -> list[bool]:
    found = np.zeros(len(items), np.bool_)
    for bloom in row.seen:
        found |= bloom.contains(keys(items))
    return found.tolist()


def assert_same(one: UserRow, other: UserRow) -> None:
    assert one.known == other.known
    assert dict(one.profile) == dict(other.profile)
    assert one.timeline.tobytes() == other.timeline.tobytes()
    assert one.counts.tolist() == other.counts.tolist()
    assert [bloom.to_bytes() for bloom in one.seen] == [bloom.to_bytes() for bloom in other.seen]


def test_an_unknown_user_has_an_empty_row(state: State) -> None:
    row = state.user("nobody")
    assert not row.known
    assert len(row.timeline) == 0
    assert row.seen == ()
    assert row.counts.tolist() == [0] * len(ACTIONS)


def test_no_events_are_applied_as_none(state: State) -> None:
    assert state.apply([]) == []
    assert state.log() == []


def test_the_timeline_is_in_the_order_of_time_with_all_that_was_said(state: State) -> None:
    state.apply([event(1), event(2, action="rate", value=4.5), event(3, action="like")])
    timeline = state.user("u").timeline
    assert timeline.dtype == TIMELINE
    assert timeline["key"].tolist() == [item_key("item-1"), item_key("item-2"), item_key("item-3")]
    assert timeline["time"].tolist() == [1001.0, 1002.0, 1003.0]
    assert timeline["value"].tolist() == [0.0, 4.5, 0.0]
    assert timeline["action"].tolist() == [Action.CLICK, Action.RATE, Action.LIKE]
    assert state.user("u").known


def test_a_late_event_is_put_where_its_time_belongs(state: State) -> None:
    state.apply(events(4, start=10))
    state.apply([event(5, time=1011.5)])
    assert state.user("u").timeline["time"].tolist() == [1010.0, 1011.0, 1011.5, 1012.0, 1013.0]


def test_events_of_one_moment_stay_in_the_order_they_came(state: State) -> None:
    state.apply([event(number, time=1.0) for number in (3, 1, 2)])
    assert state.user("u").timeline["key"].tolist() == keys(["item-3", "item-1", "item-2"]).tolist()


def test_the_timeline_keeps_the_newest_entries_only(state: State) -> None:
    state.apply(events(8))
    state.apply([event(100, time=1.0)])
    assert state.user("u").timeline["time"].tolist() == [1003.0, 1004.0, 1005.0, 1006.0, 1007.0]


def test_impressions_are_counted_and_seen_but_not_in_the_timeline(state: State) -> None:
    state.apply([event(1, action="impression"), event(2, action="play", value=30.0), event(3, action="hide")])
    row = state.user("u")
    assert len(row.timeline) == 0
    assert row.counts[[Action.IMPRESSION, Action.PLAY, Action.HIDE]].tolist() == [1, 1, 1]
    assert seen(row, "item-1", "item-2", "item-3", "item-4") == [True, True, True, False]


def test_an_event_without_an_item_is_only_counted(state: State) -> None:
    state.apply([event(1, action="follow", item_id="")])
    row = state.user("u")
    assert row.counts[Action.FOLLOW] == 1
    assert len(row.timeline) == 0
    assert row.seen == ()


def test_counts_are_kept_per_action(state: State) -> None:
    for number, action in enumerate([*ACTIONS, "click", "click"]):
        state.apply([event(number, action=action)])
    wanted = [3 if action == "click" else 1 for action in ACTIONS]
    assert state.user("u").counts.tolist() == wanted


def test_a_repeated_event_id_is_applied_once(reopen: Reopen) -> None:
    state = reopen()
    assert state.apply([event(1), event(1), event(2)]) == [True, False, True]
    assert state.apply([event(2), event(3)]) == [False, True]
    state = reopen()
    assert state.apply([event(3), event(1, user="u", action="like"), event(4)]) == [False, False, True]
    assert state.user("u").counts.sum() == 4
    assert [entry.event_id for _, entry in state.log()] == ["u/1", "u/2", "u/3", "u/4"]


def test_everything_is_there_after_reopening(reopen: Reopen) -> None:
    state = reopen()
    state.apply([*events(7), *events(25, user="v", action="impression")])
    state.put_user("u", {"city": "Kigali", "age": 30})
    state.put_item(ItemRow(item_id="a", keywords=("k",), vector=(1.0, 2.0)))
    state.remember("seeded from", "abc")
    before = state.user("u"), state.user("v"), state.log(), state.item("a"), state.item_version(), state.facts()
    state = reopen()
    assert_same(state.user("u"), before[0])
    assert_same(state.user("v"), before[1])
    assert (state.log(), state.item("a"), state.item_version(), state.facts()) == before[2:]


def test_seen_items_survive_the_change_of_generations(state: State) -> None:
    shown = events(35, action="impression")
    for start in range(0, 35, 7):
        state.apply(shown[start : start + 7])
    row = state.user("u")
    assert len(row.seen) == CONFIG.seen_generations
    newest = [entry.item_id for entry in shown[-20:]]
    assert seen(row, *newest) == [True] * 20
    assert sum(seen(row, *(entry.item_id for entry in shown[:10]))) < 3


def test_an_item_seen_again_is_remembered_from_then_on(state: State) -> None:
    state.apply([event(0, action="impression"), *events(12, action="impression", start=1)])
    state.apply([event(99, action="impression", item_id="item-0"), *events(15, action="impression", start=20)])
    assert seen(state.user("u"), "item-0") == [True]


def test_batches_do_not_change_the_outcome(state: State) -> None:
    shown = [event(number, "a", random.Random(number).choice(ACTIONS)) for number in range(60)]
    other = [msgspec.structs.replace(entry, user_id="b", event_id="b" + entry.event_id) for entry in shown]
    state.apply(shown)
    for entry in other:
        state.apply([entry])
    assert_same(state.user("a"), state.user("b"))


def test_a_row_does_not_change_in_the_hands_of_its_reader(state: State) -> None:
    state.apply(events(3))
    row = state.user("u")
    filters = [bloom.to_bytes() for bloom in row.seen]
    state.apply(events(9, start=50))
    assert row.counts.sum() == 3
    assert len(row.timeline) == 3
    assert [bloom.to_bytes() for bloom in row.seen] == filters


def test_the_log_is_read_in_pages_without_gaps(state: State) -> None:
    for start in range(0, 25, 5):
        state.apply(events(5, start=start))
    read, after = [], 0
    while page := state.log(after, limit=4):
        assert len(page) <= 4
        read += page
        after = page[-1][0]
    assert [entry for _, entry in read] == events(25)
    assert all(first < second for (first, _), (second, _) in pairwise(read))
    assert state.log(read[10][0], limit=2) == read[11:13]


@pytest.mark.parametrize(("after", "limit"), [(0, 0), (0, -1), (10**6, 10), (2**64, 10)])
def test_a_page_of_the_log_with_nothing_in_it_is_empty(state: State, after: int, limit: int) -> None:
    state.apply(events(3))
    assert state.log(after, limit) == []


def test_the_log_gives_events_back_as_they_were(state: State) -> None:
    full = Event(
        event_id="e",
        user_id="u",
        item_id="i",
        action="play",
        time=1.5,
        value=12.25,
        request_id="r",
        position=3,
        scene="f",
    )
    state.apply([full, event(1, time=np.float64(2.0), value=np.float32(0.5))])
    assert [entry for _, entry in state.log(-5)] == [full, event(1, time=2.0, value=0.5)]


@pytest.mark.parametrize("name", ODD_IDS)
def test_unusual_ids_make_the_round_trip(reopen: Reopen, name: str) -> None:
    state = reopen()
    state.apply([Event(event_id=name, user_id=name, item_id=name, action="like", time=1.0)])
    state.put_item(ItemRow(item_id=name))
    state.put_user(name, {})
    state.remember(name, name)
    state = reopen()
    row = state.user(name)
    assert row.timeline["key"].tolist() == [item_key(name)]
    assert row.profile == {}
    assert state.item(name) == ItemRow(item_id=name)
    assert state.facts() == {name: name}
    assert state.log()[0][1].user_id == name
    assert state.delete_user(name)
    assert not state.user(name).known


@pytest.mark.parametrize("name", ["", "x" * 257, "ü" * 129, "\ud800"])
def test_impossible_ids_are_refused_by_name(state: State, name: str) -> None:
    for call in (state.user, state.delete_user, lambda user: state.put_user(user, {})):
        with pytest.raises(RequestError, match="user_id") as caught:
            call(name)
        assert caught.value.field == "user_id"
    for call in (state.item, lambda item: state.put_item(ItemRow(item_id=item))):
        with pytest.raises(RequestError, match="item_id"):
            call(name)


def test_one_bad_event_of_many_refuses_all_and_is_named(state: State) -> None:
    with pytest.raises(RequestError, match=r"events\[1\]\.action: 'gaze' is unknown") as caught:
        state.apply([event(1), event(2, action="gaze")])
    assert caught.value.field == "events[1].action"
    assert state.log() == []
    assert state.apply([event(1)]) == [True]


@pytest.mark.parametrize("value", [True, Decimal(1), Fraction(1)])
def test_a_number_that_could_not_be_read_back_is_refused(state: State, value: Any) -> None:
    with pytest.raises(RequestError, match=r"events\[0\]\.event: cannot be stored"):
        state.apply([event(1, value=value)])
    assert state.log() == []


def test_a_profile_is_replaced_and_the_rest_stays(state: State) -> None:
    state.apply(events(3))
    state.put_user("u", {"city": "Oslo", "tags": ["a", "b"], "age": None})
    state.put_user("u", {"city": "Lima"})
    row = state.user("u")
    assert row.profile == {"city": "Lima"}
    assert row.counts.sum() == 3
    state.apply(events(1, start=9))
    assert state.user("u").profile == {"city": "Lima"}


def test_a_user_with_nothing_but_an_empty_profile_is_known(state: State) -> None:
    state.put_user("u", {})
    assert state.user("u").known
    assert state.user("u").profile == {}


@pytest.mark.parametrize("profile", [{"a": object()}, {1: "number as a key"}, {"a": 2**70}])
def test_a_profile_that_cannot_be_stored_is_refused(state: State, profile: dict[Any, Any]) -> None:
    with pytest.raises(RequestError, match="profile"):
        state.put_user("u", profile)
    assert not state.user("u").known


def test_an_item_is_found_as_it_was_put_last(state: State) -> None:
    assert state.item("a") is None
    state.put_item(ItemRow(item_id="a", text="old"))
    full = ItemRow(
        item_id="a", author="x", category="c", keywords=("k", "l"), text="new", vector=(0.5, -1.0), city="y",
        latitude=1.0, longitude=2.0, duration_seconds=3.0, publish_time=4.0, quality=0.5, extra={"z": [1, {"w": None}]},
    )  # fmt: skip
    state.put_item(full)
    assert state.item("a") == full
    state.put_item(msgspec.structs.replace(full, closed=True))
    taken_down = state.item("a")
    assert taken_down is not None
    assert taken_down.closed


def test_a_stored_item_does_not_change_with_the_object_that_was_put(state: State) -> None:
    extra = {"a": 1}
    state.put_item(ItemRow(item_id="a", extra=extra))
    extra["a"] = 2
    assert state.item("a") == ItemRow(item_id="a", extra={"a": 1})


def test_changes_of_items_come_in_order_and_once_each(state: State) -> None:
    assert state.items_since(0) == (0, [])
    for number in range(4):
        state.put_item(ItemRow(item_id=f"i{number}"))
    version = state.item_version()
    assert version > 0
    state.put_item(ItemRow(item_id="i1", closed=True))
    state.put_item(ItemRow(item_id="new"))
    state.put_item(ItemRow(item_id="i1", text="again"))
    current, changed = state.items_since(version)
    assert current == state.item_version() > version
    assert changed == [ItemRow(item_id="new"), ItemRow(item_id="i1", text="again")]
    everything = state.items_since(0)[1]
    assert [item.item_id for item in everything] == ["i0", "i2", "i3", "new", "i1"]
    assert state.items_since(current) == (current, [])
    assert state.items_since(current + 5) == (current, [])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vector", (1.0, float("nan"))),
        ("quality", float("inf")),
        ("latitude", float("nan")),
        ("extra", {"a": object()}),
    ],
)
def test_an_item_that_cannot_be_used_is_refused(state: State, field: str, value: object) -> None:
    with pytest.raises(RequestError):
        state.put_item(ItemRow(item_id="a", **{field: value}))
    assert state.item_version() == 0


def test_a_deleted_user_is_forgotten_everywhere(reopen: Reopen) -> None:
    state = reopen()
    for start in range(0, 30, 3):
        state.apply([*events(3, user="gone", start=start), *events(2, user="stays", start=start)])
    state.put_user("gone", {"a": 1})
    assert state.delete_user("gone")
    assert not state.delete_user("gone")
    state = reopen()
    assert_same(state.user("gone"), UserRow.unknown(len(ACTIONS)))
    assert {entry.user_id for _, entry in state.log()} == {"stays"}
    assert len(state.log()) == 20
    assert state.user("stays").counts.sum() == 20


def test_sequence_numbers_are_not_given_out_again_after_a_deletion(state: State) -> None:
    state.apply([*events(2, user="stays"), *events(3, user="gone")])
    last = state.log()[-1][0]
    state.delete_user("gone")
    state.apply(events(1, user="new"))
    assert [entry.user_id for _, entry in state.log(last)] == ["new"]


def test_a_deleted_user_can_come_back_and_be_deleted_again(state: State) -> None:
    state.apply(events(3))
    state.delete_user("u")
    assert state.apply(events(2)) == [True, True]
    assert state.user("u").counts.sum() == 2
    assert state.delete_user("u")
    assert state.log() == []


def test_seeding_leaves_known_and_deleted_users_alone(reopen: Reopen) -> None:
    state = reopen()
    state.apply(events(2, user="known"))
    state.apply(events(2, user="deleted"))
    state.delete_user("deleted")
    entries = np.zeros(7, TIMELINE)
    entries["key"], entries["time"] = np.arange(7), np.arange(7)
    entries["action"] = ACTION_CODE["click"]
    row = row_from_history(entries, CONFIG, {"age": 4})
    before = state.user("known")
    assert state.seed(iter([("known", row), ("fresh", row), ("deleted", row), ("second", row)])) == 2
    assert state.seed(iter([("fresh", row)])) == 0
    state = reopen()
    assert_same(state.user("known"), before)
    assert not state.user("deleted").known
    assert_same(state.user("fresh"), row)
    assert state.log()[-1][1].user_id == "known"


def past(user: str, keys: list[int], imports: list[int], ids: list[str] | None = None) -> Past:
    entries = np.zeros(len(keys), TIMELINE)
    entries["key"], entries["time"], entries["action"] = keys, np.arange(len(keys)), Action.CLICK
    return Past(user, entries, np.array(imports), ids or [""] * len(keys), max(imports))


def test_absorbing_folds_each_import_once_into_users_who_are_known(reopen: Reopen) -> None:
    state = reopen()
    state.apply(events(1, user="live"))
    for _ in range(2):
        assert state.absorb(iter([past("nobody", [1], [1])])) == 0
    assert not state.user("nobody").known
    assert state.absorb(iter([past("live", [7, 8], [1, 2])])) == 2
    assert state.absorb(iter([past("live", [7, 8, 9], [1, 2, 3])])) == 1
    assert state.absorb(iter([past("live", [7, 8, 9], [1, 2, 3])])) == 0
    row = reopen().user("live")
    assert (row.counts.sum(), row.imported) == (4, 3)
    assert set(row.timeline["key"].tolist()) == {7, 8, 9, item_key("item-0")}


def test_what_was_applied_live_is_not_absorbed_again(state: State) -> None:
    state.apply(events(2))
    ids = ["u/0", "other", "u/1", ""]
    assert state.absorb(iter([past("u", [1, 2, 3, 4], [1] * 4, ids)])) == 2
    assert state.user("u").counts.sum() == 4


@pytest.mark.parametrize("returns", [lambda s: s.put_user("u", {}), lambda s: s.apply(events(1))])
def test_who_was_deleted_and_came_back_is_not_trusted_and_absorbs_nothing(reopen: Reopen, returns: Any) -> None:
    state = reopen()
    state.apply(events(1))
    assert state.user("u").trusted
    state.delete_user("u")
    assert not state.user("u").trusted
    returns(state)
    state = reopen()
    assert state.absorb(iter([past("u", [1], [1])])) == 0
    state.apply([event(9)])
    row = state.user("u")
    assert (row.known, row.trusted, row.imported) == (True, False, FORGOTTEN)


def test_a_seeded_row_is_sorted_and_cut_to_the_settings(state: State) -> None:
    timeline = np.zeros(9, TIMELINE)
    timeline["time"] = [5, 3, 9, 1, 7, 2, 8, 4, 6]
    filters = tuple(Bloom(64, 2) for _ in range(5))
    for number, bloom in enumerate(filters):
        bloom.add(np.array([number], np.uint64))
    state.seed(iter([("u", UserRow({}, timeline, filters, np.arange(3), True))]))
    row = state.user("u")
    assert row.timeline["time"].tolist() == [5, 6, 7, 8, 9]
    assert [bloom.to_bytes() for bloom in row.seen] == [bloom.to_bytes() for bloom in filters[-3:]]
    assert row.counts.tolist() == [0, 1, 2] + [0] * (len(ACTIONS) - 3)
    state.apply(events(1))
    assert len(state.user("u").seen) == 3


def test_many_rows_are_seeded(state: State) -> None:
    row = UserRow({}, np.zeros(1, TIMELINE), (), np.zeros(len(ACTIONS), np.int64), True)
    assert state.seed((f"u{number}", row) for number in range(1203)) == 1203
    assert state.user("u1202").known
    assert state.seed(iter([])) == 0


def test_facts_are_remembered_and_replaced(state: State) -> None:
    assert state.facts() == {}
    state.remember("a", "1")
    state.remember("b", "")
    state.remember("a", "2 ü")
    assert state.facts() == {"a": "2 ü", "b": ""}
    with pytest.raises(RequestError, match="name"):
        state.remember("", "x")


def test_concurrent_threads_lose_nothing_and_apply_nothing_twice(state: State) -> None:
    users, threads, each = 7, 6, 60
    results: list[list[bool]] = [[] for _ in range(threads)]

    def work(thread: int) -> None:
        rng = random.Random(thread)
        for number in range(each):
            own = event(thread * each + number, user=f"u{rng.randrange(users)}")
            shared = event(number, user="shared")
            results[thread] += state.apply([own, shared])
            assert state.user(own.user_id).counts.sum() > 0

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sum(map(sum, results)) == threads * each + each
    logged = [entry.event_id for _, entry in state.log(limit=10**6)]
    assert len(logged) == len(set(logged)) == threads * each + each
    assert state.user("shared").counts.sum() == each
    assert sum(state.user(f"u{number}").counts.sum() for number in range(users)) == threads * each


def left(*keys: int) -> NDArray[Any]:
    rows = np.zeros(len(keys), LEFTOVER)
    rows["key"], rows["time"], rows["recalls"] = keys, 7.25, 3
    return rows


def test_leftovers_are_replaced_and_outlive_the_next_events(reopen: Reopen) -> None:
    state = reopen()
    assert len(state.leftovers("u")) == 0
    state.apply([event(1)])
    state.keep_leftovers("u", left(1, 2))
    state.keep_leftovers("u", left(2**64 - 1, 3, 4))
    assert state.leftovers("u").tolist() == left(2**64 - 1, 3, 4).tolist()
    state.apply([event(2, "other")])
    assert reopen().leftovers("u").tolist() == left(2**64 - 1, 3, 4).tolist()
    reopen().keep_leftovers("u", left())
    assert len(reopen().leftovers("u")) == 0


def test_somebody_unknown_or_deleted_has_no_leftovers(state: State) -> None:
    state.keep_leftovers("u", left(1))
    assert len(state.leftovers("u")) == 0
    state.apply([event(1)])
    state.keep_leftovers("u", left(1))
    assert state.delete_user("u")
    state.apply([event(2, "other"), event(3)])
    assert len(state.leftovers("u")) == 0


@pytest.mark.parametrize("back", [False, True])
def test_what_another_process_deleted_does_not_come_back_with_leftovers(tmp_path: Path, back: bool) -> None:
    state = Lmdb(tmp_path / "state", CONFIG)
    script = (
        "import sys; from pathlib import Path; from tamis.state.lmdb_ import Lmdb; "
        "from tamis.state.settings import StateConfig; state = Lmdb(Path(sys.argv[1]), StateConfig()); "
        "assert state.delete_user('u'); state.close()"
    )
    state.apply([event(1)])
    for number in (2, 3):  # and a second time
        state.keep_leftovers("u", left(1))
        subprocess.run([sys.executable, "-c", script, str(tmp_path / "state")], check=True)
        assert len(state.leftovers("u")) == 0
        if back:
            state.put_user("u", {})
        state.apply([event(10 * number, "other")])  # would write what waits
        assert len(state.leftovers("u")) == 0
        state.apply([event(number)])
    state.close()


def test_leftovers_that_wait_for_events_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tamis.state.lmdb_._MOST_WAITING", 2)
    state = Lmdb(tmp_path / "state", CONFIG)
    state.apply([event(1, user) for user in "abc"])
    for user in "abc":
        state.keep_leftovers(user, left(1))
    assert [len(state.leftovers(user)) for user in "abc"] == [0, 1, 1]
    state.close()


def test_leftovers_written_with_events_come_back_from_the_disk(tmp_path: Path) -> None:
    state = Lmdb(tmp_path / "state", CONFIG)
    state.apply([event(1)])
    state.keep_leftovers("u", left(5))
    assert state._waiting
    state.apply([event(2)])
    assert not state._waiting  # what is on disk waits no longer
    assert state.leftovers("u")["key"].tolist() == [5]
    state.close()
