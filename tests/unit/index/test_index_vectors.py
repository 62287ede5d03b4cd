from pathlib import Path

import numpy as np
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import ArtifactError
from tamis.index.scan import Scan
from tamis.index.vectors import Kind, Vectors, VectorsConfig

KINDS: tuple[Kind, ...] = ("exact", "flat", "ivf", "hnsw", "scan")


def unit(rng: np.random.Generator, count: int, width: int = 16) -> np.ndarray:
    """Clustered unit vectors."""
    centres = np.random.default_rng(99).normal(size=(12, width))
    vectors = centres[rng.integers(0, 12, count)] + 0.5 * rng.normal(size=(count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def nearest(vectors: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(vectors @ query), kind="stable")[:k]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return unit(np.random.default_rng(1), 3000)


@pytest.mark.parametrize("kind", KINDS)
def test_finds_nearly_all_of_the_exact_answer_in_order_with_exact_scores(kind: Kind, vectors: np.ndarray) -> None:
    index = Vectors.build(vectors, VectorsConfig(kind=kind), k=50)
    queries = unit(np.random.default_rng(2), 40)
    ids, scores = index.search(queries, 50)
    pairs = zip(ids, queries, strict=True)
    share = np.mean([len(np.intersect1d(row, nearest(vectors, query, 50))) / 50 for row, query in pairs])
    assert share > 0.97
    assert index.facts.recall >= 0.99
    assert (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_allclose(scores, np.einsum("bkd,bd->bk", vectors[ids], queries), atol=1e-6)


def test_reading_every_list_finds_everything(vectors: np.ndarray) -> None:
    index = Vectors.build(vectors, VectorsConfig(kind="ivf", recall_target=1.0), k=20)
    assert index.facts.recall == 1.0


@pytest.mark.parametrize("width", [9, 31, 33])
def test_inverted_lists_of_an_odd_width_answer_as_the_exact_search_does(width: int, tmp_path: Path) -> None:
    vectors = np.random.default_rng(4).normal(size=(500, width)).astype(np.float32)
    index = Vectors.build(vectors, VectorsConfig(kind="ivf", recall_target=1.0), k=20)
    assert index.width == width
    assert index.index.d % 8 == 0
    exact = Vectors.build(vectors, VectorsConfig(kind="exact")).search(vectors[:30], 20)
    index.save(tmp_path)
    for each in (index, Vectors.load(tmp_path)):
        np.testing.assert_array_equal(each.search(vectors[:30], 20)[0], exact[0])


def test_a_higher_target_reads_more_lists(vectors: np.ndarray) -> None:
    low = Vectors.build(vectors, VectorsConfig(kind="ivf", recall_target=0.5))
    high = Vectors.build(vectors, VectorsConfig(kind="ivf", recall_target=0.99))
    assert low.facts.effort < high.facts.effort
    assert low.facts.recall < high.facts.recall


def test_asking_for_more_reads_more_lists(vectors: np.ndarray) -> None:
    few, many = (Vectors.build(vectors, VectorsConfig(kind="ivf"), k=k) for k in (10, 400))
    assert few.facts.effort < many.facts.effort
    assert many.facts.recall >= 0.99


def test_the_size_of_the_catalogue_chooses_the_index(vectors: np.ndarray) -> None:
    assert Vectors.build(vectors[:500], VectorsConfig(exact_up_to=500)).facts.kind == "exact"
    assert Vectors.build(vectors[:501], VectorsConfig(exact_up_to=500), k=1).facts.kind == "ivf"


def test_vectors_that_lists_do_not_divide_are_scanned() -> None:
    spread = np.random.default_rng(5).normal(size=(3000, 32)).astype(np.float32)
    built = Vectors.build(spread, VectorsConfig(exact_up_to=100), k=300)
    assert built.facts.kind == "scan"
    assert built.facts.recall >= 0.99
    assert Vectors.build(spread, VectorsConfig(kind="ivf"), k=300).facts.kind == "ivf"


def test_queries_for_which_bytes_are_too_coarse_read_lists() -> None:
    vectors = np.random.default_rng(5).normal(size=(3000, 32)).astype(np.float32)
    vectors[0, 0] = 1000  # takes the range of its column, so that all others are the same byte there
    queries = np.full((20, 32), 0.05, np.float32)
    queries[:, 0] = 1
    built = Vectors.build(vectors, VectorsConfig(exact_up_to=100), k=300, queries=queries)
    assert built.facts.kind == "ivf"
    scan = Vectors.build(vectors, VectorsConfig(kind="scan"), k=300, queries=queries)
    assert scan.facts.effort > 4
    assert scan.facts.recall >= 0.99


def test_a_scan_of_columns_of_unlike_size_finds_what_counts() -> None:
    random = np.random.default_rng(6)
    vectors = (random.normal(size=(2000, 12)) * 10.0 ** np.arange(-6, 6)).astype(np.float32)
    queries = (random.normal(size=(20, 12)) / 10.0 ** np.arange(-6, 6)).astype(np.float32)
    built = Vectors.build(vectors, VectorsConfig(kind="scan"), k=50, queries=queries)
    assert built.facts.effort == 1
    found = built.search(queries, 50)[0]
    share = [len(np.intersect1d(row, nearest(vectors, q, 50))) for row, q in zip(found, queries, strict=True)]
    assert np.mean(share) > 49


def test_equal_scores_come_in_order_of_id_even_at_the_cut() -> None:
    vectors = np.zeros((30, 4), np.float32)
    vectors[:, 0] = 1
    vectors[7, 0] = 2
    ids, scores = Vectors.build(vectors, VectorsConfig()).search(np.eye(1, 4, dtype=np.float32), 4)
    assert ids.tolist() == [[7, 0, 1, 2]]
    assert scores.tolist() == [[2, 1, 1, 1]]


@pytest.mark.parametrize("kind", KINDS)
def test_more_than_there_is_comes_padded(kind: Kind) -> None:
    vectors = unit(np.random.default_rng(3), 5)
    ids, scores = Vectors.build(vectors, VectorsConfig(kind=kind, recall_target=1.0)).search(vectors[:2], 8)
    assert sorted(ids[0, :5]) == [0, 1, 2, 3, 4]
    assert (ids[:, 5:] == -1).all()
    assert np.isneginf(scores[:, 5:]).all()
    assert ids[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_index_finds_nothing(kind: Kind, tmp_path: Path) -> None:
    index = Vectors.build(np.empty((0, 4), np.float32), VectorsConfig(kind=kind))
    index.save(tmp_path)
    for each in (index, Vectors.load(tmp_path)):
        ids, scores = each.search(np.ones((2, 4), np.float32), 3)
        assert (ids == -1).all()
        assert np.isneginf(scores).all()


def test_no_queries_and_no_k_give_empty_answers(vectors: np.ndarray) -> None:
    index = Vectors.build(vectors, VectorsConfig())
    assert index.search(vectors[:0], 5)[0].shape == (0, 5)
    assert index.search(vectors[:2], 0)[0].shape == (2, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_vectors_are_found_beside_the_index_and_the_old_object_stays(kind: Kind, vectors: np.ndarray) -> None:
    old = Vectors.build(vectors, VectorsConfig(kind=kind))
    fresh = unit(np.random.default_rng(4), 6)
    new = old.with_fresh(fresh[:2]).with_fresh(fresh[2:])
    assert len(new) == 3006
    assert len(old) == 3000
    assert new.search(fresh, 1)[0][:, 0].tolist() == [3000, 3001, 3002, 3003, 3004, 3005]
    assert (old.search(fresh, 10)[0] < 3000).all()
    both = np.concatenate([vectors, fresh])
    np.testing.assert_array_equal(new.take(np.array([3001, 5, 3005])), both[[3001, 5, 3005]])


def test_the_same_fresh_vectors_are_checked_and_joined_once() -> None:
    index = Vectors.build(np.eye(4, dtype=np.float32), VectorsConfig())
    fresh, others = np.ones((2, 4), np.float32), np.ones((2, 4), np.float32)
    grown = index.with_fresh(fresh)
    assert index.with_fresh(fresh) is grown
    assert index.with_fresh(others) is not grown
    assert index.with_fresh(others[:0]).fresh.shape == (0, 4)
    assert len(grown.with_fresh(fresh)) == 8  # what was kept is of one index, not of those made from it


def test_a_fresh_copy_of_an_old_vector_comes_after_it() -> None:
    vectors = np.eye(3, dtype=np.float32)
    index = Vectors.build(vectors, VectorsConfig()).with_fresh(vectors[1:2])
    assert index.search(vectors[1:2], 2)[0].tolist() == [[1, 3]]


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_answers_the_same(kind: Kind, vectors: np.ndarray, tmp_path: Path) -> None:
    index = Vectors.build(vectors, VectorsConfig(kind=kind)).with_fresh(vectors[:3] * 0.5)
    index.save(tmp_path)
    loaded = Vectors.load(tmp_path)
    assert loaded.facts == index.facts
    for mine, theirs in zip(index.search(vectors[:20], 30), loaded.search(vectors[:20], 30), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_building_twice_writes_the_same_bytes(kind: Kind, vectors: np.ndarray, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Vectors.build(vectors, VectorsConfig(kind=kind), seed=3).save(tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_a_damaged_folder_is_refused_by_name(vectors: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"vectors\.json"):
        Vectors.load(tmp_path)
    Vectors.build(vectors, VectorsConfig(kind="ivf")).save(tmp_path)
    (tmp_path / "vectors.faiss").write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match=r"vectors\.faiss"):
        Vectors.load(tmp_path)


def test_wrong_arguments_are_named(vectors: np.ndarray) -> None:
    index = Vectors.build(vectors, VectorsConfig())
    broken = vectors[:2].copy()
    broken[1, 3] = np.nan
    with pytest.raises(ValueError, match="vectors"):
        index.search(broken, 3)
    with pytest.raises(ValueError, match=r"shape \(2, 5\)"):
        index.search(np.zeros((2, 5), np.float32), 3)
    with pytest.raises(ValueError, match="k is -1"):
        index.search(vectors[:1], -1)
    with pytest.raises(ValueError, match="vectors"):
        Vectors.build(broken, VectorsConfig())
    with pytest.raises(ValueError, match="queries"):
        Vectors.build(vectors, VectorsConfig(kind="ivf"), queries=np.zeros((1, 3), np.float32))


def test_inner_product_prefers_length_and_unit_vectors_prefer_direction() -> None:
    pair = np.array([[10, 10], [1, 0]], np.float32)
    query = np.array([[1, 0]], np.float32)
    assert Vectors.build(pair, VectorsConfig()).search(query, 1)[0].tolist() == [[0]]
    pair /= np.linalg.norm(pair, axis=1, keepdims=True)
    assert Vectors.build(pair, VectorsConfig()).search(query, 1)[0].tolist() == [[1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_vectors_of_any_length_are_searched_by_inner_product(kind: Kind, spread: float) -> None:
    rng = np.random.default_rng(5)
    vectors = unit(rng, 3000) * np.exp(spread * rng.normal(size=(3000, 1))).astype(np.float32) * 30
    queries = unit(rng, 60) * 7
    index = Vectors.build(vectors, VectorsConfig(kind=kind), k=50, queries=queries)
    ids, scores = index.search(queries, 50)
    share = [
        len(np.intersect1d(row, nearest(vectors, query, 50))) / 50 for row, query in zip(ids, queries, strict=True)
    ]
    assert np.mean(share) >= 0.985
    assert index.facts.recall == pytest.approx(np.mean(share), abs=0.005)
    np.testing.assert_allclose(scores, np.einsum("bkd,bd->bk", vectors[ids], queries), rtol=1e-4, atol=1e-3)
    if kind in ("exact", "flat"):
        assert index.facts.recall == 1.0  # rounding of large scores is no miss


def test_a_fresh_vector_of_great_length_comes_before_all_others(vectors: np.ndarray) -> None:
    long = vectors[:1] * 100
    ids, scores = Vectors.build(vectors, VectorsConfig(kind="ivf")).with_fresh(long).search(vectors[:1], 2)
    assert ids[0, 0] == 3000
    assert scores[0, 0] == pytest.approx(100, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_catalogue_of_one_item_is_found_whatever_is_asked(kind: Kind) -> None:
    index = Vectors.build(np.array([[0.0, -3.0]], np.float32), VectorsConfig(kind=kind), k=200)
    ids, scores = index.search(np.array([[1.0, 1.0], [0.0, 0.0]], np.float32), 3)
    assert ids.tolist() == [[0, -1, -1], [0, -1, -1]]
    assert scores[:, 0].tolist() == [-3.0, 0.0]
    assert index.facts.recall == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_measured_recall_is_printed_when_the_index_is_built(kind: Kind, vectors: np.ndarray) -> None:
    with structlog.testing.capture_logs() as lines:
        index = Vectors.build(vectors, VectorsConfig(kind=kind), k=50)
    wanted = {"event": "index built", "kind": kind, "items": 3000, "k": 50, "recall": index.facts.recall}
    assert [{name: line[name] for name in wanted} for line in lines] == [wanted]


@given(st.integers(0, 60), st.integers(0, 8), st.integers(1, 20), st.integers(0, 2**31))
def test_exact_search_is_a_stable_sort(count: int, fresh: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (count + fresh, 3)).astype(np.float32)  # small whole numbers: many ties, no rounding
    query = rng.integers(-2, 3, (2, 3)).astype(np.float32)
    index = Vectors.build(vectors[:count], VectorsConfig()).with_fresh(vectors[count:])
    ids, _ = index.search(query, k)
    for row, one in zip(ids, query, strict=True):
        assert row[row >= 0].tolist() == nearest(vectors, one, k).tolist()


@settings(deadline=None)  # the first call compiles
@given(
    rows=st.lists(st.integers(-3, 3), min_size=1, max_size=120), k=st.integers(1, 130), sign=st.sampled_from([-1, 1])
)
def test_a_scan_gives_the_k_largest_and_what_ties_with_the_last(rows: list[int], k: int, sign: int) -> None:
    column = sign * np.array(rows, np.float32)
    near = Scan.of(column[:, None]).near(np.ones(1, np.float32), k)
    least = np.sort(column)[max(0, len(column) - k)]
    assert near.tolist() == np.flatnonzero(column >= least).tolist()
