from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_world import CLICK, DAY, LIKE, Toy, part_of

from tamis.config import convert
from tamis.data.dataset import Events
from tamis.errors import ArtifactError, ConfigError
from tamis.recall.sequential import Sequential, SequentialConfig, sequences_of
from tamis.types import Catalog, History

CONFIG = SequentialConfig(
    limit=40, length=12, vector_size=16, hidden_size=16, epochs=20, patience=0, batch_size=128, learning_rate=5e-3,
    embedding_learning_rate=2e-2, temperature=0.2,
)  # fmt: skip
ACTIONS = np.array([CLICK], np.uint8)


@pytest.fixture(scope="module")
def part(toy: Toy) -> Sequential:
    return Sequential.fit(CONFIG, toy.inputs, 1)


@pytest.fixture(scope="module")
def saved(part: Sequential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sequential")
    part.save(folder)
    return folder


def with_events(toy: Toy, rows: list[tuple[int, int, int, float]]) -> Toy:
    """The toy world with these events, (user, item, action, day), in place of its own."""
    user, item, action, day = (np.array(column) for column in zip(*rows, strict=True)) if rows else [np.empty(0)] * 4
    none = np.full(len(rows), -1)
    events = Events(
        user.astype(np.int32),
        item.astype(np.int32),
        action.astype(np.uint8),
        np.zeros(len(rows), np.float32),
        day.astype(np.float64) * DAY,
        none.astype(np.int64),
        none.astype(np.int16),
    )
    return replace(toy, inputs=replace(toy.inputs, events=events))


def test_most_of_what_comes_back_is_of_the_cluster_of_the_history(toy: Toy, part: Sequential) -> None:
    shares = []
    for cluster in range(6):
        ids = part.recall(toy.query(-1, toy.likes(cluster)[:5].tolist())).ids[:20]
        shares.append((toy.item_cluster[ids] == cluster).mean())
    assert np.mean(shares) > 0.7  # at random: 1/6


def test_held_out_clicks_are_found_far_more_often_than_at_random(toy: Toy, part: Sequential) -> None:
    valid = toy.inputs.valid
    rows = np.flatnonzero(valid.labels["click"])
    found = asked = 0
    for row in rows:
        request = np.searchsorted(valid.first, row, "right") - 1
        history = valid.timeline.item[valid.history_start[request] : valid.history_end[request]][::-1]
        if len(history) and valid.item[row] not in history:
            asked += 1
            found += int(valid.item[row] in part.recall(toy.query(-1, history.tolist())).ids)
    assert asked > 50
    assert found / asked > 2 * 40 / 240


def test_the_users_own_history_is_left_out_and_answers_are_best_first(toy: Toy, part: Sequential) -> None:
    history = toy.likes(2)[:6].tolist()
    found = part.recall(toy.query(5, history))
    assert len(found) == 40
    assert not np.isin(found.ids, history).any()
    similarity = found.column("similarity")
    assert (np.diff(similarity) <= 0).all()
    assert (np.abs(similarity) <= 1 + 1e-5).all()


def test_nobodys_past_gives_nothing(toy: Toy, part: Sequential) -> None:
    assert len(part.recall(toy.query(-1, []))) == 0
    assert len(part.recall(toy.query(-1, [-1, -1]))) == 0


def test_items_without_a_vector_are_passed_over_in_a_history_and_never_found(toy: Toy, part: Sequential) -> None:
    catalog = toy.with_fresh([1, 1, 1])
    likes = toy.likes(1)[:4].tolist()
    plain, mixed = toy.query(3, likes, catalog), toy.query(3, [240, likes[0], 241, *likes[1:]], catalog)
    np.testing.assert_array_equal(part.recall(plain).ids, part.recall(mixed).ids)
    assert (part.recall(mixed).ids < 240).all()
    assert len(part.recall(toy.query(3, [240, 241], catalog))) == 0


def test_one_entry_right_after_another_of_the_same_item_counts_once(toy: Toy, part: Sequential) -> None:
    a, b, c = toy.likes(4)[:3].tolist()
    once, twice = (part.history_rows(toy.query(3, items).history) for items in ([a, b, c], [a, a, b, c, c]))
    assert part.known.items[once].tolist() == [c, b, a]  # oldest first
    np.testing.assert_array_equal(once, twice)


def test_only_the_newest_entries_and_the_chosen_actions_are_read(toy: Toy, part: Sequential) -> None:
    items = part.known.items[:20]
    history = History(items[::-1], np.full(20, CLICK, np.uint8), np.arange(20.0)[::-1])
    assert part.known.items[part.history_rows(history)].tolist() == items[-CONFIG.length :].tolist()
    history = replace(history, actions=np.where(np.arange(20) % 2, CLICK, LIKE).astype(np.uint8))
    assert len(part.history_rows(history)) == 10


def test_a_small_catalogue_is_never_left(toy: Toy, part: Sequential) -> None:
    old, rows = toy.inputs.catalog, np.arange(50)
    small = Catalog.of(old.keys[0][:50], {name: old.column(name, rows) for name in old.columns})
    assert (part.recall(toy.query(5, [1, 2], small)).ids < 50).all()


def test_similar_items_are_of_the_same_cluster(toy: Toy, part: Sequential) -> None:
    shares = []
    for item in part.known.items[::11].tolist():
        ids, scores = part.similar(item, 10)
        assert len(ids) == 10
        assert item not in ids
        assert (np.diff(scores) <= 0).all()
        shares.append((toy.item_cluster[ids] == toy.item_cluster[item]).mean())
    assert np.mean(shares) > 0.6
    assert len(part.similar(240, 5)[0]) == 0


def test_sequences_hold_out_what_happened_from_the_first_validation_request_on(toy: Toy) -> None:
    items, sequences = sequences_of(toy.inputs, ACTIONS)
    events, since = toy.inputs.events, toy.inputs.valid.time.min()
    clicks = events.action == CLICK
    assert items.tolist() == np.unique(events.item[clicks & (events.time < since)]).tolist()
    for user in range(0, 120, 17):
        mine = clicks & (events.user == user) & np.isin(events.item, items)
        early, all_of = events.item[mine & (events.time < since)], events.item[mine]
        own = slice(sequences.starts[user], sequences.starts[user + 1])
        changed = np.diff(all_of, prepend=-1) != 0
        assert items[sequences.items[own]].tolist() == all_of[changed].tolist()
        learnt = sequences.learnt[user] - sequences.starts[user]
        assert learnt == np.sum(np.diff(early, prepend=-1) != 0)


def test_nothing_after_validation_begins_shapes_the_net(toy: Toy, saved: Path, tmp_path: Path) -> None:
    since = toy.inputs.valid.time.min()
    late = toy.inputs.events.time >= since
    shuffled = toy.inputs.events.item.copy()
    shuffled[late] = np.random.default_rng(1).permutation(shuffled[late])
    events = replace(toy.inputs.events, item=shuffled)
    Sequential.fit(CONFIG, replace(toy.inputs, events=events), 1).save(tmp_path)
    assert (tmp_path / "vectors.npy").read_bytes() == (saved / "vectors.npy").read_bytes()


def test_without_validation_everything_is_learnt(toy: Toy) -> None:
    inputs = replace(toy.inputs, valid=part_of(toy.inputs.valid, 0, 0))
    _, sequences = sequences_of(inputs, ACTIONS)
    np.testing.assert_array_equal(sequences.learnt, sequences.starts[1:])


ONCE, AGAIN, OTHERWISE = (3, 7, CLICK, 1.0), (3, 7, CLICK, 2.0), (3, 7, LIKE, 1.0)


@pytest.mark.parametrize("rows", [[], [OTHERWISE], [ONCE], [ONCE, AGAIN]])
def test_next_to_nothing_to_learn_from_is_no_error(toy: Toy, rows: list, tmp_path: Path) -> None:
    part = Sequential.fit(CONFIG, with_events(toy, rows).inputs, 1)
    part.save(tmp_path)
    for each in (part, Sequential.load(CONFIG, tmp_path)):
        assert len(each.recall(toy.query(3, [7]))) == 0
        assert len(each.similar(7, 5)[0]) == 0


def test_saved_and_loaded_answers_the_same_and_the_same_seed_gives_the_same_bytes(
    toy: Toy, part: Sequential, saved: Path, tmp_path: Path
) -> None:
    query = toy.query(7, [4, 9])
    np.testing.assert_array_equal(Sequential.load(CONFIG, saved).recall(query).ids, part.recall(query).ids)
    Sequential.fit(CONFIG, toy.inputs, 1).save(tmp_path)
    assert sorted(f.name for f in saved.iterdir()) == sorted(f.name for f in tmp_path.iterdir())
    for file in saved.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name


def test_a_history_that_never_holds_the_positives_is_refused(toy: Toy) -> None:
    with pytest.raises(ConfigError, match=r"positives \['share'\].*history.actions are \['click'\]"):
        Sequential.fit(replace_positives("share"), toy.inputs, 1)


def replace_positives(*names: str) -> SequentialConfig:
    return SequentialConfig(positives=names)


def test_a_net_that_cannot_be_is_refused_with_its_place_in_the_configuration() -> None:
    with pytest.raises(ConfigError, match=r"recall\.next: .*attention_heads"):
        convert({"kind": "sequential", "vector_size": 10, "attention_heads": 4}, SequentialConfig, where="recall.next")


def test_a_folder_without_the_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        Sequential.load(CONFIG, tmp_path)
