"""Opens a project's state, and tells it what was imported since it was opened last."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl
import structlog

from tamis.data.dataset import Dataset
from tamis.state.fold import row_from_history
from tamis.state.lmdb_ import Lmdb
from tamis.state.protocol import Past, State, UserRow
from tamis.state.settings import StateConfig
from tamis.types import TIMELINE

SEEDED: Final = "seeded_from"
REPLACED: Final = "seeded_from_other_data"  # like SEEDED, of a data folder in place of the one that SEEDED speaks of
_COLUMNS: Final = ("user", "item", "action", "value", "time", "event_id")
log = structlog.get_logger("tamis.state")


def open_state(project: Path, config: StateConfig) -> State:
    """The project's state, with everything in it that was imported; see `catch_up`."""
    state = Lmdb(project / "state", config)
    data = project / "data"
    if data.is_dir():
        try:
            catch_up(state, Dataset.open(data), config)
        except BaseException:  # a store that is open twice in one process is refused
            state.close()
            raise
    return state


def catch_up(state: State, dataset: Dataset, config: StateConfig) -> None:
    """Brings a state up to the newest import: new users with all their past, known ones with the events they lack.

    Every event is folded once, whatever interrupts this: each row knows the last import that is in it. The profile of a
    known user stays: what was put live is worth more than what a file says. Users who were deleted do not come back.
    When the data folder is another one than before, known users are left alone, since nobody can tell what they lack.
    """
    facts = {"imports": dataset.manifest.imports, **dataset.counts()}
    now = ",".join(f"{name}={count}" for name, count in sorted(facts.items()))
    remembered = state.facts()
    before = remembered.get(SEEDED, "")
    if now in (before, remembered.get(REPLACED)) or not facts["imports"]:
        return
    known = dict(pair.split("=") for pair in before.split(",")) if before else {"imports": "0"}
    since = int(known.get("imports", facts["imports"]))
    if since >= facts["imports"]:
        log.warning("the data were imported anew: users known before keep the past they have", before=before, now=now)
        state.seed(rows_of(dataset, config))
        state.remember(REPLACED, now)  # not as SEEDED: rows hold numbers of the old imports, and those must stay passed
        return
    events = _events(dataset, since)  # read once for both
    state.seed(_rows(pasts_of(dataset, events, since), config))
    state.absorb(past for past, _ in pasts_of(dataset, events, since))
    state.remember(SEEDED, now)


def rows_of(dataset: Dataset, config: StateConfig, since: int = 0) -> Iterator[tuple[str, UserRow]]:
    """(user id, row) of every user that imports after number `since` speak of, as if his events had been applied."""
    return _rows(pasts_of(dataset, _events(dataset, since), since), config)


def _rows(pasts: Iterator[tuple[Past, Mapping[str, Any]]], config: StateConfig) -> Iterator[tuple[str, UserRow]]:
    for past, profile in pasts:
        yield past.user_id, row_from_history(past.entries, config, dict(profile), past.imported)


def pasts_of(dataset: Dataset, events: pl.DataFrame, since: int) -> Iterator[tuple[Past, Mapping[str, Any]]]:
    """(past, profile) of every user that imports after number `since` speak of, or `events`, which are theirs."""
    users = events["user"].to_numpy()
    entries = np.zeros(len(events), TIMELINE)
    entries["key"] = np.asarray(dataset.item_ids.keys)[events["item"].to_numpy()]
    for name in ("time", "value", "action"):
        entries[name] = events[name].to_numpy()
    imports, event_ids = events["import"].to_numpy(), events["event_id"].fill_null("")
    spoken_of = np.unique(np.concatenate([users, _described(dataset, since)]))
    starts, ends = np.searchsorted(users, spoken_of), np.searchsorted(users, spoken_of, "right")
    profiles = dataset.users[spoken_of].drop("user_id").iter_rows(named=True)
    for number, start, end, profile in zip(spoken_of.tolist(), starts.tolist(), ends.tolist(), profiles, strict=True):
        past = Past(
            dataset.user_ids.external(number),
            entries[start:end],
            imports[start:end],
            event_ids[start:end].to_list(),
            dataset.manifest.imports,
        )
        yield past, {name: value for name, value in profile.items() if value is not None}


def _events(dataset: Dataset, since: int) -> pl.DataFrame:
    """The events of imports after number `since`, sorted by user, then time; column `import` is their import's."""
    manifest = dataset.manifest
    frames = []
    for number in range(since + 1, manifest.imports + 1):
        parts = tuple(part for part in manifest.parts["events"] if part.imported == number)
        one = Dataset(dataset.folder, msgspec.structs.replace(manifest, parts={**manifest.parts, "events": parts}))
        frame = one.scan_events().select(_COLUMNS).collect()
        frames.append(frame.with_columns(pl.lit(number, pl.Int64).alias("import")))
    return pl.concat(frames).sort("user", "time", maintain_order=True)


def _described(dataset: Dataset, since: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Numbers of the users that have a row in imports after number `since`."""
    files = [dataset.folder / part.path for part in dataset.manifest.parts["users"] if part.imported > since]
    numbers = [pl.read_parquet(file, columns=["number"], hive_partitioning=False)["number"] for file in files]
    return np.concatenate([np.empty(0, np.int32), *(column.to_numpy() for column in numbers)])
