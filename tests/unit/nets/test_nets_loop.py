"""The training loop on a problem small enough to know the answer."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tamis.errors import ConfigError
from tamis.nets import door
from tamis.nets.loop import Problem, cut, train
from tamis.nets.plans import TrainingPlan

PLAN = TrainingPlan(epochs=3, batch_size=16, learning_rate=0.05, threads=1, patience=0)
Batch = tuple[torch.Tensor, torch.Tensor]


def problem(judge: Callable[[], float] = lambda: 0.0, rows: int = 100) -> Problem[Batch]:
    x = np.random.default_rng(1).normal(size=(rows, 4)).astype(np.float32)
    y = (x @ [1, -2, 3, 0.5]).astype(np.float32)
    return Problem(
        rows=np.ones(rows, np.int64),
        batch=lambda requests: (torch.from_numpy(x[requests]), torch.from_numpy(y[requests])),
        loss=lambda batch: (net_of_test(batch[0]).squeeze(1) - batch[1]).square().mean(),
        judge=judge,
        name="test",
        progress=lambda what, done, total: None,
    )


net_of_test = nn.Linear(4, 1)


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch.manual_seed(0)
    net_of_test.reset_parameters()


def weights() -> bytes:
    return net_of_test.weight.detach().numpy().tobytes()


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 30), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_every_request_with_rows_is_in_exactly_one_batch_of_about_equal_rows(
    rows: list[int], batch_size: int, seed: int
) -> None:
    counts = np.array(rows, np.int64)
    batches = cut(counts, batch_size, np.random.default_rng(seed))
    together = np.concatenate(batches) if batches else np.empty(0, int)
    assert sorted(together.tolist()) == np.flatnonzero(counts).tolist()
    for batch in batches:
        assert len(batch)
        assert counts[batch].sum() < batch_size + counts.max(initial=0)


def test_the_same_seed_gives_the_same_weights_with_and_without_fetching_ahead() -> None:
    found = []
    for seed, prefetch in ((1, True), (1, False), (2, True)):
        torch.manual_seed(0)
        net_of_test.reset_parameters()
        train(net_of_test, problem(), replace(PLAN, prefetch=prefetch), seed)
        found.append(weights())
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_it_learns_and_reports_what_it_did() -> None:
    calls: list[tuple[str, int, int]] = []
    lesson = replace(problem(), progress=lambda *call: calls.append(call))
    report = train(net_of_test, lesson, replace(PLAN, epochs=60, decay_to=0.0), 1)
    assert net_of_test.weight.detach().flatten().tolist() == pytest.approx([1, -2, 3, 0.5], abs=0.05)
    assert report.rows == 6000
    assert calls[-1] == ("test", 6000, 6000)
    assert not net_of_test.training


def test_the_best_weights_are_kept_and_patience_ends_the_training() -> None:
    scores, seen = iter([0.5, 0.7, 0.6, 0.65, 0.9]), []

    def judge() -> float:
        seen.append(weights())
        return next(scores)

    report = train(net_of_test, problem(judge), replace(PLAN, epochs=5, patience=2), 1)
    assert report.scores == (0.5, 0.7, 0.6, 0.65)
    assert report.best == 1
    assert weights() == seen[1]


def test_without_patience_the_last_weights_are_kept() -> None:
    scores, seen = iter([0.5, 0.7, 0.1]), []

    def judge() -> float:
        seen.append(weights())
        return next(scores)

    report = train(net_of_test, problem(judge), PLAN, 1)
    assert report.best == 2
    assert weights() == seen[2]


def test_nothing_to_learn_from_changes_nothing() -> None:
    before = weights()
    report = train(net_of_test, problem(rows=0), PLAN, 1)
    assert weights() == before
    assert report.best == -1
    assert report.scores == ()


def test_a_training_that_diverges_is_an_error_that_says_what_to_lower() -> None:
    with pytest.raises(ConfigError, match=r"test: after 100 of 300 rows .* wanted a lower learning_rate"):
        train(net_of_test, problem(), replace(PLAN, learning_rate=1e30), 1)


def test_the_number_of_threads_is_given_back() -> None:
    before = torch.get_num_threads()
    train(net_of_test, problem(), replace(PLAN, threads=before + 1), 1)
    assert torch.get_num_threads() == before


def test_a_missing_torch_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(door.importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=r"pip install 'tamis\[train\]'"):
        door.nets_module("multitask")


def test_a_module_that_does_not_exist_is_a_bug_not_a_missing_torch() -> None:
    with pytest.raises(ModuleNotFoundError):
        door.nets_module("no_such_net")
