"""T-12.1, T-12.2 and the path side of T-12.9: probabilities, beam search, the items on paths."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import ConfigError
from tamis.nets.path_plan import PathShape
from tamis.nets.paths import PathItems, PathNet, table_of


def random_net(depth: int, width: int, seed: int, hidden: int = 5, inputs: int = 4) -> PathNet:
    random = np.random.default_rng(seed)
    tables = depth * (depth - 1) // 2
    shapes = [(depth, inputs, hidden), (depth, hidden), (tables, width, hidden), (depth, hidden, width), (depth, width)]
    return PathNet(*(random.normal(size=shape).astype(np.float32) for shape in shapes))


def log_p(net: PathNet, user: np.ndarray, nodes: tuple[int, ...]) -> float:
    """The formula, node by node."""
    total = 0.0
    for layer, node in enumerate(nodes):
        hidden = user @ net.path_user[layer] + net.path_bias[layer]
        for earlier in range(layer):
            hidden = hidden + net.path_nodes[table_of(layer, earlier)][nodes[earlier]]
        logits = np.maximum(hidden, 0) @ net.path_out[layer] + net.path_shift[layer]
        total += logits[node] - np.log(np.exp(logits.astype(np.float64)).sum())
    return float(total)


def exhaustive(net: PathNet, user: np.ndarray) -> np.ndarray:
    """[K^D] log p of every path, in the order of the paths' numbers."""
    return np.array([log_p(net, user, nodes) for nodes in product(range(net.width), repeat=net.depth)])


shapes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10_000))


@settings(deadline=None, max_examples=40)
@given(shapes)
def test_the_probabilities_of_all_paths_sum_to_one(shape: tuple[int, int, int]) -> None:
    net = random_net(*shape)
    users = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    paths, logs = net.beam(users, net.width**net.depth)
    assert np.exp(logs.astype(np.float64)).sum(axis=1) == pytest.approx(np.ones(3), abs=1e-4)
    assert (np.sort(paths, axis=1) == np.arange(net.width**net.depth)).all()


@settings(deadline=None, max_examples=40)
@given(shapes)
def test_a_beam_as_wide_as_the_last_but_one_layer_is_an_exhaustive_search(shape: tuple[int, int, int]) -> None:
    net = random_net(*shape)
    users = np.random.default_rng(2).normal(size=(3, 4)).astype(np.float32)
    size = net.width ** (net.depth - 1)
    paths, logs = net.beam(users, size)
    for row, user in enumerate(users):
        truth = exhaustive(net, user)
        assert logs[row] == pytest.approx(truth[paths[row]], abs=1e-4)
        assert np.sort(truth[paths[row]]) == pytest.approx(np.sort(truth)[-size:], abs=1e-4)


@settings(deadline=None, max_examples=40)
@given(shapes, st.integers(1, 9))
def test_a_narrow_beam_gives_distinct_paths_best_first(shape: tuple[int, int, int], size: int) -> None:
    net = random_net(*shape)
    paths, logs = net.beam(np.random.default_rng(3).normal(size=(2, 4)).astype(np.float32), size)
    assert paths.shape == logs.shape == (2, min(size, net.width**net.depth))
    assert all(len(np.unique(row)) == len(row) for row in paths)
    assert (np.diff(logs, axis=1) <= 0).all()
    alone = net.beam(np.random.default_rng(3).normal(size=(2, 4)).astype(np.float32)[:1], size)
    assert (alone[0][0] == paths[0]).all()


def course_net() -> PathNet:
    """p1 = (0.6, 0.4), p2(·|1) = (0.5, 0.5), p2(·|2) = (0.9, 0.1), whoever the user is."""
    nodes = np.array([[[1.0, 0.0], [0.0, 1.0]]], np.float32)  # the second layer's hidden numbers say which node came
    out = np.stack([np.zeros((2, 2)), np.log([[0.5, 0.5], [0.9, 0.1]])]).astype(np.float32)
    shift = np.stack([np.log([0.6, 0.4]), np.zeros(2)]).astype(np.float32)
    return PathNet(np.zeros((2, 1, 2), np.float32), np.zeros((2, 2), np.float32), nodes, out, shift)


def test_a_greedy_beam_misses_what_a_beam_of_two_finds() -> None:
    user = np.zeros((1, 1), np.float32)
    paths, logs = course_net().beam(user, 1)
    assert paths[0, 0] // 2 == 0
    assert np.exp(logs[0, 0]) == pytest.approx(0.30, abs=1e-6)
    paths, logs = course_net().beam(user, 2)
    assert paths[0, 0] == 2  # nodes 2 and 1, counted from 1
    assert np.exp(logs[0, 0]) == pytest.approx(0.36, abs=1e-6)


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.lists(st.integers(0, 9), unique=True, max_size=3), max_size=12))
def test_items_of_paths_and_paths_of_items_are_inverse(sets: list[list[int]]) -> None:
    paths_of = np.full((len(sets), 3), -1, np.int64)
    for item, paths in enumerate(sets):
        paths_of[item, : len(paths)] = paths
    items = PathItems.of(paths_of)
    for path in range(11):
        assert items.on(np.array([path])).tolist() == [item for item, paths in enumerate(sets) if path in paths]
    some = np.array([3, 7, 4])
    assert items.on(some).tolist() == [item for item, paths in enumerate(sets) if {3, 7, 4} & set(paths)]


@pytest.mark.parametrize(("depth", "items", "width"), [(3, 20_000, 74), (2, 5, 10), (1, 1, 20), (3, 0, 1)])
def test_the_width_grows_with_the_catalogue(depth: int, items: int, width: int) -> None:
    assert PathShape.of(depth, 0, 8, items).width == width
    assert PathShape.of(depth, 7, 8, items).width == 7


@pytest.mark.parametrize("bad", [(0, 5), (3, -1), (63, 3)])
def test_structures_that_cannot_be_are_refused(bad: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="depth"):
        PathShape.of(*bad, 8, 100)
