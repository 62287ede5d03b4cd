from dataclasses import replace

import msgspec
import numpy as np
import pytest
from toy_world import FEATURES, Rules, Toy, toy_world

from tamis.features.coverage import coverage, seldom
from tamis.features.fields import encode_number
from tamis.features.spec import Count
from tamis.types import Features


@pytest.fixture(scope="module")
def toy() -> Toy:
    return toy_world(users=100, items=60, requests=3)


def test_feat_5_coverage_is_the_share_of_the_rows_with_a_known_value(toy: Toy) -> None:
    inputs, learnt = toy.inputs, toy.inputs.encoder.learnt
    ages = encode_number(
        learnt.config.user["age"], learnt.user["age"], [20 + n if n < 37 else None for n in range(100)]
    )
    dense = inputs.users.dense.copy()
    at = inputs.layout.user_dense.index("age")
    dense[:, at : at + 2] = ages
    rows = coverage(replace(inputs, users=Features(inputs.users.codes, dense), _sides={}))
    asked = inputs.train.user
    assert rows["user.age"]["coverage"] == pytest.approx((asked < 37).mean())
    assert rows["user.age"]["distinct"] == len(np.unique(asked[asked < 37]))


def test_every_feature_and_the_history_have_a_row(toy: Toy) -> None:
    inputs, rows = toy.inputs, coverage(toy.inputs)
    config = inputs.encoder.learnt.config
    names = {f"{side}.{name}" for side in ("user", "context", "item") for name in getattr(config, side)}
    assert set(rows) == {*names, "history"}
    assert all(0 <= row["coverage"] <= 1 for row in rows.values())
    assert rows["item.category"] == {"coverage": 1.0, "distinct": 6.0}
    assert rows["context.scene"] == {"coverage": 1.0, "distinct": 1.0}
    assert rows["item.content"]["distinct"] == rows["item.duration"]["distinct"] == len(np.unique(inputs.train.item))
    clicks = inputs.user_statistics.before(inputs.train.user, inputs.train.time)[:, 1]
    assert rows["user.clicks"]["coverage"] == pytest.approx((clicks > 0).mean())
    entries = inputs.train.history_end - inputs.train.history_start
    assert rows["history"]["coverage"] == pytest.approx((entries > 0).mean())


def test_without_a_statistic_of_the_moment_all_have_a_row_too() -> None:
    features = msgspec.structs.replace(FEATURES, user={**FEATURES.user, "clicks": Count(action="click")})
    rows = coverage(toy_world(users=20, items=60, requests=3, rules=Rules(features=features)).inputs)
    assert 0 < rows["user.clicks"]["coverage"] < 1


def test_those_below_a_share_are_named(toy: Toy) -> None:
    rows = {"user.a": {"coverage": 0.01}, "item.b": {"coverage": 0.02}}
    assert seldom(rows, 0.02) == {"user.a": 0.01}


def test_without_training_rows_there_is_nothing_to_report(toy: Toy) -> None:
    assert coverage(replace(toy.inputs, train=toy.inputs.train.since(np.inf))) == {}
