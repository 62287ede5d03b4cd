"""What a bundle's funnel found and did not let through, for users of the training days: hard negatives for recall."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tamis.assemble import Model
from tamis.data.dataset import Dataset
from tamis.data.samples import Samples
from tamis.evaluate.queries import Past
from tamis.features.earlier import STAGES, Dropped
from tamis.types import Candidates, Progress, Query, silent

_MOST: Final = 100  # items kept of one user and stage


def dropped_items(
    model: Model, dataset: Dataset, samples: Samples, draw: tuple[int, int], progress: Progress = silent
) -> Dropped:
    """Of some users, what each stage of the model's funnel cut from the answer to the last of their requests.

    Stages later than pre-ranking and ranking cut nothing that is looked at: what they leave out was found good.
    samples: the training requests.   draw: how many users at most, and the seed of which ones and which items.
    """
    most, seed = draw
    random = np.random.default_rng(seed)
    last = len(samples) - 1 - np.unique(samples.user[::-1], return_index=True)[1]
    asked = np.sort(random.permutation(last)[:most])
    past = Past.of(model, dataset, float(np.nextafter(samples.time.max(initial=-np.inf), np.inf)))
    numbers = dataset.item_ids.numbers_of_keys(np.asarray(model.catalog.keys[0]))
    found: list[tuple[int, int, NDArray[np.int64]]] = []
    for done, row in enumerate(asked.tolist()):
        for stage, items in enumerate(_cut(model, past.request(samples, row))):
            kept = numbers[items]
            found.append((int(samples.user[row]), stage, random.permutation(kept[kept >= 0])[:_MOST]))
        if done % 20 == 0:
            progress("hard negatives", done, len(asked))
    progress("hard negatives", len(asked), len(asked))
    return _by_user(found, len(dataset.users))


def _cut(model: Model, query: Query) -> list[NDArray[np.int64]]:
    """Per stage of STAGES the numbers in the model of what entered it and did not leave it."""
    kept: dict[str, Candidates] = {}
    model.funnel.run(query, keep=kept)
    names = list(kept)
    return [np.setdiff1d(kept[names[names.index(stage) - 1]].ids, kept[stage].ids) for stage in STAGES]


def _by_user(found: list[tuple[int, int, NDArray[np.int64]]], users: int) -> Dropped:
    sizes = [len(items) for _, _, items in found]
    owner = np.repeat(np.array([user for user, _, _ in found], np.int64), sizes)
    stage = np.repeat(np.array([stage for _, stage, _ in found], np.int8), sizes)
    item = np.concatenate([np.empty(0, np.int64), *(items for _, _, items in found)])
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(users + 1))
    return Dropped(starts, item[order], stage[order])
