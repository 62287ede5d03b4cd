"""Channels that learn from more than a matrix, as rankers of the whole catalogue: real parts, asked as a server asks.

split → tables → data set → Inputs → part.fit;     user → Query → part.recall → scores, −inf for what it leaves out
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from _models import Model
from tamis.assemble import part_of
from tamis.config import StepConfig
from tamis.data.dataset import DAY_SECONDS, Dataset
from tamis.data.samples import SampleConfig
from tamis.data.tables import RawTables
from tamis.data.write import import_tables
from tamis.evaluate.protocols import Score, Split
from tamis.features.inputs import Inputs
from tamis.features.prepare import Moment, prepare
from tamis.features.spec import FeaturesConfig, HistoryConfig, Id
from tamis.types import ACTION_CODE, ACTIONS, History, Query

START = 1_000_000_000.0  # invented times count from here
IDS = FeaturesConfig(
    user={"user_id": Id(min_count=1)},
    item={"item_id": Id(min_count=1)},
    history=HistoryConfig(actions=("click",), length=50, fields=("item_id",)),
)


def served(config: StepConfig, drawn: bool = False) -> Model:
    """A part that knows ids and histories alone. drawn: see `inputs_of`."""

    def fit(split: Split) -> Score:
        inputs = inputs_of(split, IDS, drawn=drawn)
        return answers(part_of(config).fit(config, inputs, 1), inputs)

    return fit


def inputs_of(split: Split, features: FeaturesConfig, items: pl.DataFrame | None = None, *, drawn: bool) -> Inputs:
    """What a part learns from: the training rows as clicks, all of them, with nothing held out to stop by.

    items: columns of the items, row = item number.
    drawn: rows get times of one day by a seed, since a split that is drawn asks for a row like any other and not for
    the next one; items are then there from the start. Otherwise times are those of the rows.
    """
    rows, data = split.train, split.data
    time = START + DAY_SECONDS * np.random.default_rng(1).random(len(rows)) if drawn else data.time[rows]
    there = np.where(np.isin(np.arange(data.items), data.item[rows]), START, np.nan)
    known = pl.DataFrame({"item_id": _names(np.arange(data.items))})
    if drawn:
        known = known.with_columns(pl.Series("publish_time", there).fill_nan(None))
    raw = RawTables.of(
        users=pl.DataFrame({"user_id": _names(np.arange(data.users))}),
        items=known if items is None else pl.concat([known, items], how="horizontal"),
        events=pl.DataFrame(
            {"user_id": _names(data.user[rows]), "item_id": _names(data.item[rows]), "action": "click", "time": time}
        ),
    )
    until = float(time.max()) + 1
    with tempfile.TemporaryDirectory() as folder:
        import_tables(raw, Path(folder))
        moment = Moment(until, until)
        return prepare(Dataset.open(Path(folder)), moment, (features, SampleConfig(negatives=0), ("click",)))


def answers(part: Any, inputs: Inputs) -> Score:
    """What the part finds for each user when training has just ended."""

    def score(users: NDArray[np.int64]) -> NDArray[np.float32]:
        scores = np.full((len(users), len(inputs.catalog)), -np.inf, np.float32)
        for row, user in enumerate(users.tolist()):
            found = part.recall(query_of(inputs, user))
            if len(found.ids):  # a table without rows has no columns
                scores[row, found.ids] = next(iter(found.columns.values()))
        return scores

    return score


def query_of(inputs: Inputs, user: int) -> Query:
    """The query of a user at the end of training."""
    timeline, encoder = inputs.train.timeline, inputs.encoder
    mine = np.arange(timeline.starts[user + 1] - 1, timeline.starts[user] - 1, -1)
    history = History(timeline.item[mine].astype(np.int64), timeline.action[mine], timeline.time[mine])
    counts = np.zeros((1, len(ACTIONS)), np.float32)
    counts[0, ACTION_CODE["click"]] = len(mine)
    statistics = encoder.live.named(encoder.live.values({0.0: counts}, encoder.learnt.totals))
    context = encoder.context(np.array([inputs.until]), [""], {})
    features = encoder.user_side(inputs.users.take(np.array([user])), statistics, context)
    return Query(user, inputs.until, 0, "", 1, history, features, inputs.catalog)


def _names(numbers: NDArray[np.int64]) -> list[str]:
    return numbers.astype(str).tolist()
