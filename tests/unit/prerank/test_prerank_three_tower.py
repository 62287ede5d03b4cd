from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_world import Toy

from tamis.config import convert
from tamis.errors import ArtifactError, ConfigError
from tamis.features.statistics import Statistics
from tamis.nets.item_vectors import FreshVectors, item_vectors
from tamis.nets.session import Session
from tamis.prerank.three_tower import ThreeTower, ThreeTowerConfig, ThreeTowerFacts, fused
from tamis.types import Candidates, Catalog

CONFIG = ThreeTowerConfig(
    epochs=6,
    batch_size=256,
    patience=0,
    threads=1,
    vector_size=16,
    user_layers=(32,),
    learning_rate=3e-3,
    embedding_learning_rate=1e-2,
)
EVERYTHING = Candidates(np.arange(240))


@pytest.fixture(scope="module")
def part(toy: Toy) -> ThreeTower:
    return ThreeTower.fit(CONFIG, toy.inputs, 1)


class Counting:
    """A session that counts the rows it computes."""

    def __init__(self, session: Session, by: str) -> None:
        self.session, self.by, self.rows = session, by, 0

    def run(self, **arrays: Any) -> Any:
        self.rows += len(arrays[self.by])
        return self.session.run(**arrays)


def instrumented(part: ThreeTower) -> tuple[ThreeTower, Counting, Counting, Counting]:
    """The part with counters on the user tower, the item tower and the join."""
    user, join = Counting(part.user_tower, "user_codes"), Counting(part.join, "items")
    item = Counting(Session.open(part.nets.path / "item.onnx"), "item_codes")
    fresh = FreshVectors(item, len(part.vectors))
    return replace(part, user_tower=user, join=join, fresh=fresh), user, item, join


def test_rows_computed_are_one_user_the_misses_and_every_candidate(toy: Toy, part: ThreeTower) -> None:
    counted, user, item, join = instrumented(part)
    rows = np.random.default_rng(0).integers(0, 240, 3000)
    counted.score(toy.query(1, [3, 4]), Candidates(rows))
    assert (user.rows, item.rows, join.rows) == (1, 0, 3000)
    catalog = toy.with_fresh([0] * 30)
    some = np.concatenate([rows[:2970], np.arange(240, 270)])
    counted.score(toy.query(1, [3, 4], catalog), Candidates(some))
    assert (user.rows, item.rows, join.rows) == (2, 30, 6000)
    counted.score(toy.query(1, [3, 4], catalog), Candidates(some))
    assert (user.rows, item.rows, join.rows) == (3, 30, 9000)


def test_warm_and_cold_items_score_the_same(toy: Toy, part: ThreeTower) -> None:
    cold = replace(part, vectors=part.vectors[:0], fresh=FreshVectors(Session.open(part.nets.path / "item.onnx"), 0))
    warm, other = part.score(toy.query(2, [3]), EVERYTHING), cold.score(toy.query(2, [3]), EVERYTHING)
    for name, column in warm.items():
        np.testing.assert_allclose(other[name], column, atol=1e-6)


def test_a_row_scores_the_same_alone_and_in_company(toy: Toy, part: ThreeTower) -> None:
    query = toy.query(2, [3, 8])
    together = part.score(query, EVERYTHING)
    for item in (0, 17, 239):
        alone = part.score(query, Candidates(np.array([item])))
        for name, column in together.items():
            np.testing.assert_allclose(alone[name][0], column[item], atol=1e-6)


def test_the_users_cluster_scores_higher_and_likes_follow_the_items(toy: Toy, part: ThreeTower) -> None:
    even = np.arange(240) % 2 == 0
    margins, likes = [], []
    for user in range(0, 120, 7):
        own = toy.item_cluster == toy.user_cluster[user]
        columns = part.score(toy.query(user, toy.likes(toy.user_cluster[user])[:4].tolist()), EVERYTHING)
        margins.append(columns["pre_click"][own].mean() - columns["pre_click"][~own].mean())
        likes.append(columns["pre_like"][own & even].mean() - columns["pre_like"][own & ~even].mean())
    assert np.mean(margins) > 0.1
    assert np.mean(likes) > 0.1


def test_every_head_is_a_rate_and_the_score_is_their_weighted_sum(toy: Toy, part: ThreeTower) -> None:
    columns = part.score(toy.query(9, [1]), EVERYTHING)
    assert set(columns) == {"pre_click", "pre_like", "pre_shown", "score"}
    for name in ("pre_click", "pre_like", "pre_shown"):
        assert columns[name].shape == (240,)
        assert ((columns[name] > 0) & (columns[name] < 1)).all()
    wanted = columns["pre_shown"] * columns["pre_click"] * (1.0 + columns["pre_like"])
    np.testing.assert_allclose(columns["score"], wanted, rtol=1e-5)


def test_weights_may_change_without_training(toy: Toy, part: ThreeTower) -> None:
    other = replace(part, config=ThreeTowerConfig(weights={"click": 0.0, "like": 5.0}, shown_power=0.0))
    columns = other.score(toy.query(9, [1]), EVERYTHING)
    np.testing.assert_allclose(columns["score"], 5 * columns["pre_click"] * columns["pre_like"], rtol=1e-5)


def facts_of(part: ThreeTower, *heads: str, per_click: tuple[str, ...] = ("like", "collect")) -> ThreeTowerFacts:
    return ThreeTowerFacts(layout=part.facts.layout, heads=heads, per_click=per_click, dropped={})


def test_fusion_multiplies_rates_per_click_by_the_click_rate(part: ThreeTower) -> None:
    rates, config = np.array([[0.1, 0.2, 0.05]], np.float32), ThreeTowerConfig(weights={"like": 2.0, "collect": 4.0})
    assert fused(rates, facts_of(part, "click", "like", "collect"), config) == pytest.approx([0.16])
    assert fused(rates, facts_of(part, "click", "like", "collect", per_click=()), config) == pytest.approx([0.7])
    assert fused(rates[:, :1], facts_of(part, "click"), config) == pytest.approx([0.1])
    assert fused(rates[:, 1:], facts_of(part, "like", "collect"), config) == pytest.approx([0.6])


def test_fusion_heeds_the_head_shown_as_much_as_it_is_told(part: ThreeTower) -> None:
    rates, facts = np.array([[0.1, 0.25]], np.float32), facts_of(part, "click", "shown")
    for power, wanted in ((0.0, 0.1), (0.5, 0.05), (1.0, 0.025)):
        assert fused(rates, facts, ThreeTowerConfig(shown_power=power)) == pytest.approx([wanted])


def test_rows_drawn_from_the_catalogue_are_only_for_logs_of_what_was_shown(toy: Toy, part: ThreeTower) -> None:
    assert part.facts.heads[-1] == "shown"
    acts = toy.inputs.events.take(toy.inputs.events.action != 0)
    statistics = Statistics.of(acts.item, acts.action, acts.time, len(toy.inputs.catalog))
    without = replace(toy.inputs, events=acts, item_statistics=statistics, _sides={})
    assert ThreeTower.fit(replace_epochs(0), without, 1).facts.heads == ("click", "like")
    none = ThreeTower.fit(ThreeTowerConfig(epochs=0, threads=1, unshown=0), toy.inputs, 1)
    assert none.facts.heads == ("click", "like")


def replace_epochs(epochs: int) -> ThreeTowerConfig:
    return ThreeTowerConfig(epochs=epochs, threads=1, vector_size=16)


def with_column(catalog: Catalog, name: str, rows: list[int], change: float) -> Catalog:
    base, fresh = catalog.columns[name]
    changed = np.array(base)
    changed[rows] += change
    return replace(catalog, columns={**catalog.columns, name: (changed, fresh)})


def test_a_statistic_changes_the_score_and_leaves_the_item_vectors_alone(toy: Toy, part: ThreeTower) -> None:
    counted, _, item, _ = instrumented(part)
    plain = counted.score(toy.query(4, [1]), EVERYTHING)["pre_click"]
    moved = with_column(toy.inputs.catalog, "dynamic", [7], 1.0)
    changed = counted.score(toy.query(4, [1], moved), EVERYTHING)["pre_click"]
    assert np.flatnonzero(plain != changed).tolist() == [7]
    assert item.rows == 0


def test_a_static_change_of_a_fresh_item_renews_its_vector_and_no_other(toy: Toy, part: ThreeTower) -> None:
    counted, _, item, _ = instrumented(part)
    catalog = toy.with_fresh([0, 1, 2])
    fresh = Candidates(np.array([240, 241, 242]))
    before = counted.score(toy.query(4, [1], catalog), fresh)["pre_click"]
    base, rows = catalog.columns["dense"]
    changed = rows.copy()
    changed[1] += 2.0
    renewed = replace(catalog, columns={**catalog.columns, "dense": (base, changed)})
    after = counted.score(toy.query(4, [1], renewed), fresh)["pre_click"]
    assert item.rows == 4
    assert np.flatnonzero(before != after).tolist() == [1]


def test_another_model_brings_its_own_item_vectors(toy: Toy, part: ThreeTower) -> None:
    other = ThreeTower.fit(replace_epochs(0), toy.inputs, 8)
    assert other.vectors.shape == part.vectors.shape
    assert not np.allclose(other.vectors, part.vectors)
    session = Session.open(part.nets.path / "item.onnx")
    np.testing.assert_array_equal(part.vectors, item_vectors(session, toy.inputs.catalog.features(np.arange(240))))


def test_no_candidates_give_empty_columns_and_strangers_are_scored(toy: Toy, part: ThreeTower) -> None:
    assert all(len(column) == 0 for column in part.score(toy.query(1, []), Candidates.empty()).values())
    columns = part.score(toy.query(-1, []), EVERYTHING)
    assert all(np.isfinite(column).all() for column in columns.values())


def test_saved_and_loaded_scores_the_same_and_the_same_seed_gives_the_same_bytes(
    toy: Toy, part: ThreeTower, tmp_path: Path
) -> None:
    for name, each in (("a", part), ("b", ThreeTower.fit(CONFIG, toy.inputs, 1))):
        (tmp_path / name).mkdir()
        each.save(tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
    loaded = ThreeTower.load(CONFIG, tmp_path / "a")
    query = toy.query(3, [5], toy.with_fresh([1]))
    some = Candidates(np.array([240, 3, 9]))
    for name, column in part.score(query, some).items():
        np.testing.assert_array_equal(loaded.score(query, some)[name], column)


def test_heads_that_the_data_does_not_know_are_left_out_and_none_is_an_error(toy: Toy, part: ThreeTower) -> None:
    assert part.facts.heads == ("click", "like", "shown")
    assert part.facts.per_click == ("like",)
    assert set(part.facts.dropped) == {"collect", "share"}
    with pytest.raises(ConfigError, match=r"purchase.*click"):
        ThreeTower.fit(ThreeTowerConfig(heads=("purchase",)), toy.inputs, 1)


def test_attention_in_a_tower_is_refused_with_its_place_in_the_configuration() -> None:
    with pytest.raises(ConfigError, match=r"prerank\.light: .*attention"):
        convert({"kind": "three_tower", "pooling": "attention"}, ThreeTowerConfig, where="prerank.light")
    with pytest.raises(ConfigError, match="head"):
        convert({"kind": "three_tower", "heads": []}, ThreeTowerConfig)
    with pytest.raises(ConfigError, match=r"weights names \['likes'\]"):
        convert({"kind": "three_tower", "weights": {"likes": 1.0}}, ThreeTowerConfig)


def test_a_folder_without_the_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"three_tower\.json"):
        ThreeTower.load(CONFIG, tmp_path)
