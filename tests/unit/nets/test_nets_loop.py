"""The training loop on a problem small enough to know the answer."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tamis.errors import ArtifactError, ConfigError
from tamis.features.inputs import Journal
from tamis.nets import door
from tamis.nets.embed import Table
from tamis.nets.layers import linear
from tamis.nets.loop import Problem, Report, cut, in_pieces, train
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


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(1, 12), st.integers(0, 9), st.data())
@settings(max_examples=50, deadline=None)
def test_no_batch_is_of_two_pieces_and_those_of_a_piece_follow_each_other(
    rows: list[int], batch_size: int, seed: int, data: st.DataObject
) -> None:
    counts = np.array(rows, np.int64)
    cuts = data.draw(st.sets(st.integers(1, len(rows) - 1))) if len(rows) > 1 else set()
    pieces = np.array([0, *sorted(cuts), len(rows)])
    batches = list(in_pieces(counts, batch_size, np.random.default_rng(seed), pieces))
    assert sorted(np.concatenate(batches).tolist() if batches else []) == np.flatnonzero(counts).tolist()
    places = [np.unique(np.searchsorted(pieces, batch, "right")).tolist() for batch in batches]
    assert all(len(place) == 1 for place in places)
    changes = sum(before != after for before, after in pairwise(places))
    assert changes == max(0, len({place[0] for place in places}) - 1)


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


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("prefetch", [True, False])
@pytest.mark.parametrize("step", [1, 6, 7, 8, 15])
def test_a_training_that_was_killed_goes_on_to_the_same_weights(tmp_path: Path, prefetch: bool, step: int) -> None:
    """Seven steps to an epoch, three epochs; the batches and the net draw random numbers of their own."""
    plan = replace(PLAN, prefetch=prefetch, patience=2, decay_to=0.1)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(100, 4)).astype(np.float32))
    codes = torch.arange(100, dtype=torch.int32)[:, None] % 9 + 1

    def run(file: Path | None, most: int) -> tuple[bytes, Report | None]:
        generator = torch.Generator().manual_seed(3)
        net = nn.ModuleDict({"table": Table(10, 4, generator), "line": linear(8, 1, generator)})
        net.chance = torch.Generator().manual_seed(4)
        drawn, done = np.random.default_rng(5), [0]

        def batch(requests: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(requests[drawn.permutation(len(requests))])

        def loss(rows: torch.Tensor) -> torch.Tensor:
            if done[0] == most:
                raise Killed
            done[0] += 1
            noise = torch.rand(len(rows), 1, generator=net.chance)
            return (net["line"](torch.cat([x[rows], net["table"](codes[rows], (1,))], 1)) - noise).square().mean()

        lesson = Problem(
            rows=np.ones(100, np.int64),
            batch=batch,
            loss=loss,
            judge=lambda: -float(net["line"].weight.detach().square().sum()),
            name="test",
            progress=lambda what, rows, total: None,
            streams=[drawn],
            journal=Journal(file, seconds=0.0),
        )
        report = None
        with suppress(Killed):
            report = train(net, lesson, plan, 2)
        return b"".join(value.numpy().tobytes() for value in net.state_dict().values()), report

    whole, wanted = run(None, 1000)
    file = tmp_path / "course.npz"
    assert run(file, step)[1] is None
    found, report = run(file, 1000)
    assert found == whole
    assert report is not None
    assert wanted is not None
    assert (report.scores, report.best, report.rows) == (wanted.scores, wanted.best, wanted.rows)
    assert run(file, 0)[0] == whole  # a finished one has nothing left to do


def test_the_checkpoint_of_another_net_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "course.npz"
    kept = replace(problem(), streams=(), journal=Journal(file, seconds=0.0))
    train(net_of_test, kept, PLAN, 1)
    with pytest.raises(ArtifactError, match=r"course\.npz: no checkpoint of this training"):
        train(nn.Linear(3, 1), kept, PLAN, 1)
    file.write_bytes(b"cut short")
    with pytest.raises(ArtifactError, match=r"course\.npz: no checkpoint of this training"):
        train(net_of_test, kept, PLAN, 1)
