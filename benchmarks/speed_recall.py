"""Training speed of the two towers against torch-rechub's DSSM with in-batch negatives.

    python benchmarks/speed_recall.py [--rounds N] [--positives P] [--threads T]

Equal sizes: 4 user fields, 3 item fields and a history of 20 items, embeddings of 16, towers of 128-64-32 and 64-32,
batches of 512 positives, temperature 0.07, Adam with equal learning rates. One epoch as a user runs it, each through
its own loader and loop, both in one process and by turns; the figure is the median of the rounds. torch-rechub's
trainer draws every row's negatives in a loop over the batch; so that nobody blames that loop alone, "all": every other
row is a negative (its default), "four": it draws four for each row. tamis: all other rows are negatives, what the user
saw is masked, popularity is corrected for; "default": 512 items of the catalogue besides, as it trains by default.
"""

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import polars as pl
import torch
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.matching import DSSM
from torch_rechub.trainers import MatchTrainer
from torch_rechub.utils.data import MatchDataGenerator

from _results import result
from tamis.data.dataset import Events
from tamis.data.samples import Samples, Timeline
from tamis.features.encode import Encoder
from tamis.features.inputs import Inputs
from tamis.features.spec import Category, FeaturesConfig, HistoryConfig, Id
from tamis.features.statistics import Statistics
from tamis.nets.contrast import learn
from tamis.nets.tower import Towers, numbers_of
from tamis.recall.two_tower import TwoTowerConfig
from tamis.types import Action, Catalog, item_keys

USERS, ITEMS, LENGTH, BATCH = 20_000, 10_000, 20, 512
RATE = 1e-3
SIZES = {"gender": 2, "age": 7, "city": 300, "category": 50, "author": 2000}
FEATURES = FeaturesConfig(
    user={"user_id": Id(min_count=0), **{name: Category(column=name) for name in ("gender", "age", "city")}},
    item={"item_id": Id(min_count=0), **{name: Category(column=name) for name in ("category", "author")}},
    history=HistoryConfig(actions=("click",), length=LENGTH, fields=("item_id", "category")),
)


def log(positives: int, seed: int = 1) -> Inputs:
    """Clicks of items by a power law, each a request of its own."""
    random = np.random.default_rng(seed)
    raw = {
        side: {name: [f"{v}" for v in random.integers(0, SIZES[name], count)] for name in names}
        for side, count, names in (("user", USERS, ("gender", "age", "city")), ("item", ITEMS, ("category", "author")))
    }
    user = random.integers(0, USERS, positives).astype(np.int32)
    item = (ITEMS * random.random(positives) ** 3).astype(np.int32)
    time_ = np.sort(random.uniform(0, 1e6, positives))
    none = np.full(positives, -1)
    clicks = np.full(positives, Action.CLICK, np.uint8)
    events = Events(
        user, item, clicks, np.zeros(positives, np.float32), time_, none.astype(np.int64), none.astype(np.int16)
    )
    counts = [Statistics.of(who, clicks, time_, many) for who, many in ((user, USERS), (item, ITEMS))]
    encoder = Encoder.fit(FEATURES, {**raw, "context": {"scene": ["feed"]}}, *counts)
    columns = encoder.items(np.arange(ITEMS), raw["item"], counts[1].counts(np.arange(ITEMS), 1e6))
    timeline = Timeline.of(events, USERS, [Action.CLICK])
    samples = Samples(
        user=user,
        time=time_,
        scene=np.zeros(positives, np.int32),
        scenes=("feed",),
        context=pl.DataFrame({"row": np.arange(positives)}),
        history_start=timeline.start(user),
        history_end=timeline.before(user, time_),
        first=np.arange(positives + 1),
        item=item,
        position=none.astype(np.int16),
        labels={"click": np.ones(positives, np.float32)},
        timeline=timeline,
    )
    return Inputs(
        encoder=encoder,
        catalog=Catalog.of(item_keys(str(n) for n in range(ITEMS)), columns),
        users=encoder.users(np.arange(USERS), raw["user"]),
        events=events,
        until=1e6 + 1,
        train=samples,
        valid=samples.since(1e6 + 1),
        user_statistics=counts[0],
        item_statistics=counts[1],
    )


def ours(inputs: Inputs, threads: int, extra: int) -> Callable[[], float]:
    config = TwoTowerConfig(
        epochs=1,
        batch_size=BATCH,
        learning_rate=RATE,
        embedding_learning_rate=RATE,
        threads=threads,
        unknown_share=0.0,
        extra_negatives=extra,
    )
    plan = config.plan()
    inputs.sides(inputs.train)  # the peer's arrays are ready too

    def run() -> float:
        towers = Towers(inputs.layout, plan.towers, numbers_of(inputs), 1)
        begun = time.perf_counter()
        learn(towers, inputs, plan, 1)
        return time.perf_counter() - begun

    return run


def theirs(inputs: Inputs, threads: int, ratio: int | None) -> Callable[[], float]:
    rows = np.arange(len(inputs.train))
    batch = inputs.batch(inputs.train, rows)
    columns, user_features, item_features = {}, [], []
    for side, fields, codes in (
        (user_features, inputs.layout.user_fields, batch.user_codes),
        (item_features, inputs.layout.item_fields, batch.item_codes),
    ):
        for field in fields:
            name = field.name.replace(".", "_")
            columns[name] = codes[:, field.start].astype(np.int64) - field.offset
            side.append(SparseFeature(name, vocab_size=field.size, embed_dim=16))
    for at, field in enumerate(inputs.layout.item_fields[:2]):
        name, past = field.name.replace(".", "_"), batch.history_codes[:, :, at].astype(np.int64)
        columns[f"past_{name}"] = np.where(past, past - field.offset, 0)
        shared = {"pooling": "mean", "shared_with": name, "padding_idx": 0}
        user_features.append(SequenceFeature(f"past_{name}", field.size, embed_dim=16, **shared))

    def run() -> float:
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        towers = {"user_params": {"dims": [128, 64, 32]}, "item_params": {"dims": [64, 32]}}
        net = DSSM(user_features, item_features, temperature=0.07, **towers)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            begun = time.perf_counter()
            generator = MatchDataGenerator(columns, y=np.ones(len(rows)))
            loader = generator.generate_dataloader(columns, columns, batch_size=BATCH, num_workers=0)[0]
            trainer = MatchTrainer(
                net,
                mode=0,
                in_batch_neg=True,
                in_batch_neg_ratio=ratio,
                optimizer_params={"lr": RATE, "weight_decay": 0.0},
                n_epoch=1,
                model_path=folder,
            )
            with contextlib.redirect_stderr(io.StringIO()):
                trainer.fit(loader)
            return time.perf_counter() - begun

    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--positives", type=int, default=40_000)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    inputs = log(asked.positives)
    sides = {
        "tamis": ours(inputs, asked.threads, 0),
        "default": ours(inputs, asked.threads, 512),
        "all": theirs(inputs, asked.threads, None),
        "four": theirs(inputs, asked.threads, 4),
    }
    ours(log(5 * BATCH), asked.threads, 0)()  # kernels compile at their first call
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(asked.rounds):
        for name, run in sides.items():
            seconds[name].append(run())
    speed = {name: asked.positives / median(taken) for name, taken in seconds.items()}
    for name in ("all", "four"):
        said = f"two-tower training, torch-rechub's DSSM with {name} in-batch negatives"
        result(said, speed["tamis"], speed[name], "positives/s", ">= 3")
    result("the same with 512 negatives of the catalogue besides", speed["default"], speed["all"], "positives/s")


if __name__ == "__main__":
    main()
