"""The public evaluation protocols: how interactions are split, and how a ranking of all unseen items is judged.

    Interactions → leave_one_out | random_split | time_split | given_split → Split → held_out → best_unseen → metrics

Every query ranks the whole catalogue but the items that the user is known to have; nothing here samples negatives. A
held-out interaction with an item that the user has already is therefore no question and is left out.

Definitions, since papers differ: recall@k divides by all held-out items of the user (as NGCF, LightGCN and RecBole do;
Mult-VAE and iALS divide by min(k, that)). NDCG@k has gain 1 and its ideal puts min(k, held-out items) first (as
LightGCN and RecBole do; the first code of NGCF took the hits found as the ideal, which gives more). MRR@k is 0 beyond
k. Every figure is a mean over the users who have something held out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from tamis import metrics

Part = Literal["train", "valid", "test"]
Score = Callable[[NDArray[np.int64]], NDArray[Any]]
"""user numbers [b] → scores [b, items] of all items, higher is better; −inf: never to be shown."""

_SCORES_AT_ONCE: Final = 1 << 24  # numbers of one block of scores: 64 MB of float32


@dataclass(frozen=True, slots=True)
class Interactions:
    """n interactions in the order of their source. Numbers of users and items are 0 … users − 1 and 0 … items − 1."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    time: NDArray[np.float64]  # seconds, or any number that grows with time; all alike where a set has no times
    value: NDArray[np.float32]  # strength: > 0
    users: int
    items: int

    def __len__(self) -> int:
        return len(self.user)

    @staticmethod
    def of(
        user: NDArray[Any],
        item: NDArray[Any],
        time: NDArray[Any] | None = None,
        value: NDArray[Any] | None = None,
        shape: tuple[int, int] | None = None,
    ) -> "Interactions":
        """From columns of equal length.

        shape: (users, items) when the ids are such numbers already; None: ids of any kind, numbered in sorted order.
        time: None = all alike.   value: None = 1.   Raises ValueError naming the column that cannot be.
        """
        columns = {"user": user, "item": item, "time": time, "value": value}
        for name, column in columns.items():
            if column is not None and np.shape(column) != np.shape(user):
                raise ValueError(
                    f"{name} has shape {np.shape(column)}, user {np.shape(user)}: wanted one of each a row"
                )
        times = np.zeros(len(user)) if time is None else np.asarray(time, np.float64)
        values = np.ones(len(user), np.float32) if value is None else np.asarray(value, np.float32)
        if not np.isfinite(times).all() or not np.isfinite(values).all():
            raise ValueError("time or value has a number that is not finite")
        if shape is None:
            names, users = np.unique(user, return_inverse=True)
            kinds, items = np.unique(item, return_inverse=True)
            return Interactions(users.ravel(), items.ravel(), times, values, len(names), len(kinds))
        users, items = np.asarray(user, np.int64), np.asarray(item, np.int64)
        for name, numbers, count in (("user", users, shape[0]), ("item", items, shape[1])):
            if len(numbers) and (numbers.min() < 0 or numbers.max() >= count):
                raise ValueError(f"{name} has a number outside 0 … {count - 1}")
        return Interactions(users, items, times, values, *shape)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """q questions: which of the items that users[j] does not have yet comes next?"""

    users: NDArray[np.int64]  # [q] ascending; only those with an answer
    relevant: metrics.Relevant  # the right answers of each
    known: csr_matrix  # [all users, items] ≠ 0 where a user has the item already, so that it is not ranked


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of the interactions by what they are for; each user after user, oldest first."""

    data: Interactions
    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    test: NDArray[np.int64]

    def matrix(self, *parts: Part) -> csr_matrix:
        """[users, items] float32 of the parts (default: train); values of repeated pairs are summed."""
        rows = np.concatenate([self.rows(part) for part in parts or ("train",)])
        pairs = (self.data.user[rows], self.data.item[rows])
        matrix = csr_matrix((self.data.value[rows], pairs), shape=(self.data.users, self.data.items))
        matrix.sum_duplicates()
        return matrix

    def rows(self, part: Part) -> NDArray[np.int64]:
        """The rows of one part."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[part]

    def held_out(self, part: Literal["valid", "test"] = "test") -> HeldOut:
        """The questions of a part. Known is all that the split puts before it: train, for the test valid as well."""
        before: tuple[Part, ...] = ("train",) if part == "valid" else ("train", "valid")
        known, rows = self.matrix(*before), self.rows(part)
        pair = self.data.user * self.data.items + self.data.item
        had = pair[np.concatenate([self.rows(part) for part in before])]
        users, items = np.divmod(np.setdiff1d(pair[rows], had), max(1, self.data.items))
        asking, starts = np.unique(users, return_index=True)
        return HeldOut(asking, metrics.Relevant(np.append(starts, len(items)), items), known)


def leave_one_out(data: Interactions, ties: Literal["row", "item", "random"] = "row", seed: int = 0) -> Split:
    """Each user's last interaction is the test, the one before it validation, the rest train.

    Users with fewer than three are train altogether.   ties: interactions of a user at the same time are in the order
    of their rows, of their item numbers, or drawn by `seed`. Say which: on ml-1m it changes a quarter of the test set.
    """
    if ties == "random":
        tie = np.random.default_rng(seed).permutation(len(data))
    else:
        tie = data.item if ties == "item" else np.arange(len(data))
    order = np.lexsort((tie, data.time, data.user))
    counts = np.bincount(data.user, minlength=data.users)
    held = np.where(counts >= 3, 1, 0)
    return _cut(data, order, counts, held, held)


def random_split(data: Interactions, shares: tuple[float, float, float] = (0.8, 0.1, 0.1), seed: int = 0) -> Split:
    """Each user's interactions at random into train, valid and test by `shares`, which sum to 1.

    Of n interactions valid and test get ⌊share · n⌋ each, but one where that is 0 and the share is not, test first, as
    long as train keeps one (RecBole's rule). A share of 0 makes an empty part.
    """
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares {shares}: wanted three that are not negative and sum to 1")
    order = np.lexsort((np.random.default_rng(seed).permutation(len(data)), data.user))
    counts = np.bincount(data.user, minlength=data.users)
    valid, test = (np.floor(share * counts + 1e-9).astype(np.int64) for share in shares[1:])
    test += (test == 0) & (shares[2] > 0) & (counts - valid - test > 1)
    valid += (valid == 0) & (shares[1] > 0) & (counts - valid - test > 1)
    return _cut(data, order, counts, valid, test)


def time_split(
    data: Interactions, test_share: float = 0.2, valid_share: float = 0.0, cold: Literal["drop", "keep"] = "drop"
) -> Split:
    """One moment for all: the last `test_share` of the rows by time are the test, of those before the last
    `valid_share` validation.

    Rows of one time are never parted: they go to the later part.   cold: held-out rows of users or items without a row
    in train are dropped, or kept: then nothing can be known of such users, and such items can only be missed.
    """
    for name, share in (("test_share", test_share), ("valid_share", valid_share)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} {share}: wanted inside [0, 1)")
    times = np.sort(data.time)
    test_since = _moment(times, test_share)
    valid_since = min(test_since, _moment(times[times < test_since], valid_share))
    part = np.where(data.time >= test_since, 2, np.where(data.time >= valid_since, 1, 0))
    if cold == "drop":
        train = part == 0
        users, items = (np.isin(ids, ids[train]) for ids in (data.user, data.item))
        part = np.where(train | (users & items), part, 3)
    order = np.lexsort((np.arange(len(data)), data.time, data.user))
    return Split(data, *(order[part[order] == which] for which in range(3)))


def given_split(train: Interactions, test: Interactions, valid: Interactions | None = None) -> Split:
    """A split that others made, its parts in the same numbers of users and items."""
    parts = [part for part in (train, valid, test) if part is not None]
    users, items = max(part.users for part in parts), max(part.items for part in parts)
    columns = {name: [getattr(part, name) for part in parts] for name in ("user", "item", "time", "value")}
    data = Interactions(**{name: np.concatenate(column) for name, column in columns.items()}, users=users, items=items)
    of = np.repeat([0, 1, 2] if valid is not None else [0, 2], [len(part) for part in parts])
    order = np.lexsort((np.arange(len(data)), data.time, data.user))
    return Split(data, *(order[of[order] == which] for which in range(3)))


def best_unseen(score: Score, held_out: HeldOut, k: int) -> NDArray[np.int64]:
    """[q, k] the k best items that each asking user does not have, best first, ties by the lower number.

    −1 where there are fewer, as items of score −inf do not count. Scores are asked for in blocks of users, so that
    memory does not grow with their number. Raises ValueError for NaN or another shape.
    """
    if k < 1:
        raise ValueError(f"k {k}: wanted ≥ 1")
    users, known = held_out.users, held_out.known
    ranked = np.full((len(users), k), -1, np.int64)
    block = max(1, _SCORES_AT_ONCE // max(1, known.shape[1]))
    for start in range(0, len(users), block):
        asked = users[start : start + block]
        scores = np.array(score(asked), np.float32, order="C")  # a copy: what is known is struck out of it
        if scores.shape != (len(asked), known.shape[1]):
            raise ValueError(f"score gave {scores.shape} for {len(asked)} users, wanted {(len(asked), known.shape[1])}")
        if np.isnan(scores).any():
            raise ValueError("score gave a value that is not a number")
        _best_rows(scores, known.indptr, known.indices, asked, ranked[start : start + block])
    return ranked


def ranking_metrics(
    ranked: NDArray[Any], relevant: metrics.Relevant, cuts: Sequence[int] = (10, 20)
) -> dict[str, float]:
    """{"recall@k", "ndcg@k", "hit@k", "mrr@k"} for every k of `cuts`, as this module's head defines them.

    ranked: [q, w] item numbers, best first, distinct within a row, −1 where the list is shorter; w ≥ every cut.
    """
    if ranked.ndim != 2 or ranked.shape[1] < max(cuts):
        raise ValueError(f"ranked {ranked.shape}: wanted at least {max(cuts)} places for the cuts {tuple(cuts)}")
    kinds = {
        "recall": metrics.recall_at_k, "ndcg": metrics.ndcg_at_k, "hit": metrics.hit_rate, "mrr": metrics.mrr,
    }  # fmt: skip
    return {f"{name}@{k}": kind(ranked, relevant, k) for k in cuts for name, kind in kinds.items()}


def judge(score: Score, held_out: HeldOut, cuts: Sequence[int] = (10, 20)) -> dict[str, float]:
    """`ranking_metrics` of the best unseen items by `score`."""
    return ranking_metrics(best_unseen(score, held_out, max(cuts)), held_out.relevant, cuts)


def _cut(
    data: Interactions,
    order: NDArray[np.int64],
    counts: NDArray[np.int64],
    valid: NDArray[np.int64],
    test: NDArray[np.int64],
) -> Split:
    """Of each user's rows in `order` the last `test` are test, the `valid` before them validation, the rest train."""
    left = np.repeat(np.cumsum(counts), counts) - np.arange(len(data))  # counts down to 1 within each user
    of = data.user[order]
    part = np.where(left <= test[of], 2, np.where(left <= (test + valid)[of], 1, 0))
    return Split(data, *(_by_time(data, order[part == which]) for which in range(3)))


def _by_time(data: Interactions, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows user after user, oldest first; of one time in the order given."""
    return rows[np.lexsort((np.arange(len(rows)), data.time[rows], data.user[rows]))]


def _moment(times: NDArray[np.float64], share: float) -> float:
    """The time from which on the last `share` of the sorted times lie, infinite when that is none."""
    last = round(share * len(times))
    return float(times[len(times) - last]) if last else float("inf")


@njit(cache=True, nogil=True)
def _best_rows(scores: Any, starts: Any, items: Any, users: Any, ranked: Any) -> None:
    """Fills ranked [b, k] from scores [b, i], in which what the users know is overwritten with −inf."""
    k = ranked.shape[1]
    best = np.empty(k, np.float32)
    for row in range(len(users)):
        user = users[row]
        for at in range(starts[user], starts[user + 1]):
            scores[row, items[at]] = -np.inf
        held, least = 0, np.float32(-np.inf)
        for item in range(scores.shape[1]):
            value = scores[row, item]
            if value <= least:  # −inf until k are held: ties go to the lower item, which came first
                continue
            at = min(held, k - 1)
            while at > 0 and best[at - 1] < value:
                best[at], ranked[row, at] = best[at - 1], ranked[row, at - 1]
                at -= 1
            best[at], ranked[row, at] = value, item
            held = min(held + 1, k)
            if held == k:
                least = best[k - 1]
