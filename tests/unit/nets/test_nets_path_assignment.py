"""T-12.4 to T-12.10 without a net: scores of paths, penalties, and what an assignment may not do."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import ConfigError
from tamis.nets.path_assignment import PathScores, assign, greedy, marginal, objective, one_by_one, random_paths
from tamis.nets.path_plan import AssignPlan

PLAN = AssignPlan(paths=3, penalty="paper", alpha=1e-2, kept=8, decay=0.999, sweeps=1)


def test_what_one_more_item_costs() -> None:
    for size, wanted in ((0, 0.25), (1, 3.75), (2, 16.25), (9, 859.75), (20, 8620.25)):
        assert marginal(1.0, size) == wanted


A, B, C = 0, 1, 2  # s = 1.0, 0.9, 0.5 with 20, 2 and 0 items on them


def papers_choice(alpha: float, most: int, paths: tuple[int, ...] = (A, B)) -> list[int]:
    chosen = np.full(most, -1, np.int64)
    scores = np.array([1.0, 0.9, 0.5])[list(paths)]
    greedy(np.array(paths), scores, 2.0, chosen, np.array([20, 2, 0]), alpha)
    return chosen.tolist()


def test_a_crowded_path_loses_against_a_slightly_worse_empty_one() -> None:
    assert papers_choice(3e-5, 1) == [B]
    assert papers_choice(0.0, 1) == [A]
    gain_a = 2 * math.log(1.0) - marginal(3e-5, 20)
    gain_b = 2 * math.log(0.9) - marginal(3e-5, 2)
    assert (gain_a, gain_b) == (pytest.approx(-0.258608, abs=1e-6), pytest.approx(-0.211209, abs=1e-6))


def test_the_second_path_is_the_one_that_adds_most_to_the_first() -> None:
    assert papers_choice(3e-5, 2, (A, B, C)) == [B, A]
    gain_a = 2 * (math.log(1.9) - math.log(0.9)) - marginal(3e-5, 20)
    gain_c = 2 * (math.log(1.4) - math.log(0.9)) - marginal(3e-5, 0)
    assert (gain_a, gain_c) == (pytest.approx(1.235821, abs=1e-6), pytest.approx(0.883658, abs=1e-6))


def test_a_path_that_costs_more_than_it_gains_is_left_out() -> None:
    assert papers_choice(1e-2, 3, (A, B, C)) == [B, C, -1]  # A would cost 86


def test_the_courses_rule_weighs_the_whole_path() -> None:
    chosen = np.array([A])
    one_by_one(np.array([A, B]), np.array([1.0, 0.9]), chosen, np.array([20, 2, 0]), 3e-5)
    assert chosen.tolist() == [B]
    assert 3e-5 * 20**4 - math.log(1.0) == pytest.approx(4.8)
    assert 3e-5 * 2**4 - math.log(0.9) == pytest.approx(0.105841, abs=1e-6)


def test_the_courses_rule_holds_the_other_paths_and_takes_none_twice() -> None:
    chosen = np.array([B, -1, -1])
    one_by_one(np.array([A, B, C]), np.array([1.0, 0.9, 0.5]), chosen, np.zeros(3, np.int64), 0.0)
    assert sorted(chosen.tolist()) == [A, B, C]


def test_scores_stream_in_and_decay() -> None:
    scores = PathScores(np.array([[1, 2]]), np.array([[5.0, 3.0]]))
    found = np.array([[2, 3]]), np.array([[0.4, 0.2]])
    scores.add(np.array([0]), np.array([0]), found, 0.999)
    assert scores.paths.tolist() == [[1, 2]]
    assert scores.scores[0] == pytest.approx([4.995, 3.397])
    roomier = PathScores(np.array([[1, 2, -1]]), np.array([[5.0, 3.0, 0.0]]))
    roomier.add(np.array([0]), np.array([0]), found, 0.999)
    assert roomier.paths.tolist() == [[1, 2, 3]]
    assert roomier.scores[0] == pytest.approx([4.995, 3.397, 0.2])  # nothing was cut off yet, so it had 0
    better = np.array([[3, 4]]), np.array([[2.5, 0.1]])
    scores.add(np.array([0]), np.array([0]), better, 1.0)
    assert scores.paths.tolist() == [[3, 1]]
    assert scores.scores[0] == pytest.approx([3.397 + 2.5, 4.995])


def test_without_decay_and_with_room_scores_are_the_sums_over_the_users() -> None:
    random = np.random.default_rng(0)
    paths, shares = np.argsort(random.random((5, 6)), axis=1), random.random((5, 6))
    items, rows = random.integers(0, 3, 40), random.integers(0, 5, 40)
    scores = PathScores.empty(3, 6)
    scores.add(items, rows, (paths, shares), 1.0)
    wanted = np.zeros((3, 6))
    for item, row in zip(items, rows, strict=True):
        wanted[item, paths[row]] += shares[row]
    np.testing.assert_allclose(np.take_along_axis(wanted, scores.paths, 1), scores.scores, rtol=1e-12)
    assert (np.diff(scores.scores, axis=1) <= 0).all()


def test_the_log_of_a_sum_is_above_the_sum_of_logs() -> None:
    bound, exact = math.log(0.2) + math.log(0.05), 2 * (math.log(0.25) - math.log(2))
    assert (bound, exact) == (pytest.approx(-4.605170, abs=1e-6), pytest.approx(-4.158883, abs=1e-6))
    assert bound <= exact


@st.composite
def cases(draw: st.DrawFn) -> tuple[PathScores, np.ndarray, np.ndarray]:
    """Scores, old paths and numbers of examples of a few items; few paths, so that they crowd."""
    items, paths = draw(st.integers(1, 12)), draw(st.integers(3, 8))
    random = np.random.default_rng(draw(st.integers(0, 100_000)))
    order = np.argsort(random.random((items, paths)), axis=1)
    scores = -np.sort(-random.exponential(size=(items, paths)), axis=1)
    kept = random.integers(0, paths + 1, items)[:, None] <= np.arange(paths)
    order[kept], scores[kept] = -1, 0.0
    old = random_paths(np.arange(items), items, (3, paths), int(random.integers(100)))
    return PathScores(order, scores), old, random.integers(1, 20, items)


@settings(deadline=None)
@given(cases(), st.sampled_from([0.0, 1e-3, 0.1, 1.0]))
def test_no_sweep_of_the_papers_rule_makes_the_objective_worse(case, alpha: float) -> None:
    scores, paths, examples = case
    plan = replace(PLAN, alpha=alpha)
    worth = None
    for _ in range(4):
        paths = assign(scores, paths, examples, plan)
        good, bad = objective(scores, paths, examples, alpha)
        assert worth is None or good - bad >= worth - 1e-9 * max(1.0, abs(worth))
        worth = good - bad


@settings(deadline=None)
@given(cases(), st.sampled_from(["paper", "course"]), st.sampled_from([0.0, 0.1]))
def test_every_item_has_one_to_j_distinct_paths_of_its_list_or_its_old_ones(case, penalty: str, alpha: float) -> None:
    scores, old, examples = case
    before = old.copy()
    new = assign(scores, old, examples, replace(PLAN, penalty=penalty, alpha=alpha, sweeps=2))
    assert (old == before).all()
    for item, row in enumerate(new):
        own = row[row >= 0].tolist()
        assert 1 <= len(own) == len(set(own)) <= 3
        assert set(own) <= {*scores.paths[item].tolist(), *old[item].tolist()}
        if scores.paths[item, 0] < 0:
            assert row.tolist() == old[item].tolist()


def crowd(alpha: float, penalty: str) -> int:
    """Items on the fullest path when 300 items all like the same 40 paths in the same order."""
    scores = PathScores(np.tile(np.arange(40), (300, 1)), np.tile(0.9 ** np.arange(40.0), (300, 1)))
    old = random_paths(np.arange(300), 300, (3, 40), 1)
    plan = replace(PLAN, penalty=penalty, alpha=alpha, sweeps=3, kept=40)
    paths = assign(scores, old, np.full(300, 5), plan)
    return int(np.unique(paths[paths >= 0], return_counts=True)[1].max())


@pytest.mark.parametrize("penalty", ["paper", "course"])
def test_without_a_penalty_paths_collapse_and_the_more_of_it_the_less_they_do(penalty: str) -> None:
    loads = [crowd(alpha, penalty) for alpha in (0.0, 1e-7, 1e-5, 1e-3)]
    assert loads[0] == 300
    assert loads == sorted(loads, reverse=True)
    assert loads[-1] < 60  # 900 places on 40 paths, 23 on each if they were even


@given(st.integers(0, 20), st.integers(1, 4), st.integers(1, 6), st.integers(0, 9))
def test_first_paths_are_distinct_and_only_of_those_who_get_some(
    items: int, most: int, possible: int, seed: int
) -> None:
    paths = random_paths(np.arange(0, items, 2), items, (most, possible), seed)
    assert paths.shape == (items, most)
    assert (paths[1::2] == -1).all()
    for row in paths[::2]:
        own = row[row >= 0]
        assert len(np.unique(own)) == len(own) == min(most, possible)
        assert (own < possible).all()


def test_settings_that_cannot_be_are_refused() -> None:
    for bad in ({"paths": 0}, {"kept": 2}, {"sweeps": 0}, {"alpha": -1.0}, {"decay": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            replace(PLAN, **bad)
