"""The rating part: stars from the log's ratings, each known only from what came before it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_world import DAY, Toy

from tamis.config import convert, override
from tamis.data.attribution import label_columns
from tamis.data.dataset import Requests
from tamis.data.samples import Log, rating_samples
from tamis.errors import ArtifactError, ConfigError, DataError
from tamis.nets.plans import TrainingPlan
from tamis.nets.rating import Answers, RatingNet, RatingPlan, loss
from tamis.rank.rating import Rating, RatingConfig
from tamis.types import ACTION_CODE, Candidates

RATE = ACTION_CODE["rate"]
EVERYTHING = Candidates(np.arange(240))
CONFIG = RatingConfig(epochs=8, patience=0, batch_size=128, learning_rate=3e-3, embedding_learning_rate=1e-2)


def with_ratings(toy: Toy, share: float = 0.5) -> Toy:
    """The toy world where every second impression is rated: 5 in the user's cluster, 2 elsewhere, 1 star of noise."""
    events, random = toy.inputs.events, np.random.default_rng(5)
    shown = np.flatnonzero((events.action == ACTION_CODE["impression"]) & (random.random(len(events)) < share))
    rated = events.take(shown)
    inside = toy.user_cluster[rated.user] == toy.item_cluster[rated.item]
    stars = np.where(inside, 5.0, 2.0) - (random.random(len(rated)) < 0.3)
    rated = replace(rated, action=np.full(len(rated), RATE, np.uint8), value=stars.astype(np.float32))
    whole = [np.concatenate([getattr(events, name), getattr(rated, name)]) for name in events.__slots__]
    together = type(events)(*whole)
    return replace(toy, inputs=replace(toy.inputs, events=together.take(np.argsort(together.time, kind="stable"))))


@pytest.fixture(scope="module")
def world(toy: Toy) -> Toy:
    return with_ratings(toy)


@pytest.fixture(scope="module")
def part(world: Toy) -> Rating:
    return Rating.fit(CONFIG, world.inputs, 1)


def test_films_of_the_users_taste_get_more_stars_and_classes_are_the_stars(world: Toy, part: Rating) -> None:
    columns = part.score(world.query(1, [int(item) for item in world.likes(1)[:4]]), EVERYTHING)
    assert tuple(columns) == CONFIG.columns == ("stars", *(f"p_stars_{star}" for star in range(1, 6)))
    inside = world.item_cluster == 1
    assert columns["stars"][inside].mean() == pytest.approx(4.7, abs=0.4)
    assert columns["stars"][~inside].mean() == pytest.approx(1.7, abs=0.4)
    classes = np.stack([columns[f"p_stars_{star}"] for star in range(1, 6)], 1)
    np.testing.assert_allclose(classes.sum(1), 1.0, atol=1e-5)
    assert (classes[inside].argmax(1) == 4).mean() > 0.9  # 5 stars are class 5, not the most frequent first
    assert (classes[~inside].argmax(1) == 1).mean() > 0.9
    np.testing.assert_allclose(classes @ np.arange(1, 6), columns["stars"], atol=1.0)


def test_a_rating_is_known_only_by_what_came_before_it(world: Toy) -> None:
    inputs = world.inputs
    log = Log(inputs.events, Requests.none(), inputs.train.timeline, np.empty(0))
    samples = rating_samples(log, 5 * DAY, 9 * DAY)
    assert ((samples.time >= 5 * DAY) & (samples.time < 9 * DAY)).all()
    assert (np.diff(samples.first) == 1).all()
    assert (samples.position == -1).all()
    for request in range(0, len(samples), 97):
        seen = slice(samples.history_start[request], samples.history_end[request])
        assert (samples.timeline.time[seen] < samples.time[request]).all()


def test_ratings_of_unknown_value_are_left_out_and_others_are_their_stars(toy: Toy) -> None:
    world = with_ratings(toy, 0.02)
    events = world.inputs.events
    blank = replace(events, value=np.where(events.action == RATE, 0, events.value).astype(np.float32))
    log = Log(blank, Requests.none(), world.inputs.train.timeline, np.empty(0))
    assert not len(rating_samples(log, -np.inf, np.inf))
    rated = events.take(np.flatnonzero(events.action == RATE))
    labels = label_columns(rated, np.arange(len(rated)), len(rated), ["rate"])
    np.testing.assert_array_equal(labels["rate"], rated.value)


def test_a_rating_outside_the_scale_is_named(toy: Toy) -> None:
    world = with_ratings(toy, 0.1)
    with pytest.raises(DataError, match=r"label 'rate', rating \d+ of \d+: 5, wanted one of \[1\.0, 2\.0, 4\.0\]"):
        Rating.fit(RatingConfig(stars=(1.0, 2.0, 4.0)), world.inputs, 1)


def test_without_ratings_the_columns_are_0_and_the_reason_is_kept(toy: Toy, tmp_path: Path) -> None:
    part = Rating.fit(RatingConfig(), toy.inputs, 1)
    assert "no rating" in part.facts.dropped
    part.save(tmp_path)
    for one in (part, Rating.load(RatingConfig(), tmp_path)):
        columns = one.score(toy.query(1, []), EVERYTHING)
        assert set(columns) == set(RatingConfig().columns)
        assert not any(column.any() for column in columns.values())


def test_a_saved_part_answers_the_same_and_other_stars_are_refused(world: Toy, part: Rating, tmp_path: Path) -> None:
    part.save(tmp_path)
    again, query = Rating.load(CONFIG, tmp_path), world.query(5, [3, 4])
    for name, column in part.score(query, EVERYTHING).items():
        assert again.score(query, EVERYTHING)[name].tobytes() == column.tobytes()
    with pytest.raises(ArtifactError, match="learnt stars"):
        Rating.load(override(CONFIG, {"stars": (1.0, 2.0)}), tmp_path)
    with pytest.raises(ArtifactError, match=r"rating\.json"):
        Rating.load(CONFIG, tmp_path / "absent")


def test_unknown_users_fresh_items_and_no_candidates(world: Toy, part: Rating) -> None:
    catalog = world.with_fresh([0, 3])
    for query in (world.query(-1, [], catalog), world.query(-1, [240, -1], catalog), world.query(2, [], catalog)):
        for column in part.score(query, Candidates(np.array([240, 241, 5]))).values():
            assert np.isfinite(column).all()
    assert all(len(column) == 0 for column in part.score(world.query(1, []), Candidates.empty()).values())


def test_both_errors_of_the_number_and_the_cross_entropy_of_the_classes() -> None:
    answers = Answers(torch.tensor([3.0, 5.0]), torch.zeros(2, 5))
    rated, star = torch.tensor([4.0, 2.0]), torch.tensor([3, 1])
    for kind, number in (("absolute", 2.0), ("squared", 5.0)):
        plan = RatingPlan((1, 2, 3, 4, 5), kind, 0.5, 4, 0.01, (4,), TrainingPlan())
        assert float(loss(answers, rated, star, plan)) == pytest.approx(number + 0.5 * np.log(5))


def test_absent_history_entries_are_no_part_of_the_mean(world: Toy) -> None:
    inputs = world.inputs
    plan = RatingPlan((1, 2, 3, 4, 5), "squared", 1.0, 8, 0.5, (8,), TrainingPlan())
    net = RatingNet(plan, inputs, 3.0, torch.Generator().manual_seed(1)).eval()
    batch = inputs.batch(inputs.train, np.array([600]))
    parts = [torch.from_numpy(getattr(batch, name)) for name in batch.__slots__[:6]]
    longer = [*parts[:2], torch.cat([parts[2], torch.zeros_like(parts[2])], 1), *parts[3:]]
    with torch.no_grad():
        torch.testing.assert_close(net(longer, None).number, net(parts, None).number)


@pytest.mark.parametrize(
    ("kind", "weight", "wanted"),
    [("squared", 1.0, [3.25, 4.5]), ("absolute", 1.0, [3.5, 4.0]), ("squared", 0.0, [3.5, 4.0])],
)
def test_squared_stars_are_the_average_of_the_number_and_of_the_classes_mean(
    kind: Any, weight: float, wanted: list[float]
) -> None:
    answers = Answers(torch.tensor([3.5, 4.0]), torch.tensor([[0.0] * 5, [0.0, 0.0, 0.0, 0.0, 50.0]]))  # 3 and 5
    plan = RatingPlan((1, 2, 3, 4, 5), kind, weight, 4, 0.01, (4,), TrainingPlan())
    torch.testing.assert_close(answers.stars(plan), torch.tensor(wanted))


@pytest.mark.parametrize("stars", [[1.0], [2.0, 1.0], [1.0, 1.0, 2.0], [0.0, 1.0]])
def test_an_impossible_scale_is_refused(stars: list[float]) -> None:
    with pytest.raises(ConfigError, match="stars"):
        convert({"kind": "rating", "stars": stars}, RatingConfig)
