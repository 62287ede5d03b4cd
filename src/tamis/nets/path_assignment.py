"""Which paths an item gets while the path network stands still.

    s[v, c] = Σ over the users who acted on v of p(c | user)       only an item's best paths are remembered
    paper    Σ_v N_v · log Σ_j s[v, π_j(v)] − α · Σ_c f(|c|),  f(n) = n⁴/4           as large as possible
    course   −log Σ_j s[v, π_j(v)] + α · |c|⁴                                        as small as possible, path by path

N_v: examples of v.   |c|: items on path c. Without the penalty all items on one path would be best, and useless. The
two rules weigh the penalty against different things, so an α of one says nothing for the other.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tamis.nets.path_plan import AssignPlan


@dataclass(frozen=True, slots=True)
class PathScores:
    """The best-scored paths of each item, best first: paths [i, S], −1 behind the last one, and scores [i, S].

    A path that is not among them counts as 0.
    """

    paths: NDArray[np.int64]
    scores: NDArray[np.float64]

    @classmethod
    def empty(cls, items: int, kept: int) -> Self:
        """Scores of items that no example was seen of."""
        return cls(np.full((items, kept), -1, np.int64), np.zeros((items, kept)))

    def add(
        self, items: NDArray[np.int64], rows: NDArray[np.int64], found: tuple[NDArray[Any], NDArray[Any]], decay: float
    ) -> None:
        """Takes in examples in their order, in place: item items[e] was acted on by the user whose beam is rows[e].

        found: paths and probabilities [r, b] of each beam. With η the decay, a path in both lists becomes η·s + s′, one
        only of the old list η·s, a new one η·min s + s′, where the minimum is 0 while the list has room: what left a
        full list may have had as much as its least.
        """
        _add((self.paths, self.scores), items, rows, (found[0], found[1].astype(np.float64)), decay)


@njit(cache=True, nogil=True)
def _add(table: Any, items: Any, rows: Any, found: Any, decay: float) -> None:
    paths, scores = table
    new_paths, new_scores = found
    kept, extra = paths.shape[1], new_paths.shape[1]
    path, score = np.empty(kept + extra, np.int64), np.empty(kept + extra)
    for e in range(len(items)):
        item, row = items[e], rows[e]
        count = 0
        while count < kept and paths[item, count] >= 0:
            path[count] = paths[item, count]
            score[count] = scores[item, count] * decay
            count += 1
        old = count
        least = score[old - 1] if old == kept else 0.0  # the list is best first
        for b in range(extra):
            at = 0
            while at < old and path[at] != new_paths[row, b]:
                at += 1
            if at < old:
                score[at] += new_scores[row, b]
            else:
                path[count], score[count] = new_paths[row, b], least + new_scores[row, b]
                count += 1
        order = np.argsort(-score[:count], kind="mergesort")
        for place in range(min(kept, count)):
            paths[item, place], scores[item, place] = path[order[place]], score[order[place]]


def random_paths(items: NDArray[np.int64], count: int, shape: tuple[int, int], seed: int) -> NDArray[np.int64]:
    """[count, J] distinct random paths for the items named, −1 for all others. shape: (J, K^D); J is at most K^D."""
    most, possible = shape
    random, paths = np.random.default_rng(seed), np.full((count, most), -1, np.int64)
    if not len(items):
        return paths
    most = min(most, possible)
    first = random.integers(0, possible, len(items))
    # Distinct steps from the first one, so distinct paths: a draw per slot from its own part of the circle.
    cuts = np.linspace(0, possible, most + 1).astype(np.int64)
    steps = np.stack([random.integers(a, b, len(items)) for a, b in pairwise(cuts)], 1)
    paths[items, :most] = (first[:, None] + steps) % possible
    return paths


def assign(
    scores: PathScores, old: NDArray[np.int64], examples: NDArray[np.int64], plan: AssignPlan
) -> NDArray[np.int64]:
    """[i, J] new paths of each item, distinct, −1 where it has fewer; items without scores keep their old ones.

    old: [i, J] the paths so far.   examples: [i] N_v. Item after item is taken off its paths, given the best set and
    put back, `plan.sweeps` times over. The paper's set is built greedily, as long as a path gains; an old set that is
    worth more is kept, so no step makes the objective worse.
    """
    known = np.concatenate([scores.paths.ravel(), old.ravel()])
    codes, place = np.unique(known, return_inverse=True)  # code −1, when there, is place 0
    shift = int(len(codes) > 0 and codes[0] < 0)
    place = place.reshape(-1) - shift
    listed = place[: scores.paths.size].reshape(scores.paths.shape)
    chosen = place[scores.paths.size :].reshape(old.shape).copy()
    sizes = np.bincount(chosen[chosen >= 0], minlength=len(codes))
    table = (listed, scores.scores, examples.astype(np.float64))
    for _ in range(plan.sweeps):
        _sweep(table, chosen, sizes, plan.alpha, plan.penalty == "course")
    return np.where(chosen >= 0, codes[np.maximum(chosen, 0) + shift], -1) if len(codes) > shift else old.copy()


def objective(
    scores: PathScores, paths: NDArray[np.int64], examples: NDArray[np.int64], alpha: float
) -> tuple[float, float]:
    """(Σ_v N_v · log Σ_j s[v, π_j(v)], α · Σ_c f(|c|)): the paper's aim is their difference.

    The first leaves out items whose paths all count as 0.
    """
    same = (scores.paths[:, :, None] == paths[:, None, :]) & (paths[:, None, :] >= 0)
    sums = (same * scores.scores[:, :, None]).sum(axis=(1, 2))
    _, sizes = np.unique(paths[paths >= 0], return_counts=True)
    good = sums > 0
    return float((examples[good] * np.log(sums[good])).sum()), float(alpha * (sizes.astype(np.float64) ** 4).sum() / 4)


@njit(cache=True, nogil=True)
def _sweep(table: Any, chosen: Any, sizes: Any, alpha: float, course: bool) -> None:
    """One round over all items that have scores; changes `chosen` [i, J] and `sizes` [paths]."""
    listed, scores, examples = table
    most = chosen.shape[1]
    for item in range(len(chosen)):
        if listed[item, 0] < 0:
            continue
        for j in range(most):
            if chosen[item, j] >= 0:
                sizes[chosen[item, j]] -= 1
        if course:
            one_by_one(listed[item], scores[item], chosen[item], sizes, alpha)
        else:
            greedy(listed[item], scores[item], examples[item], chosen[item], sizes, alpha)
        for j in range(most):
            if chosen[item, j] >= 0:
                sizes[chosen[item, j]] += 1


@njit(cache=True, nogil=True)
def marginal(alpha: float, size: int) -> float:
    """α·(f(n + 1) − f(n)) with f(n) = n⁴/4: what one more item on a path of n items costs."""
    return alpha * ((size + 1.0) ** 4 - float(size) ** 4) / 4.0


@njit(cache=True, nogil=True)
def greedy(listed: Any, scores: Any, examples: float, chosen: Any, sizes: Any, alpha: float) -> None:
    """The paper's rule for one item: fills `chosen` [J] with its set.

    Gain of a path c beside a set of sum S: N·(log(S + s[c]) − log S) − marginal(|c|); of the first N·log s[c] − …
    listed, scores: [S] its paths and their scores, −1 at the end.   sizes: of all paths, this item taken off.
    """
    most = len(chosen)
    fresh, total, worth = np.full(most, -1, chosen.dtype), 0.0, 0.0
    for j in range(most):
        best, gain = -1, -np.inf
        for place in range(len(listed)):
            if listed[place] < 0:
                break
            if scores[place] > 0 and not (fresh[:j] == listed[place]).any():
                before = np.log(total) if j else 0.0
                value = examples * (np.log(total + scores[place]) - before) - marginal(alpha, sizes[listed[place]])
                if value > gain:
                    best, gain = place, value
        if best < 0 or (j and gain <= 0):
            break
        fresh[j] = listed[best]
        total += scores[best]
        worth += gain
    if fresh[0] >= 0 and worth > _worth(listed, scores, examples, chosen, sizes, alpha):
        chosen[:] = fresh


@njit(cache=True, nogil=True)
def _worth(listed: Any, scores: Any, examples: float, chosen: Any, sizes: Any, alpha: float) -> float:
    """What the paper's objective gains by putting the item on `chosen`; −inf when its paths all count as 0."""
    total = 0.0
    cost = 0.0
    for path in chosen:
        if path >= 0:
            total += score_of(listed, scores, path)
            cost += marginal(alpha, sizes[path])
    return examples * np.log(total) - cost if total > 0 else -np.inf


@njit(cache=True, nogil=True)
def score_of(listed: Any, scores: Any, path: int) -> float:
    """The score of a path in an item's list, 0 when it is not there."""
    for place in range(len(listed)):
        if listed[place] == path:
            return scores[place]  # type: ignore[no-any-return]
    return 0.0


@njit(cache=True, nogil=True)
def one_by_one(listed: Any, scores: Any, chosen: Any, sizes: Any, alpha: float) -> None:
    """The course's rule for one item: replaces each path of `chosen` [J] in turn, the others held.

    It takes the c of least −log(others + s[c]) + α·|c|⁴ among the path it has and those listed, none twice.
    """
    for j in range(len(chosen)):
        others = 0.0
        for other in range(len(chosen)):
            if other != j and chosen[other] >= 0:
                others += score_of(listed, scores, chosen[other])
        best, least = chosen[j], np.inf
        if best >= 0:
            total = others + score_of(listed, scores, best)
            least = alpha * float(sizes[best]) ** 4 - np.log(total) if total > 0 else np.inf
        for place in range(len(listed)):
            path = listed[place]
            if path < 0:
                break
            if others + scores[place] > 0 and not (chosen == path).any():
                loss = alpha * float(sizes[path]) ** 4 - np.log(others + scores[place])
                if loss < least:
                    best, least = path, loss
        chosen[j] = best
