"""What a state learns of imports: everything, each event once, whatever happens in between."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tamis.data.dataset import Dataset
from tamis.data.tables import RawTables
from tamis.data.write import import_tables
from tamis.errors import DataError
from tamis.serving.opening import SEEDED, catch_up, open_state, rows_of
from tamis.state.lmdb_ import Lmdb
from tamis.state.protocol import Event, State
from tamis.state.settings import StateConfig

CONFIG = StateConfig(map_size_gib=0.01, durable=False)


def bring(folder: Path, *events: tuple[str, str, float], ids: bool = False, users: list[dict[str, Any]] | None = None):
    """Imports clicks given as (user, item, time)."""
    rows = [
        {"user_id": user, "item_id": item, "action": "click", "time": time}
        | ({"event_id": f"{user}/{item}"} if ids else {})
        for user, item, time in events
    ]
    tables = RawTables.of(events=pl.DataFrame(rows), users=pl.DataFrame(users) if users else None)
    import_tables(tables, folder / "data")


def clicks(state: State, user: str) -> int:
    return int(state.user(user).counts.sum())


def opened(folder: Path) -> State:
    return open_state(folder, CONFIG)


def test_a_second_import_reaches_users_who_are_known_once(tmp_path: Path) -> None:
    bring(tmp_path, ("u", "a", 1.1e9), ("v", "a", 1.1e9))
    state = opened(tmp_path)
    state.apply([Event(event_id="live", user_id="u", item_id="b", action="click", time=1.2e9)])
    state.close()
    bring(tmp_path, ("u", "c", 1.3e9), ("u", "d", 1.15e9), ("w", "a", 1.3e9))
    for _ in range(3):  # opening again must change nothing
        state = opened(tmp_path)
        assert [clicks(state, user) for user in "uvw"] == [4, 1, 1]
        assert state.user("u").timeline["time"].tolist() == [1.1e9, 1.15e9, 1.2e9, 1.3e9]
        state.close()


def test_a_user_known_only_live_learns_of_his_imported_past(tmp_path: Path) -> None:
    state = opened(tmp_path)
    state.apply([Event(event_id="u/a", user_id="u", item_id="a", action="click", time=1.1e9)])
    state.put_user("u", {"age": 3})
    state.close()
    bring(tmp_path, ("u", "a", 1.1e9), ("u", "b", 1.2e9), ids=True, users=[{"user_id": "u", "age": 9}])
    state = opened(tmp_path)
    assert clicks(state, "u") == 2  # u/a came live and by import: one event
    assert state.user("u").profile == {"age": 3}
    state.close()


def test_a_deleted_user_stays_deleted_when_more_of_him_is_imported(tmp_path: Path) -> None:
    bring(tmp_path, ("u", "a", 1.1e9))
    state = opened(tmp_path)
    state.delete_user("u")
    state.apply([Event(event_id="back", user_id="u", item_id="a", action="click", time=1.5e9)])
    state.close()
    bring(tmp_path, ("u", "b", 1.2e9))
    state = opened(tmp_path)
    assert clicks(state, "u") == 1
    state.close()


@pytest.mark.parametrize("after", [1, 2, 3])
def test_what_was_interrupted_is_finished_without_counting_twice(tmp_path: Path, after: int) -> None:
    users = [f"u{number}" for number in range(4)]
    bring(tmp_path, *((user, "a", 1.1e9) for user in users[:2]))
    opened(tmp_path).close()
    bring(tmp_path, *((user, "b", 1.2e9) for user in users))
    dataset, state = Dataset.open(tmp_path / "data"), Lmdb(tmp_path / "state", CONFIG)
    some = list(rows_of(dataset, CONFIG, 1))[:after]
    state.seed(iter(some))  # as far as a process came that was killed
    bring(tmp_path, *((user, "c", 1.3e9) for user in users))
    catch_up(state, Dataset.open(tmp_path / "data"), CONFIG)
    assert [clicks(state, user) for user in users] == [3, 3, 2, 2]
    state.close()


def test_data_that_were_made_anew_bring_new_users_and_leave_the_others_alone(tmp_path: Path) -> None:
    bring(tmp_path, ("u", "a", 1.1e9))
    bring(tmp_path, ("u", "b", 1.1e9))
    opened(tmp_path).close()
    (tmp_path / "data").rename(tmp_path / "old")
    bring(tmp_path, ("u", "c", 1.1e9), ("x", "c", 1.1e9))
    state = opened(tmp_path)
    assert [clicks(state, user) for user in "ux"] == [2, 1]
    assert "imports=2" in state.facts()[SEEDED]
    state.close()


def test_data_that_were_made_anew_are_read_once_and_not_at_every_start(tmp_path: Path, capsys: Any) -> None:
    bring(tmp_path, ("u", "a", 1.1e9))
    opened(tmp_path).close()
    (tmp_path / "data").rename(tmp_path / "old")
    bring(tmp_path, ("u", "c", 1.1e9), ("x", "c", 1.1e9))
    opened(tmp_path).close()
    assert "imported anew" in capsys.readouterr().out
    state = opened(tmp_path)
    assert "imported anew" not in capsys.readouterr().out
    state.close()
    bring(tmp_path, ("x", "d", 1.2e9), ("y", "d", 1.2e9))
    state = opened(tmp_path)
    assert [clicks(state, user) for user in "uxy"] == [1, 2, 1]
    state.close()


def test_a_state_whose_data_cannot_be_read_can_be_opened_later(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json"):
        opened(tmp_path)
    (tmp_path / "data/dataset.json").unlink()
    opened(tmp_path).close()
