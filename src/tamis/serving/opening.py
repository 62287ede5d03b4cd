"""Opens a project's state, and seeds it once with what the data set already knows of its users."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tamis.bloom import Bloom, parameters
from tamis.data.dataset import Dataset, Events
from tamis.state.lmdb_ import LmdbState
from tamis.state.protocol import State, UserRow
from tamis.state.settings import StateConfig
from tamis.types import ACTION_CODE, ACTIONS, TIMELINE

SEEDED: Final = "seeded_from"


def open_state(project: Path, config: StateConfig) -> State:
    """The project's state. A store that is new, or was seeded from less data, learns the users it does not know yet.

    Users that the store knows are left alone: what happened live is worth more than what a file says.
    """
    state = LmdbState(project / "state", config)
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
    order = np.argsort(events.user, kind="stable")
    events = events.take(order)
    starts = np.searchsorted(events.user, np.arange(len(dataset.users) + 1))
    profiles = [column for column in dataset.users.columns if column != "user_id"]
    keys = np.asarray(dataset.item_ids.keys)
    shape = _bloom_shape(config)
    for number, profile in enumerate(dataset.users.select(profiles).iter_rows(named=True)):
        mine = events.take(np.arange(starts[number], starts[number + 1]))
        kept = {name: value for name, value in profile.items() if value is not None}
        yield dataset.user_ids.external(number), _row(mine, keys, kept, config, shape)


def _row(
    events: Events, keys: NDArray[np.uint64], profile: dict[str, Any], config: StateConfig, shape: tuple[int, int]
) -> UserRow:
    wanted = np.isin(events.action, [ACTION_CODE[name] for name in config.timeline_actions])
    last = np.flatnonzero(wanted)[-config.timeline_limit :]
    timeline = np.zeros(len(last), TIMELINE)
    timeline["key"] = keys[events.item[last]]
    timeline["time"], timeline["value"], timeline["action"] = events.time[last], events.value[last], events.action[last]
    counts = np.bincount(events.action, minlength=len(ACTIONS)).astype(np.int64)
    return UserRow(profile, timeline, _seen(keys[events.item], config, shape), counts, True)


def _seen(keys: NDArray[np.uint64], config: StateConfig, shape: tuple[int, int]) -> tuple[Bloom, ...]:
    """The keys, oldest first, in generations of `seen_capacity`; the newest generations only."""
    first = np.sort(np.unique(keys, return_index=True)[1])
    distinct = keys[first][-config.seen_capacity * config.seen_generations :]
    blooms = []
    for start in range(0, len(distinct), config.seen_capacity):
        bloom = Bloom(*shape)
        bloom.add(distinct[start : start + config.seen_capacity])
        blooms.append(bloom)
    return tuple(blooms)


def _bloom_shape(config: StateConfig) -> tuple[int, int]:
    share = 1 - (1 - config.seen_false_positive_rate) ** (1 / config.seen_generations)
    return parameters(config.seen_capacity, share)
