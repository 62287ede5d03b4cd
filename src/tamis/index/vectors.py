"""Vectors and the one verb that finds the nearest: exact for small catalogues, FAISS for large ones.

    n ≤ exact_up_to     numpy: one product, one partition
    more                inverted lists of 8-bit vectors (IVF-SQ8): a fraction of the lists is read, the best are then
                        scored again with the full vectors, so that scores and order are exact whatever the index

    … and scattered       all vectors as bytes, see `scan`: where the lists do not divide them, reading a list after the
                        other costs more than reading all at once

Measured on one core for 300 nearest at a share of 0.99 found: of 20,000 × 32 numpy 0.18 ms, IVF-SQ8 0.15, HNSW 0.43; of
100,000 × 32 numpy 0.84 ms, IVF-SQ8 0.10, HNSW 0.26. How many lists are read is tuned when the index is built.
Scores are inner products, of unit vectors cosines. Vectors may have any length (those of a matrix factorization do):
recall is measured on the products when the index is built, printed and kept in its facts.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

import faiss
import numpy as np
import structlog
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays
from tamis.config import AtLeastZero, Config
from tamis.data.picks import evenly
from tamis.errors import ArtifactError
from tamis.facts import load_facts, save_facts
from tamis.index.scan import Scan
from tamis.order import best_first
from tamis.types import gather

log = structlog.get_logger(__name__)
Kind = Literal["auto", "exact", "flat", "ivf", "hnsw", "scan"]
Built = Literal["exact", "flat", "ivf", "hnsw", "scan"]

_INDEX_FILE: Final = "vectors.faiss"
_FACTS_FILE: Final = "vectors.json"
_SCORES_AT_ONCE: Final = 1 << 22  # numbers of one block of an exact search: 16 MB
_KMEANS_ROUNDS: Final = 10
_POINTS_PER_LIST: Final = 64  # most points per list that k-means looks at
_ROUNDING: Final = 1e-6  # of a float32 score, relative: the same product, summed in another order
_EVEN: Final = 8  # FAISS reads 8-bit vectors whose width is a multiple of this 4 to 12 times as fast as others
_EXTRA: Final = 16  # an approximate index is asked for k + k / 4 + _EXTRA rows, the full vectors choose among them
_SCAN_LISTS: Final = 4  # a scan of all costs about what IVF takes for one in so many of its lists
_SCAN_EFFORT: Final = 4  # … unless more than this is needed: then bytes are too coarse for these queries


class VectorsConfig(Config, frozen=True):
    """Which index to build and how exact it must be."""

    kind: Kind = "auto"  # auto: exact by size, else ivf, or scan where that had to read more than a quarter
    exact_up_to: AtLeastZero = 20_000  # auto: catalogues up to this size are searched exactly
    recall_target: float = 0.99  # the index reads more until this share of the exact answer is found
    recall_queries: int = 200  # … for so many queries
    hnsw_links: int = 32  # links per vector of the HNSW graph

    def __post_init__(self) -> None:
        if not 0 < self.recall_target <= 1:
            raise ValueError(f"recall_target {self.recall_target}: wanted inside (0, 1]")
        if self.recall_queries < 1 or self.hnsw_links < 2:
            raise ValueError("recall_queries must be at least 1, hnsw_links at least 2")


class IndexFacts(Config, frozen=True):
    """What was built.

    effort: lists read (ivf), nodes kept in view (hnsw), or how many times k / 4 + 16 rows more than k are scored by
    their full vectors (scan). recall: measured share of the exact answer.
    """

    kind: Built
    effort: int
    recall: float


@dataclass(frozen=True, slots=True)
class Vectors:
    """n vectors with their index, and f fresh ones searched exactly beside it. Row = id; fresh ids start at n."""

    main: NDArray[np.float32]  # [n, d] often memory-mapped
    fresh: NDArray[np.float32]  # [f, d]
    facts: IndexFacts
    index: Any  # a FAISS index or a Scan; None: exact
    _latest: "list[tuple[NDArray[np.float32], Vectors]]" = field(default_factory=list, init=False, compare=False)

    @staticmethod
    def build(
        vectors: NDArray[np.float32],
        config: VectorsConfig,
        k: int = 200,
        queries: NDArray[np.float32] | None = None,
        seed: int = 0,
    ) -> "Vectors":
        """The index of `vectors` [n, d], tuned until it reaches `config.recall_target`.

        k: how many will be asked for; an index tuned for few finds a smaller share of many.
        queries: [q, d] what will be asked (for two towers: user vectors), to measure recall with, of many some at
        equal distances; by default a sample of the vectors themselves. Same arguments, same bytes. Raises ValueError
        for NaN or another shape.
        """
        vectors = _checked(vectors, "vectors")
        kind = _chosen(config, len(vectors))
        built = Vectors(vectors, vectors[:0], IndexFacts(kind=kind, effort=0, recall=1.0), None)
        if kind == "exact":
            return _told(built, k)
        faiss.omp_set_num_threads(1)  # a parallel build is not repeatable
        sample = np.random.default_rng(seed).permutation(len(vectors))[: config.recall_queries]
        asked = vectors[np.sort(sample)] if queries is None else _checked(queries, "queries", vectors.shape[1])
        asked = evenly(asked, config.recall_queries)
        index = _index(kind, vectors, config, seed)
        tuned = _tuned(replace(built, index=index), asked, k, config.recall_target)
        if config.kind == "auto" and tuned.facts.effort * _SCAN_LISTS > index.nlist:
            facts = IndexFacts(kind="scan", effort=0, recall=1.0)
            scan = _tuned(replace(built, facts=facts, index=Scan.of(vectors)), asked, k, config.recall_target)
            tuned = scan if scan.facts.effort <= _SCAN_EFFORT else tuned
        return _told(tuned, k)

    def __len__(self) -> int:
        return len(self.main) + len(self.fresh)

    @property
    def width(self) -> int:
        """d, numbers per vector."""
        return int(self.main.shape[1])

    def take(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """[n, d] the vectors of ids that exist."""
        return gather((self.main, self.fresh), ids)

    def with_fresh(self, vectors: NDArray[np.float32]) -> "Vectors":
        """The same index with more vectors behind the last id. Cost grows with the fresh part only; keep that small.

        The very array of the call before gives what that call gave, so requests may ask for it each time; it must not
        be changed.
        """
        for given, grown in self._latest:  # one at most
            if given is vectors:
                return grown
        grown = replace(self, fresh=np.concatenate([self.fresh, _checked(vectors, "vectors", self.width)]))
        self._latest[:] = [(vectors, grown)]  # one reference, replaced whole: threads at worst do the work twice
        return grown

    def search(self, vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids, scores) [b, k]: of each query [b, d] the k largest inner products, best first, ties by lower id.

        Where less than k were found: id −1 and score −inf. Runs in the calling thread alone; threads may share it.
        Raises ValueError for NaN, another width, or a negative k.
        """
        queries = _checked(vectors, "vectors", self.width)
        if k < 0:
            raise ValueError(f"k is {k}: wanted 0 or more")
        ids = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        if not k:
            return ids, scores
        rows = max(1, _SCORES_AT_ONCE // max(1, len(self.main)))
        for start in range(0, len(queries), rows):
            block = queries[start : start + rows]
            for row, (found, score) in enumerate(self._found(block, k), start):
                if len(self.fresh):
                    found, score = _joined(found, score, self.fresh @ queries[row], len(self.main), k)
                ids[row, : len(found)], scores[row, : len(found)] = found, score
        return ids, scores

    def _found(self, queries: NDArray[np.float32], k: int) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Per query the ids and scores of the main part, at most k, best first."""
        if self.index is None:
            return [(top, row[top]) for row in queries @ self.main.T for top in (_top(row, k),)]
        answers = []
        for query, found in zip(queries, self._near(queries, k), strict=True):
            score = self.main.take(found, axis=0) @ query
            best = best_first(found, score)[:k]
            answers.append((found[best], score[best]))
        return answers

    def _near(self, queries: NDArray[np.float32], k: int) -> list[NDArray[np.int64]]:
        """Per query the rows that the approximate index names, somewhat more than k."""
        more = k // 4 + _EXTRA
        if isinstance(self.index, Scan):
            return [self.index.near(query, k + more * self.facts.effort) for query in queries]
        faiss.omp_set_num_threads(1)  # a setting of the calling thread: one request, one core
        _, near = self.index.search(_widened(queries, self.index.d), min(len(self.main), k + more))
        return [row[row >= 0] for row in near]

    def save(self, folder: Path) -> None:
        """Writes vectors.npy, fresh.npy, vectors.json and, unless exact, vectors.faiss or the arrays of the scan."""
        save_arrays(folder, vectors=self.main, fresh=self.fresh)
        save_facts(folder / _FACTS_FILE, self.facts)
        if isinstance(self.index, Scan):
            self.index.save(folder)
        elif self.index is not None:
            faiss.write_index(self.index, str(folder / _INDEX_FILE))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote, vectors and index memory-mapped. Raises ArtifactError when a file is missing or broken."""
        facts = load_facts(folder / _FACTS_FILE, IndexFacts)
        index: Any = None
        if facts.kind == "scan":
            index = Scan.load(folder)
        elif facts.kind != "exact":
            try:
                index = faiss.read_index(str(folder / _INDEX_FILE), faiss.IO_FLAG_MMAP_IFC)
            except RuntimeError as error:
                raise ArtifactError(f"{folder / _INDEX_FILE}: {error}") from None
            _set_effort(index, facts)
        return cls(load_array(folder, "vectors"), np.array(load_array(folder, "fresh")), facts, index)


def _checked(vectors: NDArray[np.float32], name: str, width: int | None = None) -> NDArray[np.float32]:
    """The vectors as float32 rows, contiguous. Raises ValueError naming the argument."""
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or (width is not None and vectors.shape[1] != width):
        raise ValueError(f"{name}: shape {vectors.shape}, wanted [rows, {'width' if width is None else width}]")
    vectors = np.ascontiguousarray(vectors, np.float32)
    if not np.isfinite(vectors).all():
        raise ValueError(f"{name}: not all numbers are finite")
    return vectors


def _widened(vectors: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """The vectors with zeros behind them, which change no product."""
    if vectors.shape[1] == width:
        return vectors
    wide = np.zeros((len(vectors), width), np.float32)
    wide[:, : vectors.shape[1]] = vectors
    return wide


def _chosen(config: VectorsConfig, count: int) -> Built:
    if config.kind == "auto":
        return "exact" if count <= config.exact_up_to else "ivf"
    return config.kind if count else "exact"


def _index(kind: Kind, vectors: NDArray[np.float32], config: VectorsConfig, seed: int) -> Any:
    """The index with all vectors in it."""
    count, width = vectors.shape
    index: Any
    if kind == "scan":
        return Scan.of(vectors)
    if kind == "flat":
        index = faiss.IndexFlatIP(width)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, config.hnsw_links, faiss.METRIC_INNER_PRODUCT)
    else:  # 4·√n lists, but never so many that k-means has less than 39 points for one: FAISS warns below that
        lists = max(1, min(int(4 * math.sqrt(count)), count // 39))
        vectors = _widened(vectors, -(-width // _EVEN) * _EVEN)
        index = faiss.index_factory(vectors.shape[1], f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = seed % 2**31
        index.cp.niter = _KMEANS_ROUNDS
        index.cp.max_points_per_centroid = _POINTS_PER_LIST
        index.cp.min_points_per_centroid = 1
        index.train(vectors)
    index.add(vectors)
    return index


def _set_effort(index: Any, facts: IndexFacts) -> None:
    if facts.kind == "ivf":
        index.nprobe = facts.effort
    elif facts.kind == "hnsw":
        index.hnsw.efSearch = facts.effort


def _tuned(built: Vectors, queries: NDArray[np.float32], k: int, target: float) -> Vectors:
    """`built` with the least effort, in powers of two, that reaches the recall target; with all of it if none does."""
    k = max(1, min(k, len(built.main)))
    truth = replace(built, index=None).search(queries, k)[1][:, -1:]
    near = truth - _ROUNDING * (1 + np.abs(truth))  # vectors may have any length, and so has what rounding leaves
    every = len(built.main)
    most = {"ivf": getattr(built.index, "nlist", 1), "hnsw": every, "scan": every}.get(built.facts.kind, 1)
    effort = 1
    while True:
        facts = IndexFacts(kind=built.facts.kind, effort=effort, recall=0.0)
        built = replace(built, facts=facts)
        _set_effort(built.index, facts)
        # An item as near as the k-th exact one counts as found: with ties there are several right answers.
        recall = float((built.search(queries, k)[1] >= near).mean()) if len(queries) else 1.0
        if recall >= target or effort >= most:
            return replace(built, facts=IndexFacts(kind=facts.kind, effort=effort, recall=recall))
        effort = min(2 * effort, most)


def _told(built: Vectors, k: int) -> Vectors:
    """The same, after a line in the log that says what was built and what share of the exact answer it finds."""
    facts, asked = built.facts, min(k, len(built.main))
    log.info("index built", kind=facts.kind, items=len(built.main), effort=facts.effort, k=asked, recall=facts.recall)
    return built


def _top(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Rows of the k largest scores, best first; of equal ones the lower row."""
    if k >= len(scores):
        return np.argsort(-scores, kind="stable")
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    found = np.flatnonzero(scores >= least)  # more than k only when several rows tie for the last place
    return np.asarray(found[np.argsort(-scores[found], kind="stable")][:k])


def _joined(
    found: NDArray[np.int64], score: NDArray[np.float32], fresh_score: NDArray[np.float32], offset: int, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k ≥ 1 best of the main part's answer, best first, and of the fresh part, whose ids start at `offset`."""
    better = np.flatnonzero(fresh_score > score[-1]) if len(found) == k else np.arange(len(fresh_score))
    if not len(better):
        return found, score
    ids = np.concatenate([found, better + offset])
    scores = np.concatenate([score, fresh_score[better]])
    best = best_first(ids, scores)[:k]
    return ids[best], scores[best]
