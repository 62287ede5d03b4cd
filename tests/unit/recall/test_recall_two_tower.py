from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from toy_world import CLUSTERS, Toy

from tamis.config import convert
from tamis.errors import ArtifactError, ConfigError
from tamis.index.vectors import Vectors, VectorsConfig
from tamis.recall.two_tower import TwoTower, TwoTowerConfig, best_of_all
from tamis.types import Catalog

CONFIG = TwoTowerConfig(
    limit=40, epochs=5, batch_size=128, extra_negatives=64, patience=0, threads=1, vector_size=16, user_layers=(64,)
)


@pytest.fixture(scope="module")
def part(toy: Toy) -> TwoTower:
    return TwoTower.fit(CONFIG, toy.inputs, 1)


@pytest.fixture(scope="module")
def saved(part: TwoTower, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two_tower")
    part.save(folder)
    return folder


def share_of_cluster(toy: Toy, part: TwoTower, user: int, cluster: int) -> float:
    ids = part.recall(toy.query(user, toy.likes(cluster)[:4].tolist())).ids
    return float((toy.item_cluster[ids] == cluster).mean())


def test_most_of_what_comes_back_is_of_the_users_cluster(toy: Toy, part: TwoTower) -> None:
    share = np.mean([share_of_cluster(toy, part, user, toy.user_cluster[user]) for user in range(0, 120, 7)])
    assert share > 0.7  # at random: 1/6; a cluster holds about 40 items and 40 are asked for


def test_held_out_positives_are_found_far_more_often_than_at_random(toy: Toy, part: TwoTower) -> None:
    valid = toy.inputs.valid
    rows = np.flatnonzero(valid.labels["click"])
    found = 0
    for row in rows:
        request = np.searchsorted(valid.first, row, "right") - 1
        history = valid.timeline.item[valid.history_start[request] : valid.history_end[request]][::-1]
        query = toy.query(int(valid.user[request]), history.tolist(), now=float(valid.time[request]))
        found += int(valid.item[row] in part.recall(query).ids)
    assert found / len(rows) > 3 * 40 / 240


@pytest.mark.parametrize("loss", ["pointwise", "pairwise_hinge", "pairwise_logistic"])
def test_every_loss_finds_the_users_cluster(toy: Toy, loss: str) -> None:  # T-8.7
    part = TwoTower.fit(structs.replace(CONFIG, loss=loss), toy.inputs, 1)
    assert np.mean([share_of_cluster(toy, part, user, toy.user_cluster[user]) for user in range(0, 120, 7)]) > 0.6


def test_several_interests_are_searched_and_merged(toy: Toy, tmp_path: Path) -> None:
    part = TwoTower.fit(structs.replace(CONFIG, interests=3), toy.inputs, 1)
    query = toy.query(3, [*toy.likes(0)[:3], *toy.likes(1)[:3]])
    vectors = part.user_vectors(query)
    assert vectors.shape == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    found = part.recall(query)
    nearest = (part.index.main @ vectors.T).max(axis=1)
    assert found.ids.tolist() == np.lexsort((np.arange(240), -nearest))[:40].tolist()
    np.testing.assert_allclose(found.column("similarity"), nearest[found.ids], atol=1e-6)
    part.save(tmp_path)
    again = TwoTower.load(part.config, tmp_path)
    np.testing.assert_array_equal(again.recall(query).ids, found.ids)
    assert np.mean([share_of_cluster(toy, part, user, toy.user_cluster[user]) for user in range(0, 120, 7)]) > 0.6


def test_objectives_are_searched_and_merged(toy: Toy) -> None:
    config = structs.replace(CONFIG, positives=("click", "like"), objectives=True, epochs=2)
    part = TwoTower.fit(config, toy.inputs, 1)
    query = toy.query(3, toy.likes(0)[:3].tolist())
    vectors = part.user_vectors(query)
    assert vectors.shape == (2, 16)
    nearest = (part.index.main @ vectors.T).max(axis=1)
    assert part.recall(query).ids.tolist() == np.lexsort((np.arange(240), -nearest))[:40].tolist()


def test_a_list_of_several_answers_has_each_item_once_with_its_best_score() -> None:
    ids = np.array([[4, 2, -1], [2, 7, 9]])
    scores = np.array([[0.9, 0.5, -np.inf], [0.8, 0.5, 0.1]], np.float32)
    merged, score = best_of_all(ids, scores)
    assert merged.tolist() == [4, 2, 7, 9, -1]
    np.testing.assert_allclose(score, [0.9, 0.8, 0.5, 0.1, -np.inf])


def test_a_user_without_an_id_is_served_by_his_history(toy: Toy, part: TwoTower) -> None:
    assert np.mean([share_of_cluster(toy, part, -1, cluster) for cluster in range(CLUSTERS)]) > 0.7


def test_a_click_changes_the_next_answer(toy: Toy, part: TwoTower) -> None:
    before = part.recall(toy.query(3, toy.likes(0)[:2].tolist())).ids
    after = part.recall(toy.query(3, toy.likes(1)[:2].tolist() + toy.likes(0)[:2].tolist())).ids
    assert before.tolist() != after.tolist()


def test_a_stranger_without_a_history_gets_something(toy: Toy, part: TwoTower) -> None:
    found = part.recall(toy.query(-1, []))
    assert len(found) == 40
    assert len(np.unique(found.ids)) == 40


def test_unseen_items_with_known_attributes_land_in_their_cluster(toy: Toy, part: TwoTower) -> None:
    catalog = toy.with_fresh([cluster for cluster in range(CLUSTERS) for _ in range(4)])
    own = other = 0
    for cluster in range(CLUSTERS):
        ids = part.recall(toy.query(-1, toy.likes(cluster)[:4].tolist(), catalog)).ids
        fresh = ids[ids >= 240] - 240
        own += int((fresh // 4 == cluster).sum())
        other += int((fresh // 4 != cluster).sum())
    assert own > 0.6 * 24
    assert other < own / 4


def test_answers_are_best_first_and_never_beyond_the_catalogue(toy: Toy, part: TwoTower) -> None:
    found = part.recall(toy.query(5, [1, 2]))
    similarity = found.column("similarity")
    assert (np.diff(similarity) <= 0).all()
    assert (np.abs(similarity) <= 1 + 1e-5).all()
    old = toy.inputs.catalog
    rows = np.arange(50)
    small = Catalog.of(old.keys[0][:50], {name: old.column(name, rows) for name in old.columns})
    assert (part.recall(toy.query(5, [1, 2], small)).ids < 50).all()


def test_without_a_limit_the_whole_catalogue_comes_back(toy: Toy, part: TwoTower) -> None:
    everything = replace(part, config=TwoTowerConfig(limit=0)).recall(toy.query(5, [1, 2]))
    assert sorted(everything.ids.tolist()) == list(range(240))


def test_an_approximate_index_gives_nearly_the_same_answer(toy: Toy, part: TwoTower) -> None:
    approximate = replace(part, index=Vectors.build(part.index.main, VectorsConfig(kind="ivf"), k=40))
    query = toy.query(5, toy.likes(5)[:3].tolist())
    same = np.intersect1d(part.recall(query).ids, approximate.recall(query).ids)
    assert len(same) >= 36


def test_similar_items_are_of_the_same_cluster_and_not_the_item_itself(toy: Toy, part: TwoTower) -> None:
    shares = []
    for item in range(0, 240, 11):
        ids, scores = part.similar(item, 10)
        assert len(ids) == 10
        assert item not in ids
        assert (np.diff(scores) <= 0).all()
        shares.append((toy.item_cluster[ids] == toy.item_cluster[item]).mean())
    assert np.mean(shares) > 0.7


def test_similar_copes_with_items_it_does_not_know(toy: Toy, part: TwoTower) -> None:
    assert len(part.similar(240, 5)[0]) == 0
    assert len(part.similar(-1, 5)[0]) == 0
    assert len(part.similar(3, 0)[0]) == 0
    assert len(part.similar(3, 10_000)[0]) == 239
    catalog = toy.with_fresh([2, 2, 2])
    ids, _ = part.similar(240, 5, catalog)
    assert len(ids) == 5
    assert 240 not in ids
    assert len(part.similar(243, 5, catalog)[0]) == 0


def test_saved_and_loaded_answers_the_same_and_can_be_saved_again(
    toy: Toy, part: TwoTower, saved: Path, tmp_path: Path
) -> None:
    loaded = TwoTower.load(CONFIG, saved)
    loaded.save(tmp_path)
    again = TwoTower.load(CONFIG, tmp_path)
    query = toy.query(7, [4, 9], toy.with_fresh([1]))
    for each in (loaded, again):
        np.testing.assert_array_equal(each.recall(query).ids, part.recall(query).ids)
    for file in saved.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name


def test_the_same_seed_gives_the_same_bytes(toy: Toy, saved: Path, tmp_path: Path) -> None:
    TwoTower.fit(CONFIG, toy.inputs, 1).save(tmp_path)
    assert sorted(f.name for f in saved.iterdir()) == sorted(f.name for f in tmp_path.iterdir())
    for file in saved.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name


def test_nothing_of_the_training_correction_is_in_the_served_score(toy: Toy, part: TwoTower) -> None:
    query = toy.query(7, [4, 9])
    found = part.recall(query)
    cosine = part.index.take(found.ids) @ part.user_vectors(query)[0]
    np.testing.assert_allclose(found.column("similarity"), cosine, atol=1e-6)


def test_the_temporary_nets_go_with_the_part(toy: Toy) -> None:
    part = TwoTower.fit(replace_epochs(0), toy.inputs, 1)
    path = part.nets.path
    assert path.is_dir()
    del part
    assert not path.exists()


def replace_epochs(epochs: int) -> TwoTowerConfig:
    return TwoTowerConfig(epochs=epochs, threads=1, user_layers=(8,), item_layers=(8,))


def test_data_without_the_wanted_actions_is_refused(toy: Toy) -> None:
    with pytest.raises(ConfigError, match="purchase"):
        TwoTower.fit(TwoTowerConfig(positives=("purchase",)), toy.inputs, 1)


def test_attention_in_a_tower_is_refused_with_its_place_in_the_configuration() -> None:
    with pytest.raises(ConfigError, match=r"recall\.towers: .*attention"):
        convert({"kind": "two_tower", "pooling": "attention"}, TwoTowerConfig, where="recall.towers")
    with pytest.raises(ConfigError, match="interests: with objectives"):
        convert({"kind": "two_tower", "interests": 2, "objectives": True}, TwoTowerConfig)
    with pytest.raises(ConfigError, match="temperature"):
        convert({"kind": "two_tower", "temperature": 0.0}, TwoTowerConfig)
    with pytest.raises(ConfigError, match="unknown_share"):
        convert({"kind": "two_tower", "unknown_share": 1.0}, TwoTowerConfig)


def test_a_folder_without_the_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"layout\.json"):
        TwoTower.load(CONFIG, tmp_path)
