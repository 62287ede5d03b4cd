from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_world import CLUSTERS, Toy, part_of

from tamis.config import convert
from tamis.errors import ArtifactError, ConfigError
from tamis.recall.youtube_dnn import YoutubeDnn, YoutubeDnnConfig
from tamis.types import Catalog

CONFIG = YoutubeDnnConfig(
    limit=40, epochs=20, patience=0, batch_size=128, vector_size=16, user_layers=(64,), temperature=0.2
)


@pytest.fixture(scope="module")
def part(toy: Toy) -> YoutubeDnn:
    return YoutubeDnn.fit(CONFIG, toy.inputs, 1)


@pytest.fixture(scope="module")
def saved(part: YoutubeDnn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("youtube_dnn")
    part.save(folder)
    return folder


def test_a_user_without_an_id_is_served_by_his_history(toy: Toy, part: YoutubeDnn) -> None:
    shares = []
    for cluster in range(CLUSTERS):
        history = toy.likes(cluster)[:4].tolist()
        ids = part.recall(toy.query(-1, history)).ids
        assert not np.isin(ids, history).any()
        shares.append((toy.item_cluster[ids[:20]] == cluster).mean())
    assert np.mean(shares) > 0.4  # at random: 1/6


def test_held_out_positives_are_found_far_more_often_than_at_random(toy: Toy, part: YoutubeDnn) -> None:
    valid = toy.inputs.valid
    found = asked = 0
    for row in np.flatnonzero(valid.labels["click"]):
        request = np.searchsorted(valid.first, row, "right") - 1
        history = valid.timeline.item[valid.history_start[request] : valid.history_end[request]][::-1]
        if valid.item[row] not in history:
            query = toy.query(int(valid.user[request]), history.tolist(), now=float(valid.time[request]))
            asked += 1
            found += int(valid.item[row] in part.recall(query).ids)
    assert asked > 50
    assert found / asked > 2 * 40 / 240


def test_a_stranger_without_a_history_gets_something(toy: Toy, part: YoutubeDnn) -> None:
    found = part.recall(toy.query(-1, []))
    assert len(np.unique(found.ids)) == 40
    assert (np.diff(found.column("similarity")) <= 0).all()


def test_fresh_items_are_neither_found_nor_in_the_way(toy: Toy, part: YoutubeDnn) -> None:
    found = part.recall(toy.query(3, [240, *toy.likes(1)[:4].tolist()], toy.with_fresh([1, 1])))
    assert len(found) == 40
    assert (found.ids < 240).all()
    old, rows = toy.inputs.catalog, np.arange(50)
    small = Catalog.of(old.keys[0][:50], {name: old.column(name, rows) for name in old.columns})
    assert (part.recall(toy.query(5, [1, 2], small)).ids < 50).all()


def test_similar_items_are_of_the_same_cluster(toy: Toy, part: YoutubeDnn) -> None:
    ids, _ = zip(*(part.similar(item, 10) for item in part.known.items[::11].tolist()), strict=True)
    clusters = toy.item_cluster[part.known.items[::11]]
    assert np.mean(toy.item_cluster[np.stack(ids)] == clusters[:, None]) > 0.6
    assert len(part.similar(240, 5)[0]) == 0


def test_saved_and_loaded_answers_the_same_and_the_same_seed_gives_the_same_bytes(
    toy: Toy, part: YoutubeDnn, saved: Path, tmp_path: Path
) -> None:
    query = toy.query(7, [4, 9])
    np.testing.assert_array_equal(YoutubeDnn.load(CONFIG, saved).recall(query).ids, part.recall(query).ids)
    YoutubeDnn.fit(CONFIG, toy.inputs, 1).save(tmp_path)
    assert sorted(f.name for f in saved.iterdir()) == sorted(f.name for f in tmp_path.iterdir())
    for file in saved.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name


def test_without_any_row_or_positive_it_finds_nothing(toy: Toy, tmp_path: Path) -> None:
    train, valid = toy.inputs.train, toy.inputs.valid
    idle = replace(train, labels={"click": np.zeros_like(train.labels["click"])})
    for name, samples in (("none", part_of(train, 0, 0)), ("idle", idle)):
        fitted = YoutubeDnn.fit(CONFIG, toy.inputs.with_samples(samples, part_of(valid, 0, 0)), 1)
        folder = tmp_path / name
        folder.mkdir()
        fitted.save(folder)
        for each in (fitted, YoutubeDnn.load(CONFIG, folder)):
            assert len(each.recall(toy.query(3, [7]))) == 0


def test_data_without_the_wanted_actions_is_refused(toy: Toy) -> None:
    with pytest.raises(ConfigError, match="purchase"):
        YoutubeDnn.fit(YoutubeDnnConfig(positives=("purchase",)), toy.inputs, 1)


def test_settings_that_cannot_be_are_refused_with_their_place() -> None:
    with pytest.raises(ConfigError, match=r"recall\.dnn: .*unknown_share"):
        convert({"kind": "youtube_dnn", "unknown_share": 1.0}, YoutubeDnnConfig, where="recall.dnn")


def test_a_folder_without_the_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"layout\.json"):
        YoutubeDnn.load(CONFIG, tmp_path)
