"""The light rank: FM-1 … FM-5 of the course specification, and a part that serves without a net."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from toy_world import Toy

from tamis.config import convert
from tamis.errors import ArtifactError, ConfigError
from tamis.metrics import auc
from tamis.nets.batch import tensors
from tamis.nets.light import LightNet, _arrays
from tamis.nets.tower import numbers_of
from tamis.rank.light import LightRank, LightRankConfig, pair_sum
from tamis.types import Candidates

EVERYTHING = Candidates(np.arange(240))


@pytest.fixture(scope="module")
def fm(toy: Toy) -> LightRank:
    return LightRank.fit(
        LightRankConfig(epochs=10, patience=0, batch_size=256, embedding_learning_rate=2e-2), toy.inputs, 1
    )


@pytest.fixture(scope="module")
def lr(toy: Toy) -> LightRank:
    return LightRank.fit(LightRankConfig(model="lr", epochs=4, batch_size=256), toy.inputs, 1)


def clicks(part: LightRank, toy: Toy, user: int, history: list[int]) -> np.ndarray:
    return part.score(toy.query(user, history), EVERYTHING)["light_click"]


def test_fm_1_by_hand() -> None:
    x = np.array([1.0, 0.0, 2.0, 1.0])
    w, v = np.array([0.2, -0.3, 0.5, 0.1]), np.array([[1.0, 0], [0, 1], [1, 1], [-1, 2]])
    total, squares = (v * x[:, None]).sum(0), np.square(v * x[:, None])
    assert total.tolist() == [2, 4]
    assert squares.sum(0).tolist() == [6, 8]
    assert pair_sum(total, squares.sum()) == 3
    p = 0.1 + w @ x + pair_sum(total, squares.sum())
    assert p == pytest.approx(4.4)
    assert expit(p) == pytest.approx(0.987872, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 7), st.integers(1, 5))
def test_fm_2_the_fast_form_is_the_sum_over_pairs(seed: int, terms: int, size: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(terms, size))
    naive = sum(float(vectors[i] @ vectors[j]) for i in range(terms) for j in range(i + 1, terms))
    assert pair_sum(vectors.sum(0), np.square(vectors).sum()) == pytest.approx(naive, abs=1e-9)


def test_fm_2_gradients_are_those_of_finite_differences(toy: Toy) -> None:
    numbers = numbers_of(toy.inputs)
    net = LightNet(toy.inputs.layout, (numbers.user, numbers.item, toy.inputs.sides(toy.inputs.train).dynamic), 4, 3)
    batch = tensors(toy.inputs.batch(toy.inputs.train, np.arange(5)))
    net.double()
    batch = batch._replace(**{n: getattr(batch, n).double() for n in ("user_dense", "item_dense", "item_dynamic")})
    net(batch).sum().backward()
    parameter = net.item.factors
    assert parameter.grad is not None
    slope = float(parameter.grad[1, 2])
    with torch.no_grad():
        values = []
        for step in (1e-4, -2e-4):
            parameter[1, 2] += step
            values.append(float(net(batch).sum()))
    assert slope == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-4)


def test_fm_3_without_vectors_it_is_the_linear_model_and_has_so_many_numbers(toy: Toy, fm: LightRank) -> None:
    def silent(table: np.ndarray) -> np.ndarray:
        return np.concatenate([table[:, :3], np.zeros_like(table[:, 3:])], 1)

    items = np.concatenate([fm.items[:, :1], np.zeros_like(fm.items[:, 1:])], 1)
    numbers = {side: silent(np.asarray(table)) for side, table in fm.numbers.items()}
    linear = replace(fm, factors=np.zeros_like(fm.factors), numbers=numbers, items=items)
    plain = replace(
        linear, factors=linear.factors[:, :0], items=items[:, :2], numbers={s: t[:, :3] for s, t in numbers.items()}
    )
    got, wanted = (clicks(part, toy, 1, [3, 4]) for part in (linear, plain))
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    d, k = toy.inputs.layout.table_size + sum(len(table) for table in fm.numbers.values()), 8
    weights = sum(table[:, 2:].size for table in fm.numbers.values())
    assert fm.bias.size + fm.first.size + fm.factors.size + weights == 1 + d + k * d


def test_fm_4_pairs_tell_who_likes_what_where_a_line_cannot(toy: Toy, fm: LightRank, lr: LightRank) -> None:
    """In the toy world every cluster is as popular as every other: only the pair of user and item says anything."""
    scores: dict[str, list[float]] = {"fm": [], "lr": []}
    for user in range(12):
        history = [int(item) for item in toy.likes(int(toy.user_cluster[user]))[:4]]
        for name, part in (("fm", fm), ("lr", lr)):
            inside = toy.item_cluster == toy.user_cluster[user]
            scores[name].append(auc(inside, clicks(part, toy, user, history)))
    assert np.mean(scores["fm"]) > 0.9
    assert abs(np.mean(scores["lr"]) - 0.5) < 0.1


def test_fm_5_turning_all_vectors_changes_nothing(toy: Toy, fm: LightRank) -> None:
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0].astype(np.float32)
    turned = replace(
        fm,
        factors=fm.factors @ turn,
        numbers={s: np.concatenate([t[:, :3], t[:, 3:] @ turn], 1) for s, t in fm.numbers.items()},
        items=np.concatenate([fm.items[:, :2], fm.items[:, 2:] @ turn], 1),
    )
    np.testing.assert_allclose(clicks(turned, toy, 2, [5]), clicks(fm, toy, 2, [5]), rtol=1e-3)


# ---- the part ------------------------------------------------------------------------------------------------------


def test_what_is_served_is_what_was_trained(toy: Toy) -> None:
    """NumPy from sums and torch from rows agree, for requests of the log."""
    inputs, numbers = toy.inputs, numbers_of(toy.inputs)
    net = LightNet(inputs.layout, (numbers.user, numbers.item, inputs.sides(inputs.train).dynamic), 8, 5).eval()
    with torch.no_grad():
        net.first.weight[1:] = torch.randn(net.first.weight[1:].shape, generator=torch.Generator().manual_seed(2))
        net.item.weight += 0.3
        wanted = net(tensors(inputs.batch(inputs.valid, np.arange(6))))[0].numpy()
    made = _arrays(net)
    sides = {side: made[f"{side}_numbers"] for side in ("user", "item", "dynamic")}
    empty = np.empty((0, 10), np.float32)
    part = LightRank(LightRankConfig(), inputs.layout, made["bias"], made["first"], made["factors"], sides, empty)
    batch = inputs.batch(inputs.valid, np.arange(6))
    for request in range(6):
        codes = np.concatenate([batch.user_codes[[request]], batch.history_codes[request].T.reshape(1, -1)], 1)
        widths = [f.width for f in inputs.layout.user_fields]
        widths += [inputs.layout.history_length] * inputs.layout.history_codes
        user = part._of_codes(codes, widths) + part_numbers(sides["user"], batch.user_dense[[request]])
        rows = batch.row_of == request
        item = part._item_sums(inputs.catalog, inputs.valid.item[: len(batch.row_of)][rows].astype(np.int64))
        sums = user + item + part_numbers(sides["dynamic"], batch.item_dynamic[rows])
        got = part.bias[0] + sums[:, 0] + pair_sum(sums[:, 2:], sums[:, 1])
        np.testing.assert_allclose(got, wanted[rows], rtol=1e-4, atol=1e-4)


def part_numbers(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    x = np.clip((values - weights[:, 0]) * weights[:, 1], -8, 8)
    squares = (x[:, :, None] * weights[None, :, 3:]) ** 2
    return np.column_stack([x @ weights[:, 2], squares.sum((1, 2)), x @ weights[:, 3:]])


def test_the_click_rate_is_about_right(toy: Toy, lr: LightRank) -> None:
    rates = [clicks(lr, toy, user, [int(toy.likes(int(toy.user_cluster[user]))[0])]).mean() for user in range(30)]
    assert np.mean(rates) == pytest.approx(float(toy.inputs.train.labels["click"].mean()), rel=0.5)


def test_an_item_published_since_is_scored_by_its_attributes(toy: Toy, fm: LightRank) -> None:
    catalog = toy.with_fresh([1, 4])
    query = toy.query(1, [int(item) for item in toy.likes(1)[:4]], catalog)
    alone = fm.score(query, Candidates.of([240, 241]))["score"]
    beside = fm.score(query, Candidates.of([3, 241, 240]))["score"]
    np.testing.assert_allclose(beside[[2, 1]], alone, rtol=1e-6)
    assert alone[0] > alone[1]


def test_a_round_trip_and_what_cannot_be_loaded(toy: Toy, fm: LightRank, lr: LightRank, tmp_path: Path) -> None:
    for part in (fm, lr):
        folder = tmp_path / part.config.model
        folder.mkdir()
        part.save(folder)
        again = LightRank.load(part.config, folder)
        assert np.array_equal(clicks(again, toy, -1, []), clicks(part, toy, -1, []))
    with pytest.raises(ArtifactError, match="not trained as lr"):
        LightRank.load(LightRankConfig(model="lr"), tmp_path / "fm")
    with pytest.raises(ArtifactError):
        LightRank.load(LightRankConfig(), tmp_path)


@pytest.mark.parametrize("section", [{"head": "play"}, {"head": "applause"}, {"model": "dnn"}, {"factor_size": 0}])
def test_what_cannot_be_is_a_config_error(section: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        convert({"kind": "light_rank", **section}, LightRankConfig)


def test_nothing_to_learn_is_said(toy: Toy) -> None:
    with pytest.raises(ConfigError, match="share"):
        LightRank.fit(LightRankConfig(head="share"), toy.inputs, 1)


def test_without_validation_rows_it_trains_on(toy: Toy) -> None:
    valid = toy.inputs.valid
    none = replace(
        valid, first=valid.first * 0, item=valid.item[:0], position=valid.position[:0],
        labels={name: label[:0] for name, label in valid.labels.items()},
    )  # fmt: skip
    part = LightRank.fit(LightRankConfig(epochs=1), toy.inputs.with_samples(toy.inputs.train, none), 1)
    assert np.isfinite(clicks(part, toy, 1, [2])).all()
