"""T-12.9 and T-12.11 on the fitted channel, and what it must survive."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from toy_world import CLUSTERS, Toy, part_of

from tamis.config import convert
from tamis.errors import ArtifactError, ConfigError
from tamis.recall.deep_retrieval import DeepRetrieval, DeepRetrievalConfig
from tamis.types import Catalog

CONFIG = DeepRetrievalConfig(
    limit=40,
    beam=4,
    width=12,
    epochs=6,
    patience=0,
    batch_size=128,
    learning_rate=0.01,  # six epochs here are 78 steps
    extra_negatives=64,
    vector_size=16,
    user_layers=(64,),
)


@pytest.fixture(scope="module")
def part(toy: Toy) -> DeepRetrieval:
    return DeepRetrieval.fit(CONFIG, toy.inputs, 1)


@pytest.fixture(scope="module")
def saved(part: DeepRetrieval, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deep_retrieval")
    part.save(folder)
    return folder


def share_of_cluster(toy: Toy, part: DeepRetrieval, user: int, cluster: int) -> float:
    ids = part.recall(toy.query(user, toy.likes(cluster)[:4].tolist())).ids
    return float((toy.item_cluster[ids] == cluster).mean())


def test_most_of_what_comes_back_is_of_the_users_cluster(toy: Toy, part: DeepRetrieval) -> None:
    share = np.mean([share_of_cluster(toy, part, user, toy.user_cluster[user]) for user in range(0, 120, 7)])
    assert share > 0.7  # at random: 1/6; a cluster holds about 40 items and 40 are asked for


def test_a_user_without_an_id_is_served_by_his_history(toy: Toy, part: DeepRetrieval) -> None:
    assert np.mean([share_of_cluster(toy, part, -1, cluster) for cluster in range(CLUSTERS)]) > 0.7


def test_it_finds_nearly_what_a_search_of_everything_finds_and_looks_at_a_part(toy: Toy, part: DeepRetrieval) -> None:
    unlimited = replace(part, config=DeepRetrievalConfig(limit=0, beam=CONFIG.beam))
    same, looked_at = [], []
    for user in range(0, 120, 5):
        query = toy.query(user, toy.likes(toy.user_cluster[user])[:4].tolist())
        found = unlimited.recall(query).ids
        best = np.argsort(-(part.vectors @ part.user_vector(query)[0]), kind="stable")[:20]
        same.append(np.isin(best, found).mean())
        looked_at.append(len(found))
    assert np.mean(same) > 0.7
    assert np.mean(looked_at) < 0.6 * 240


def test_items_that_share_a_path_are_mostly_of_one_cluster(toy: Toy, part: DeepRetrieval) -> None:
    starts, of = part.items.starts, toy.item_cluster[part.items.items]
    common = [np.bincount(of[a:b]).max() for a, b in pairwise(starts)]
    assert np.sum(common) / len(of) > 0.8  # a path of ten random items: 0.35


def test_items_have_up_to_j_paths_and_only_those_with_positives_have_any(toy: Toy, part: DeepRetrieval) -> None:
    counts = np.bincount(part.items.items, minlength=240)
    clicked = np.zeros(240, np.bool_)
    clicked[toy.inputs.train.item[toy.inputs.train.labels["click"] > 0]] = True
    assert (counts[clicked] >= 1).all()
    assert (counts[~clicked] == 0).all()
    assert counts.max() <= 3
    assert ((part.items.paths >= 0) & (part.items.paths < 12**3)).all()


def test_answers_are_best_first_and_the_score_is_the_cosine(toy: Toy, part: DeepRetrieval) -> None:
    query = toy.query(7, [4, 9])
    found = part.recall(query)
    assert (np.diff(found.column("score")) <= 0).all()
    cosine = part.vectors[found.ids] @ part.user_vector(query)[0]
    np.testing.assert_allclose(found.column("score"), cosine, atol=1e-6)


def test_a_stranger_without_a_history_gets_something(toy: Toy, part: DeepRetrieval) -> None:
    found = part.recall(toy.query(-1, []))
    assert 0 < len(found) <= 40
    assert len(np.unique(found.ids)) == len(found)


def test_items_published_since_have_no_path_and_those_gone_do_not_come_back(toy: Toy, part: DeepRetrieval) -> None:
    for cluster in range(CLUSTERS):
        ids = part.recall(toy.query(-1, toy.likes(cluster)[:4].tolist(), toy.with_fresh([cluster] * 4))).ids
        assert (ids < 240).all()
    old, rows = toy.inputs.catalog, np.arange(50)
    small = Catalog.of(old.keys[0][:50], {name: old.column(name, rows) for name in old.columns})
    assert (part.recall(toy.query(5, [1, 2], small)).ids < 50).all()


def test_without_positives_nothing_is_recalled(toy: Toy) -> None:
    silent = replace(toy.inputs.train, labels={"click": np.zeros_like(toy.inputs.train.labels["click"])})
    for train in (silent, part_of(toy.inputs.train, 0, 0)):
        part = DeepRetrieval.fit(CONFIG, toy.inputs.with_samples(train, toy.inputs.valid), 1)
        assert len(part.recall(toy.query(3, [1, 2]))) == 0


def test_a_catalogue_of_one_item_is_found(toy: Toy) -> None:
    inputs, train = toy.inputs, toy.inputs.train
    old = inputs.catalog
    catalog = Catalog.of(old.keys[0][:1], {name: old.column(name, np.arange(1)) for name in old.columns})
    single = replace(
        train,
        item=np.zeros_like(train.item),
        timeline=replace(train.timeline, item=np.zeros_like(train.timeline.item)),
    )
    events = replace(inputs.events, item=np.zeros_like(inputs.events.item))
    alone = replace(inputs, catalog=catalog, events=events).with_samples(single, part_of(single, 0, 0))
    config = convert({"kind": "deep_retrieval", "epochs": 1}, DeepRetrievalConfig)
    assert DeepRetrieval.fit(config, alone, 1).recall(toy.query(3, [0], catalog)).ids.tolist() == [0]


def test_the_courses_penalty_is_a_setting(toy: Toy) -> None:
    config = convert(
        {"kind": "deep_retrieval", "penalty": "course", "epochs": 1, "width": 6, "patience": 0}, DeepRetrievalConfig
    )
    assert len(DeepRetrieval.fit(config, toy.inputs, 1).recall(toy.query(3, [1, 2])))


def test_saved_and_loaded_answers_the_same_and_can_be_saved_again(
    toy: Toy, part: DeepRetrieval, saved: Path, tmp_path: Path
) -> None:
    loaded = DeepRetrieval.load(CONFIG, saved)
    loaded.save(tmp_path)
    again = DeepRetrieval.load(CONFIG, tmp_path)
    query = toy.query(7, [4, 9])
    for each in (loaded, again):
        np.testing.assert_array_equal(each.recall(query).ids, part.recall(query).ids)
    for file in saved.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name


def test_the_same_seed_gives_the_same_bytes(toy: Toy, saved: Path, tmp_path: Path) -> None:
    DeepRetrieval.fit(CONFIG, toy.inputs, 1).save(tmp_path)
    assert sorted(f.name for f in saved.iterdir()) == sorted(f.name for f in tmp_path.iterdir())
    for file in saved.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name


def test_data_without_the_wanted_actions_is_refused(toy: Toy) -> None:
    with pytest.raises(ConfigError, match="purchase"):
        DeepRetrieval.fit(DeepRetrievalConfig(positives=("purchase",)), toy.inputs, 1)


@pytest.mark.parametrize(
    ("key", "value"), [("depth", 0), ("width", -1), ("beam", 0), ("kept", 2), ("alpha", -1.0), ("penalty", "none")]
)
def test_impossible_settings_are_refused_with_their_place(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"recall\.deep: .*{key}"):
        convert({"kind": "deep_retrieval", key: value}, DeepRetrievalConfig, where="recall.deep")


def test_a_folder_without_the_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"layout\.json"):
        DeepRetrieval.load(CONFIG, tmp_path)
