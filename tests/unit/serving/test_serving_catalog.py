import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_fakes import ITEMS, NOW, FakeModel
from structlog.testing import capture_logs

from tamis.serving import catalog_live
from tamis.serving.catalog_live import LiveCatalog
from tamis.state.memory import Memory
from tamis.state.protocol import ItemRow
from tamis.types import item_keys


@pytest.fixture
def state() -> Memory:
    return Memory()


@pytest.fixture
def live(state: Memory) -> LiveCatalog:
    return LiveCatalog(FakeModel(), state)


def put(state: Memory, item_id: str, age: float = 0.0, closed: bool = False, quality: float | None = None) -> None:
    state.put_item(ItemRow(item_id=item_id, publish_time=NOW - age, closed=closed, quality=quality))


def test_without_changes_every_look_is_the_same_snapshot(live: LiveCatalog) -> None:
    view = live.view()
    assert view is live.view()
    assert len(view.catalog) == ITEMS
    assert view.catalog.newest.tolist() == list(range(ITEMS))


def test_a_fresh_item_is_in_the_next_snapshot_and_leads_the_newest(state: Memory, live: LiveCatalog) -> None:
    put(state, "new", quality=0.5)
    view = live.view()
    number = view.number("new")
    assert number == ITEMS
    assert view.external(number) == "new"
    assert view.catalog.newest[0] == number
    assert view.catalog.column("dense", np.array([0, number])).ravel().tolist() == [0.0, 0.5]
    assert view.numbers_of(item_keys(["new", "i3", "nobody"])).tolist() == [number, 3, -1]
    assert view.numbers(["nobody", "new", "i3"]).tolist() == [-1, number, 3]


def test_an_older_snapshot_does_not_see_what_came_later(state: Memory, live: LiveCatalog) -> None:
    put(state, "first")
    old = live.view()
    columns = {name: old.catalog.column(name, np.arange(len(old.catalog))).copy() for name in old.catalog.columns}
    closed = old.catalog.closed.copy()
    for count in range(200):
        put(state, f"later{count}")
        put(state, "i5", closed=True)
        put(state, "first", quality=float(count))
        live.view()
    assert len(old.catalog) == ITEMS + 1
    assert old.number("later7") == -1
    assert (old.catalog.closed == closed).all()
    for name, before in columns.items():
        assert (old.catalog.column(name, np.arange(len(old.catalog))) == before).all()
    with pytest.raises(ValueError, match="read-only"):
        old.catalog.columns["dense"][1][0] = 1.0


def test_a_fresh_item_put_again_has_a_new_row_and_its_old_one_is_closed(state: Memory, live: LiveCatalog) -> None:
    put(state, "new", quality=0.1)
    first = live.view().number("new")
    put(state, "new", quality=0.9)
    view = live.view()
    assert view.number("new") != first
    assert view.catalog.closed[first]
    assert not view.catalog.closed[view.number("new")]
    assert first not in view.catalog.newest
    assert view.catalog.column("dense", np.array([view.number("new")])).ravel().tolist() == [np.float32(0.9)]


def test_a_taken_down_item_is_closed_and_can_come_back(state: Memory, live: LiveCatalog) -> None:
    put(state, "new")
    put(state, "i0", closed=True)
    live.view()
    put(state, "new", closed=True)
    view = live.view()
    assert view.catalog.closed[view.number("i0")]
    assert view.catalog.closed[ITEMS]
    assert view.catalog.newest[0] == 1
    put(state, "new")
    put(state, "i0", age=1000)
    view = live.view()
    assert [view.external(n) for n in view.catalog.newest[:3].tolist()] == ["new", "i0", "i1"]


def test_an_item_of_the_bundle_put_again_moves_to_its_new_publish_time(state: Memory, live: LiveCatalog) -> None:
    put(state, "i50", age=10)
    view = live.view()
    assert view.number("i50") == 50
    assert view.catalog.newest[0] == 50
    assert len(view.catalog) == ITEMS
    put(state, "i50", age=1e6)
    view = live.view()
    assert view.catalog.newest[-1] == 50
    assert view.catalog.column("publish_time", np.array([50])).tolist() == [NOW - 1e6]


def test_an_item_that_cannot_be_encoded_is_logged_and_left_out(state: Memory) -> None:
    live = LiveCatalog(FakeModel(broken_items=("bad",)), state)
    for item_id in ("good", "bad", "also good"):
        put(state, item_id)
    with capture_logs() as logs:
        view = live.view()
    assert [view.number(item_id) >= 0 for item_id in ("good", "bad", "also good")] == [True, False, True]
    assert [entry["item_id"] for entry in logs] == ["bad"]


def test_a_column_of_a_wrong_shape_is_not_taken_in(state: Memory) -> None:
    class Wrong(FakeModel):
        def item_rows(self, rows):  # type: ignore[no-untyped-def]
            columns = dict(super().item_rows(rows))
            if rows[0].item_id == "bad":
                columns["vector"] = np.zeros((len(rows), 99), np.float32)
            return columns

    live = LiveCatalog(Wrong(), state)
    put(state, "bad")
    with capture_logs() as logs:
        assert len(live.view().catalog) == ITEMS
    assert "column 'vector' of fresh items: wanted (1, 3)" in logs[0]["error"]
    put(state, "good")
    assert live.view().external(ITEMS) == "good"


def test_rows_that_died_are_cleared_away(state: Memory, live: LiveCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_live, "_COMPACT_FROM", 10)
    put(state, "kept", age=5, quality=0.25)
    before = live.view()
    for count in range(100):
        put(state, "busy", quality=count / 100)
        live.view()
    view = live.view()
    assert len(view.catalog) < ITEMS + 50
    assert [view.external(view.number(item_id)) for item_id in ("kept", "busy")] == ["kept", "busy"]
    assert view.catalog.column("dense", view.numbers(["kept", "busy"])).ravel().tolist() == [0.25, np.float32(0.99)]
    assert [view.external(n) for n in view.catalog.newest[:2].tolist()] == ["busy", "kept"]
    assert before.external(before.number("kept")) == "kept"


def test_the_newest_are_bounded_and_refilled_when_some_leave(state: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_live, "NEWEST", 10)
    live = LiveCatalog(FakeModel(), state)
    for number in range(4):
        put(state, f"i{number}", closed=True)
    assert live.view().catalog.newest.tolist() == list(range(4, 14))


def test_scheduled_items_do_not_crowd_out_the_newest(state: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_live, "NEWEST", 2)
    now = [NOW - 9000.0]  # the bundle's i0 to i7 are still ahead, too
    live = LiveCatalog(FakeModel(), state, lambda: now[0])
    assert live.view().catalog.newest.tolist() == [8, 9]
    for number in range(50):
        put(state, f"later{number}", age=-float(number))
    assert live.view().catalog.newest.tolist() == [8, 9]
    now[0] += 1000.0
    assert live.view().catalog.newest.tolist() == [7, 8]
    now[0] = NOW + 20
    view = live.view()
    assert [view.external(number) for number in view.catalog.newest.tolist()] == ["later20", "later19"]


def test_scheduled_items_are_still_ahead_after_dead_rows_were_copied_away(
    state: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_live, "_COMPACT_FROM", 3)
    now = [NOW]
    live = LiveCatalog(FakeModel(), state, lambda: now[0])
    for again in range(6):
        put(state, "often", age=5.0 - again)
        put(state, "later", age=-60.0)
        live.view()
    view = live.view()
    assert len(view.catalog) < ITEMS + 6 * 2
    assert view.catalog.closed[view.number("later")]
    assert not view.catalog.closed[view.number("often")]
    now[0] += 60.0
    view = live.view()
    assert not view.catalog.closed[view.number("later")]
    assert view.external(int(view.catalog.newest[0])) == "later"


CHANGE = st.tuples(st.integers(0, 12), st.floats(-1e4, 1e5), st.booleans())


@settings(max_examples=60, deadline=None)
@given(st.lists(CHANGE, max_size=40), st.lists(st.booleans(), min_size=40, max_size=40))
def test_looking_often_or_once_gives_the_same_items(changes: list[tuple[int, float, bool]], looks: list[bool]) -> None:
    state = Memory()
    often = LiveCatalog(FakeModel(items=6), state)
    for (number, age, closed), look in zip(changes, looks, strict=False):
        put(state, f"i{number}", age, closed)  # i0 to i5 are the bundle's own
        if look:
            often.view()
    views = often.view(), LiveCatalog(FakeModel(items=6), state).view()
    shown = [[view.external(n) for n in view.catalog.newest.tolist()] for view in views]
    times = [view.catalog.column("publish_time", view.catalog.newest).tolist() for view in views]
    assert sorted(shown[0]) == sorted(shown[1])
    assert times[0] == times[1] == sorted(times[0], reverse=True)
    still_open = {row.item_id for row in state.items_since(0)[1] if not row.closed}
    untouched = {f"i{n}" for n in range(6)} - {row.item_id for row in state.items_since(0)[1]}
    assert set(shown[0]) == still_open | untouched


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(CHANGE, min_size=1, max_size=4), max_size=15))
def test_the_newest_kept_item_by_item_are_those_of_a_full_sort(rounds: list[list[tuple[int, float, bool]]]) -> None:
    """With two of a size and few items the reserve runs dry again and again, and some come out as time goes by."""
    before, catalog_live.NEWEST = catalog_live.NEWEST, 2
    try:
        state = Memory()
        now = [NOW - 5000.0]
        live = LiveCatalog(FakeModel(items=9), state, lambda: now[0])
        for changes in rounds:
            now[0] += 1000.0
            for number, age, closed in changes:
                put(state, f"i{number}", age, closed)
            catalog = live.view().catalog
            open_items = np.flatnonzero(~catalog.closed)
            every = catalog.column("publish_time", np.arange(len(catalog)))
            assert (every[open_items] <= now[0]).all()
            times = catalog.column("publish_time", open_items)
            got = catalog.column("publish_time", catalog.newest)
            assert got.tolist() == np.sort(times)[::-1][:2].tolist()
            assert not catalog.closed[catalog.newest].any()
    finally:
        catalog_live.NEWEST = before
