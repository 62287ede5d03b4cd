"""Opens a project's state, and seeds it once with what the data set already knows of its users."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from tamis.data.dataset import Dataset
from tamis.state.fold import row_from_history
from tamis.state.lmdb_ import Lmdb
from tamis.state.protocol import State, UserRow
from tamis.state.settings import StateConfig
from tamis.types import TIMELINE

SEEDED: Final = "seeded_from"


def open_state(project: Path, config: StateConfig) -> State:
    """The project's state. A store that is new, or was seeded from less data, learns the users it does not know yet.

    Users that the store knows are left alone: what happened live is worth more than what a file says.
    """
    state = Lmdb(project / "state", config)
    data = project / "data"
    if data.is_dir():
        dataset = Dataset.open(data)
        counts = ",".join(f"{name}={rows}" for name, rows in sorted(dataset.counts().items()))
        if state.facts().get(SEEDED) != counts:
            state.seed(rows_of(dataset, config))
            state.remember(SEEDED, counts)
    return state


def rows_of(dataset: Dataset, config: StateConfig) -> Iterator[tuple[str, UserRow]]:
    """(user id, row) of every user of a data set, as if his events had been applied one by one."""
    events = dataset.events()
    events = events.take(np.argsort(events.user, kind="stable"))
    starts = np.searchsorted(events.user, np.arange(len(dataset.users) + 1))
    entries = np.zeros(len(events), TIMELINE)
    entries["key"] = np.asarray(dataset.item_ids.keys)[events.item]
    entries["time"], entries["value"], entries["action"] = events.time, events.value, events.action
    profiles = dataset.users.drop("user_id").iter_rows(named=True)
    for number, profile in enumerate(profiles):
        known = {name: value for name, value in profile.items() if value is not None}
        mine = entries[starts[number] : starts[number + 1]]
        yield dataset.user_ids.external(number), row_from_history(mine, config, known)
