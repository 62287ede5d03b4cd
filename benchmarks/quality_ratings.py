"""ml-100k, time split: stars of held-out ratings, against means and the seed's own network.

    python benchmarks/quality_ratings.py [--seeds N]

The first 80 % of the ratings by time train, the next 10 % stop the training, the last 10 % are predicted. Errors are
mean absolute errors in stars. NDCG@10 ranks each user's held-out films by the predicted stars (gain 2^stars − 1, users
with at least five); equal predictions keep the order of the log.

tamis knows the mean stars of earlier ratings, of the film also among users of the same sex, age and occupation.

The seed's network is rebuilt from its description: 10,000 hashed rows of 64 for user, film and zip each, a table of
their own for the last five films and one for genre tokens (the text of bytes: 18 genres give many more tokens), both
averaged with their padding; gender, age, occupation and length of the history hashed to 310 one-hot columns; 630 → 128
→ 64 → a number (absolute error) and six classes; RMSprop 1e-3, batches of 64, dropout 0.25. The history is one constant
per user, his newest training ratings, as there. It is kind to it that the epoch is kept that is best on the validation
ratings.
"""

import argparse
import hashlib
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import torch
from msgspec import structs
from torch import Tensor, nn

from _prepared import periods
from _results import data, result
from tamis.config import convert
from tamis.data.dataset import Dataset, Requests
from tamis.data.samples import Log, rating_samples
from tamis.data.sources import read_source
from tamis.data.split import SplitConfig, by_time
from tamis.data.write import import_tables
from tamis.features.inputs import Inputs
from tamis.features.spec import FeaturesConfig
from tamis.project import create, open_project
from tamis.rank.rating import Rating, RatingConfig

BINS, WIDTH, LAST, GENRES = 10_000, 64, 5, 6
STARS = {"kind": "mean", "action": "rate"}
MEANS = {
    "user": {"stars": STARS, "genre_stars": {**STARS, "by": "category"}},
    "item": {
        "stars": STARS,
        "sex_stars": {**STARS, "by": "gender"},
        "age_stars": {**STARS, "by": "age"},
        "occupation_stars": {**STARS, "by": "occupation"},
        "year_stars": {**STARS, "of": "year"},
    },
}
"""Mean stars of earlier ratings, as of the last midnight; beside the features of the template."""
CHOSEN: dict[str, Any] = {
    "learning_rate": 3e-4,
    "embedding_learning_rate": 3e-4,
    "wide_learning_rate": 3e-3,
    "unknown_share": 0.3,
}
"""By NDCG on the validation ratings alone, among those that docs/results.md tells of."""
CHANGES: dict[str, dict[str, Any]] = {"tamis": CHOSEN, "tamis, absolute error": {**CHOSEN, "loss": "absolute"}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(1, parser.parse_args().seeds + 1)
    folder = Path(tempfile.mkdtemp()) / "feed"
    create(folder, "movielens")
    raw = read_source("movielens", data("ml-100k"))
    import_tables(raw, folder / "data")
    config, dataset = open_project(folder).config, Dataset.open(folder / "data")
    split = by_time(dataset, SplitConfig(least_share=0.09, test_share=0.1, valid_share=1 / 9))
    inputs, test = periods(structs.replace(config, features=with_means(config.features)), dataset, split)
    parts = {
        name: ratings(side, *span)
        for name, side, span in (
            ("train", inputs, (-np.inf, split.valid_since)),
            ("valid", inputs, (split.valid_since, split.test_since)),
            ("test", test, (split.test_since, split.test_until)),
        )
    }
    truth = parts["test"].stars
    known = len(np.setdiff1d(np.unique(parts["test"].user), parts["train"].user))
    print(f"{len(truth)} held-out ratings of {len(np.unique(parts['test'].user))} users, {known} of them new")
    scores = dict(means(parts))
    now = test.sides(parts["test"].samples).dynamic[:, test.layout.item_dynamic.index("stars")]
    scores["film, last midnight"] = parts["train"].stars.mean() + now
    found = {name: [judge(parts["test"], predicted)] for name, predicted in scores.items()}
    found["seed's network"] = [judge(parts["test"], Seed(dataset, parts, seed).best()) for seed in seeds]
    for name, change in CHANGES.items():
        found[name] = [
            judge(
                parts["test"],
                predicted(Rating.fit(structs.replace(RatingConfig(), **change), inputs, seed), test, parts["test"]),
            )
            for seed in seeds
        ]
    for name, rows in found.items():
        (error, gain), (e, g) = np.mean(rows, 0), np.std(rows, 0)
        print(f"{name:<24} MAE {error:.4f} ±{e:.4f}   NDCG@10 {gain:.4f} ±{g:.4f}")
    theirs, own = np.mean(found["seed's network"], 0), np.mean(found["tamis"], 0)
    own_error = float(np.mean(found["tamis, absolute error"], 0)[0])
    result("ml-100k stars, absolute error", own_error, float(theirs[0]), "MAE", "< 1")
    result("ml-100k stars, squared error", float(own[0]), float(theirs[0]), "MAE")
    result("ml-100k order of films", float(own[1]), float(theirs[1]), "NDCG@10", "> 1")


def with_means(features: FeaturesConfig) -> FeaturesConfig:
    tree = msgspec.to_builtins(features)
    return convert({**tree, **{side: {**tree[side], **more} for side, more in MEANS.items()}}, FeaturesConfig)


class Ratings:
    """Ratings of one period as columns [n]."""

    def __init__(self, samples) -> None:
        self.samples = samples
        self.user, self.item = samples.user.astype(np.int64), samples.item.astype(np.int64)
        self.time, self.stars = samples.time, samples.labels["rate"].astype(np.float64)


def ratings(inputs: Inputs, since: float, until: float) -> Ratings:
    return Ratings(
        rating_samples(Log(inputs.events, Requests.none(), inputs.train.timeline, np.empty(0)), since, until)
    )


def predicted(part: Rating, test: Inputs, rated: Ratings) -> np.ndarray:
    """The stars of all held-out ratings, each at its own moment, by the exported net."""
    out = np.empty(len(rated.stars))
    for row in range(len(out)):
        batch = test.batch(rated.samples, np.array([row]))
        out[row] = part.session.answer(batch)["stars"][0]
    return np.clip(out, 1, 5)


def judge(rated: Ratings, score: np.ndarray) -> tuple[float, float]:
    """(mean absolute error, mean NDCG@10 over the users with at least five ratings)."""
    gains = []
    for user in np.unique(rated.user):
        rows = np.flatnonzero(rated.user == user)
        if len(rows) >= 5:
            gain, discount = 2.0 ** rated.stars[rows] - 1, 1 / np.log2(np.arange(2, 12))
            order = np.argsort(-score[rows], kind="stable")[:10]
            ideal = np.sort(gain)[::-1][:10]
            gains.append((gain[order] @ discount[: len(order)]) / (ideal @ discount[: len(ideal)]))
    return float(np.abs(rated.stars - score).mean()), float(np.mean(gains))


def means(parts: dict[str, Ratings]):
    """The mean of all, of the film, of the user, and of both; ten ratings of the mean are added to each."""
    train = parts["train"]
    test, overall = parts["test"], train.stars.mean()

    def shift(by: np.ndarray, asked: np.ndarray, rest: np.ndarray) -> np.ndarray:
        size = int(max(by.max(), asked.max())) + 1
        return np.bincount(by, rest, minlength=size) / (np.bincount(by, minlength=size) + 10)

    rest = train.stars - overall
    item = shift(train.item, test.item, rest)
    user = shift(train.user, test.user, rest)
    both = shift(train.user, test.user, rest - item[train.item])
    yield "mean", np.full(len(test.stars), overall)
    yield "mean of the film", overall + item[test.item]
    yield "mean of the user", overall + user[test.user]
    yield "film and user", overall + item[test.item] + both[test.user]


def hashed(value: str, bins: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"1024{value}".encode(), digest_size=8).digest(), "little") % bins


def tokens(parts: list[str], vocabulary: dict[str, int], width: int) -> list[int]:
    """Token numbers of the text of bytes that parts joined by a bar become, padded with 0 at the end."""
    if parts:
        parts = [f"b'{parts[0]}", *parts[1:]]
        parts[-1] += "'"
    found = [vocabulary.setdefault(part, len(vocabulary) + 1) % BINS for part in parts[:width]]
    return found + [0] * (width - len(found))


def compact(codes: np.ndarray) -> int:
    """Renumbers codes in place by those that occur; how many there are."""
    distinct, place = np.unique(codes, return_inverse=True)
    codes[:] = place.reshape(codes.shape)
    return len(distinct)


class SeedNet(nn.Module):
    """sizes: rows of the five tables that occur; no gradient ever reaches the others of the 10,000."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, WIDTH) for size in sizes)
        for table in self.tables:
            nn.init.uniform_(table.weight, -0.05, 0.05)  # as Keras does
        self.layers = nn.Sequential(
            nn.Dropout(0.25), nn.Linear(5 * WIDTH + 310, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
        )
        self.score, self.rating = nn.Linear(64, 1), nn.Linear(64, 6)

    def forward(self, codes: Tensor, tags: Tensor) -> tuple[Tensor, Tensor]:
        """codes: [n, 3 + 5 + 6]: user, film, zip, last films, genres.   tags: [n, 310]."""
        user, film, zip_code, last, genres = self.tables
        whole = [user(codes[:, 0]), film(codes[:, 1]), zip_code(codes[:, 2])]
        whole += [last(codes[:, 3 : 3 + LAST]).mean(1), genres(codes[:, 3 + LAST :]).mean(1), tags]
        hidden = self.layers(torch.cat(whole, 1))
        return self.score(hidden).squeeze(1), self.rating(hidden)


class Seed:
    """The seed's network on the same ratings."""

    def __init__(self, dataset: Dataset, parts: dict[str, Ratings], seed: int) -> None:
        torch.manual_seed(seed)
        self.parts, self.seed = parts, seed
        frame = dataset.users
        train = parts["train"]
        order = np.lexsort((-train.time, train.user))
        vocabulary: dict[str, int] = {}
        last: dict[int, list[str]] = {}
        for row in order:
            last.setdefault(int(train.user[row]), []).append(str(train.item[row]))
        users, tags = [], np.zeros((frame.height, 310), np.float32)
        for user, row in enumerate(frame.iter_rows(named=True)):
            past = last.get(user, [])[:LAST]
            users.append([hashed(f"u{user}", BINS), hashed(str(row["zip"]), BINS), *tokens(past, vocabulary, LAST)])
            for start, bins, value in (
                (0, 10, row["gender"]),
                (10, 100, row["age"]),
                (110, 100, row["occupation"]),
                (210, 100, len(past)),
            ):
                tags[user, start + hashed(str(value), bins)] = 1
        genres: dict[str, int] = {}
        items = [
            [hashed(f"i{item}", BINS), *tokens(list(keywords or [])[:GENRES], genres, GENRES)]
            for item, keywords in enumerate(dataset.items["keywords"].to_list())
        ]
        print(f"seed's network: {len(genres)} genre tokens", flush=True)
        self.users, self.items, self.tags = np.array(users), np.array(items), tags
        self.sizes = [
            compact(columns)
            for columns in (
                *(self.users[:, :1], self.items[:, :1], self.users[:, 1:2]),
                *(self.users[:, 2:], self.items[:, 1:]),
            )
        ]
        by_count = pl.Series(train.stars).value_counts(sort=True)
        self.place = {star: at for at, star in enumerate(by_count.to_series(0).to_list(), start=1)}

    def inputs(self, rated: Ratings) -> tuple[Tensor, Tensor]:
        users, items = self.users[rated.user], self.items[rated.item]
        codes = np.column_stack([users[:, 0], items[:, 0], users[:, 1:], items[:, 1:]])
        return torch.from_numpy(codes), torch.from_numpy(self.tags[rated.user])

    def best(self, epochs: int = 10) -> np.ndarray:
        """The held-out stars of the epoch that is best on the validation ratings."""
        net, train = SeedNet(self.sizes), self.parts["train"]
        codes, tags = self.inputs(train)
        stars = torch.from_numpy(train.stars.astype(np.float32))
        star = torch.tensor([self.place[value] for value in train.stars])
        optimizer = torch.optim.RMSprop(net.parameters(), lr=1e-3, alpha=0.9, eps=1e-7)
        random, least, kept = np.random.default_rng(self.seed), np.inf, np.empty(0)
        for _ in range(epochs):
            net.train()
            for rows in np.array_split(random.permutation(len(stars)), len(stars) // 64):
                score, rating = net(codes[rows], tags[rows])
                loss = (score - stars[rows]).abs().mean() + nn.functional.cross_entropy(rating, star[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            net.eval()
            with torch.no_grad():
                valid = net(*self.inputs(self.parts["valid"]))[0].numpy()
                error = np.abs(valid - self.parts["valid"].stars).mean()
                if error < least:
                    least, kept = error, net(*self.inputs(self.parts["test"]))[0].numpy().astype(np.float64)
        return kept


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
