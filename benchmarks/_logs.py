"""Logs of served pages, drawn: random codes, and clicks that follow a rule which only the right net can learn."""

from dataclasses import dataclass

import numpy as np

from _layout import plain_layout
from tamis.features.batch import NetBatch
from tamis.features.layout import Layout

Labels = dict[str, np.ndarray]


def layout(user: list[int], item: list[int], history: int, columns: tuple[int, ...], marks: bool = True) -> Layout:
    """User and item fields of the given vocabulary sizes, one column each; marks: entries say what and when."""
    named = (
        {f"{side}_{at}": size for at, size in enumerate(sizes)} for side, sizes in (("user", user), ("item", item))
    )
    return plain_layout(*named, history=history, columns=columns, past=(13, 27), marks=marks)


@dataclass
class Log:
    """Served pages in memory: what `Inputs.batch` gives in training, from plain arrays."""

    layout: Layout
    user: np.ndarray  # [r, user fields]
    history: np.ndarray  # [r, L, columns]
    first: np.ndarray  # [r + 1]
    item: np.ndarray  # [n, item fields]
    labels: Labels

    def batch(self, requests: np.ndarray) -> NetBatch:
        counts = self.first[requests + 1] - self.first[requests]
        row_of = np.repeat(np.arange(len(requests)), counts)
        rows = np.arange(len(row_of)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows += np.repeat(self.first[requests], counts)
        none = np.zeros((len(rows), 0), np.float32)
        return NetBatch(
            user_codes=self.user[requests],
            user_dense=none[: len(requests)],
            history_codes=self.history[requests],
            item_codes=self.item[rows],
            item_dense=none,
            item_dynamic=none,
            row_of=row_of,
            labels={name: label[rows] for name, label in self.labels.items()},
        )

    def flat(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The same rows as torch-rechub takes them: every field for every row, numbered from 0."""
        row_of = np.repeat(np.arange(len(self.user)), np.diff(self.first))
        columns = {f.name: self.user[row_of, f.start] - f.offset for f in self.layout.user_fields}
        columns |= {f.name: self.item[:, f.start] - f.offset for f in self.layout.item_fields}
        for at, column in enumerate(self.layout.history_columns):
            offset = self.layout.item_fields[column].offset
            columns[f"past_{at}"] = self.history[row_of, :, at] - offset
        return columns, np.stack(list(self.labels.values()), 1)

    def part(self, begin: int, end: int) -> "Log":
        rows = slice(self.first[begin], self.first[end])
        labels = {name: label[rows] for name, label in self.labels.items()}
        first = self.first[begin : end + 1] - self.first[begin]
        return Log(self.layout, self.user[begin:end], self.history[begin:end], first, self.item[rows], labels)


def mmoe_log(requests: int, candidates: int, seed: int = 1) -> Log:
    random = np.random.default_rng(seed)
    sizes = np.geomspace(10_000, 100_000, 16).astype(int)
    shape = layout([int(v) for v in sizes[::2]], [int(v) for v in sizes[1::2]], 0, ())
    rows = requests * candidates
    user = np.stack([random.integers(f.offset, f.offset + f.size, requests) for f in shape.user_fields], 1)
    item = np.stack([random.integers(f.offset, f.offset + f.size, rows) for f in shape.item_fields], 1)
    labels = {name: (random.random(rows) < rate).astype(np.float32) for name, rate in (("click", 0.2), ("like", 0.1))}
    history = np.zeros((requests, 0, 2), np.int32)
    return Log(
        shape, user.astype(np.int32), history, np.arange(requests + 1) * candidates, item.astype(np.int32), labels
    )


def dcn_log(requests: int, candidates: int = 16, seed: int = 4, codes: int = 40, depth: int = 2) -> Log:
    """As `mmoe_log`; a click is drawn by σ(2 ⟨p, q⟩ / √depth − 1), p and q hanging at one field of each side."""
    random = np.random.default_rng(seed)
    sizes = np.geomspace(10_000, 100_000, 16).astype(int)
    sizes[:2] = codes
    shape = layout([int(v) for v in sizes[::2]], [int(v) for v in sizes[1::2]], 0, ())
    user = np.stack([random.integers(f.offset, f.offset + f.size, requests) for f in shape.user_fields], 1)
    rows = requests * candidates
    item = np.stack([random.integers(f.offset, f.offset + f.size, rows) for f in shape.item_fields], 1)
    label = (random.random(rows) < click_chance(shape, np.repeat(user, candidates, 0), item, codes, depth)).astype(
        np.float32
    )
    first, history = np.arange(requests + 1) * candidates, np.zeros((requests, 0, 2), np.int32)
    return Log(shape, user.astype(np.int32), history, first, item.astype(np.int32), {"click": label})


def click_chance(shape: Layout, user: np.ndarray, item: np.ndarray, codes: int = 40, depth: int = 2) -> np.ndarray:
    """[n] the chance of a click in `dcn_log`, of user codes [n, …] and item codes [n, …]."""
    left, right = np.random.default_rng(5).normal(size=(2, codes, depth))
    product = left[user[:, 0] - shape.user_fields[0].offset] * right[item[:, 0] - shape.item_fields[0].offset]
    return 1.0 / (1.0 + np.exp(1.0 - 2.0 * product.sum(1) / np.sqrt(depth)))


def din_log(requests: int, seed: int = 2, items: int = 20_000, categories: int = 20) -> Log:
    """Each user has 3 categories; half of the candidates come from them. Click: 0.7 inside, 0.1 outside."""
    random = np.random.default_rng(seed)
    shape = layout([20_000, 1_000, 100, 50], [items, categories], 50, (0, 1), marks=False)
    per_category = items // categories
    tastes = random.integers(0, categories, (requests, 3))
    past = np.take_along_axis(tastes, random.integers(0, 3, (requests, 50)), 1)
    counts = random.integers(10, 17, requests)
    row_of = np.repeat(np.arange(requests), counts)
    inside = random.random(len(row_of)) < 0.5
    category = np.where(
        inside, tastes[row_of, random.integers(0, 3, len(row_of))], random.integers(0, categories, len(row_of))
    )
    liked = (category[:, None] == past[row_of]).any(1)
    click = random.random(len(row_of)) < np.where(liked, 0.7, 0.1)
    user = np.stack([random.integers(f.offset, f.offset + f.size, requests) for f in shape.user_fields], 1)
    item_field, category_field = shape.item_fields

    def coded(kind: np.ndarray) -> np.ndarray:
        item = kind + categories * random.integers(0, per_category, kind.shape)  # item i is of category i % categories
        return np.stack([item_field.offset + item, category_field.offset + kind], -1)

    first = np.concatenate([[0], np.cumsum(counts)])
    labels = {"click": click.astype(np.float32)}
    return Log(
        shape, user.astype(np.int32), coded(past).astype(np.int32), first, coded(category).astype(np.int32), labels
    )
