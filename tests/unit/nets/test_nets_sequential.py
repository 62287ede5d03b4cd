from pathlib import Path

import numpy as np
import pytest
import torch

from tamis.data.picks import ranges
from tamis.errors import ConfigError
from tamis.nets.next_item_plans import Sequences, SequentialPlan
from tamis.nets.plans import TrainingPlan
from tamis.nets.sequential import Dropout, Places, SequentialNet, _BatchMaker, _Judge, fit_sequential
from tamis.nets.session import Session
from tamis.types import silent

PLAN = SequentialPlan(
    TrainingPlan(epochs=6, batch_size=64, learning_rate=5e-3, embedding_learning_rate=2e-2, patience=0, threads=1),
    vector_size=8,
    hidden_size=8,
    length=6,
    dropout=0.0,
)


def random_net(items: int = 20) -> SequentialNet:
    """A net in evaluation mode whose biases of distance are not all alike."""
    net = SequentialNet(items, PLAN, 1)
    with torch.no_grad():
        for block in net.blocks:
            block.by_distance.copy_(torch.randn(block.by_distance.shape, generator=torch.Generator().manual_seed(2)))
    return net.eval()


def circle(users: int = 60, items: int = 12, length: int = 10) -> Sequences:
    """Everybody goes round the items in steps of one; the last entry of each is held out."""
    first = np.random.default_rng(0).integers(0, items, users)
    rows = (first[:, None] + np.arange(length)) % items
    starts = np.arange(users + 1) * length
    return Sequences(rows.ravel(), starts, starts[1:] - 1, items)


@torch.no_grad()
def test_an_entry_knows_nothing_of_what_comes_after_it() -> None:
    net, lengths = random_net(), np.array([6])
    rows = np.array([3, 1, 4, 1, 5, 9])
    said = net(net.items(rows), Places.of(lengths))
    for changed in range(6):
        other = rows.copy()
        other[changed] = 17
        differs = (net(net.items(other), Places.of(lengths)) - said).abs().amax(1) > 1e-6
        assert differs.tolist() == [place >= changed for place in range(6)]


@torch.no_grad()
def test_sequences_of_a_batch_do_not_meet_and_padding_changes_nothing() -> None:
    net, lengths = random_net(), np.array([2, 6, 1, 4])
    rows = np.random.default_rng(1).integers(0, 20, int(lengths.sum()))
    together = net(net.items(rows), Places.of(lengths))
    first = 0
    for length in lengths.tolist():
        alone = net(net.items(rows[first : first + length]), None)
        torch.testing.assert_close(together[first : first + length], alone)
        first += length


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 2, 6])
def test_the_newest_entry_alone_is_the_last_of_all(length: int) -> None:
    net = random_net()
    entries = net.items(np.random.default_rng(length).integers(0, 20, length))
    torch.testing.assert_close(net.newest(entries), net(entries, None)[-1:])


@torch.no_grad()
def test_the_order_of_a_history_counts() -> None:
    net = random_net()
    one, other = (net(net.items(np.array(rows)), None)[-1] for rows in ([1, 2, 3, 4], [2, 1, 3, 4]))
    assert not torch.allclose(one, other)


def test_every_entry_but_the_first_of_each_user_is_a_target_once_and_held_out_ones_never() -> None:
    lengths, held = np.array([0, 1, 2, 7, 20]), np.array([0, 0, 1, 1, 3])
    starts = np.append(0, np.cumsum(lengths))
    sequences = Sequences(np.arange(30), starts, starts[1:] - held, 30)
    maker = _BatchMaker(sequences, PLAN, 1)
    assert maker.lengths.max() == PLAN.length
    batch = maker.batch(np.arange(len(maker.lengths)))
    wanted = [start + place for start, n, h in zip(starts, lengths, held, strict=False) for place in range(1, n - h)]
    assert sorted(batch.drawn[batch.target.numpy()].tolist()) == wanted == sequences.targets.tolist()
    np.testing.assert_array_equal(batch.items + 1, batch.drawn[batch.target.numpy()])


def test_a_rule_of_the_order_is_learnt_and_the_exported_net_says_the_same(tmp_path: Path) -> None:
    sequences = circle()
    vectors, report = fit_sequential(sequences, PLAN, 1, tmp_path, silent)
    assert report.scores[-1] > 0.95
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    session = Session.open(tmp_path / "user.onnx")
    for length in (1, 3, 6):
        rows = (np.arange(length) + 5) % 12
        user = session.run(entries=vectors[rows])["vector"]
        assert user.shape == (1, 8)
        assert int(np.argmax(vectors @ user[0])) == (5 + length) % 12


@torch.no_grad()
def test_the_judge_lets_only_items_compete_that_the_user_has_not_met() -> None:
    sequences = circle(users=5, items=10, length=10)  # nine of ten items are met: the held-out one is always first
    assert _Judge(sequences, PLAN).ndcg(random_net(10)) == pytest.approx(1.0)


def test_the_same_seed_gives_the_same_net_and_another_one_does_not(tmp_path: Path) -> None:
    runs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        folder = tmp_path / name
        folder.mkdir()
        vectors, _ = fit_sequential(circle(), PLAN, seed, folder, silent)
        runs.append((vectors.tobytes(), (folder / "user.onnx").read_bytes()))
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]


def test_nothing_to_learn_from_is_no_error(tmp_path: Path) -> None:
    none = np.empty(0, np.int64)
    vectors, report = fit_sequential(Sequences(none, np.array([0]), none, 0), PLAN, 1, tmp_path, silent)
    assert vectors.shape == (0, 8)
    assert report.best == -1


def test_dropout_keeps_the_mean_and_is_idle_when_judging() -> None:
    drop = Dropout(0.25, 1)
    values = torch.ones(400, 500)
    dropped = drop(values)
    assert (dropped == 0).float().mean() == pytest.approx(0.25, abs=0.01)
    assert dropped.mean() == pytest.approx(1.0, abs=0.01)
    assert drop.eval()(values) is values
    assert Dropout(0.0, 1)(values) is values


def test_a_width_that_the_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="vector_size 10 and 3 attention_heads"):
        SequentialPlan(TrainingPlan(), vector_size=10, attention_heads=3)


def test_ranges() -> None:
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
