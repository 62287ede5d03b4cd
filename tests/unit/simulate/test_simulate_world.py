import hashlib

import numpy as np
import pytest
from scipy.stats import rankdata

from tamis.simulate.behaviour import PREFERENCES, examination
from tamis.simulate.memory import Memory
from tamis.simulate.sessions import FLAGS
from tamis.simulate.world import World, WorldConfig

DAY = 86_400.0


def auc(labels, scores):
    labels, ranks = labels.ravel().astype(bool), rankdata(scores.ravel())
    positives = labels.sum()
    return (ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * (len(labels) - positives))


def fingerprint(world):
    tables = world.tables()
    digest = hashlib.blake2b()
    for name in ("users", "items", "requests", "events"):
        digest.update(getattr(tables, name).write_ipc(None).getvalue())
    return digest.hexdigest()


def test_the_same_seed_gives_the_same_bytes(world):
    assert fingerprint(World.generate(WorldConfig.tiny())) == fingerprint(world)


def test_another_seed_gives_another_world(world):
    other = World.generate(WorldConfig.tiny(seed=2)).tables()
    tables = world.tables()
    for name in ("users", "items", "requests", "events"):
        assert not getattr(other, name).equals(getattr(tables, name))


def test_progress_is_told_after_every_day():
    told = []
    World.generate(WorldConfig.tiny(), lambda *news: told.append(news))
    assert told == [("days of the world", day, 6) for day in range(1, 7)]


def test_counts_are_near_the_config(world):
    config, log = world.config, world.log
    assert abs(log.items.size / config.impressions - 1) < 0.2
    click_rate = log.flag("click").mean()
    assert 0.06 < click_rate < 0.13
    likes = log.flag("like").sum() / log.flag("click").sum()
    assert 0.10 < likes < 0.25
    assert 0.3 < log.flag("long_view").sum() / log.flag("click").sum() < 0.7
    assert 0.0003 < log.flag("hide").mean() < 0.005


def test_new_items_appear_every_day_and_are_shown_only_once_they_are_out(world):
    config, published = world.config, world.population.items.publish_time
    day = np.floor((published - config.start_time) / DAY)
    for number in range(config.days):
        assert (day == number).sum() == config.new_items // config.days
    assert (published[world.log.items] <= world.log.time[:, None]).all()
    last_day = world.log.time >= config.end_time - DAY
    assert (published[world.log.items[last_day]] > config.end_time - 2 * DAY).any()


def test_new_users_come_every_day_and_not_before_they_register(world):
    register = world.population.users.register_time
    assert (world.log.time >= register[world.log.user]).all()
    new = np.nonzero(register >= world.config.start_time)[0]
    assert len(new) == 30
    assert np.isin(new, world.log.user).all()


def test_no_page_shows_an_item_twice(world):
    ordered = np.sort(world.log.items, axis=1)
    assert (ordered[:, 1:] != ordered[:, :-1]).all()


def test_some_users_and_items_get_most_of_the_traffic(world):
    pages = np.sort(np.bincount(world.log.user, minlength=world.config.users))[::-1]
    assert pages[:40].sum() > 0.4 * pages.sum()
    shown = np.sort(np.bincount(world.log.items.ravel(), minlength=world.config.items))[::-1]
    assert shown[:60].sum() > 0.2 * shown.sum()


def test_evenings_are_busier_than_nights(world):
    hour = world.log.time % DAY // 3600
    assert ((hour >= 19) & (hour < 22)).sum() > 3 * ((hour >= 2) & (hour < 5)).sum()


def test_click_rate_falls_down_the_page(world):
    clicks = world.log.flag("click").mean(axis=0)
    assert clicks[0] > clicks[2:5].mean() > clicks[7:].mean()


def test_click_rate_falls_down_the_page_for_the_same_items_too(world):
    log = world.log
    first = world.respond(log.user, log.items, log.time, np.zeros(10, np.int64))["click"]
    last = world.respond(log.user, log.items, log.time, np.full(10, 9))["click"]
    assert (first | ~last).all()  # the same luck: what is clicked lower down is clicked at the top
    assert last.sum() / first.sum() == pytest.approx(float(examination(np.array(9))), abs=0.06)


def test_seeing_an_item_again_lowers_the_wish_to_click(world):
    log, memory = world.log, Memory.empty(200)
    users, rows = np.unique(log.user, return_index=True)
    items, times = log.items[rows], np.full(len(users), world.config.end_time)
    unclicked = {"click": np.zeros(items.shape, np.bool_), "time": times[:, None] + np.zeros(10)}
    expected, clicks = [], []
    for _ in range(4):
        expected.append(world.behaviour.expect(users, items, times, memory.recent(users))["click"])
        clicks.append(world.respond(users, items, times, memory=memory)["click"].sum())
        memory.remember(users, items, unclicked)
    assert (np.diff(np.stack(expected), axis=0) < 0).all()
    assert clicks[3] < 0.7 * clicks[0]


def test_a_click_makes_similar_items_more_attractive_for_a_while(world):
    items, end = world.population.items, world.config.end_time
    item = int(np.nonzero(items.category == items.category[0])[0][0])
    alike = int(np.nonzero((items.topic == items.topic[item]) & (np.arange(600) != item))[0][0])
    user, pair = np.array([0]), np.array([[alike]])
    click = {"click": np.array([[True]]), "time": np.array([[end]])}

    def wish(later, memory):
        return world.behaviour.expect(user, pair, np.array([end + later]), memory.recent(user))["click"][0, 0]

    before, after = world.memory.copy(), world.memory.copy()
    after.remember(user, np.array([[item]]), click)
    soon, much_later = (wish(later, after) / wish(later, before) for later in (60.0, 2 * DAY))
    assert soon > 1.15
    assert much_later == pytest.approx(1.0, abs=0.02)


def test_the_log_can_be_replayed_page_by_page(world):
    log = world.log
    outcomes = world.respond(log.user, log.items, log.time)
    for action in FLAGS:
        assert np.array_equal(outcomes[action], log.flag(action)), action
    assert np.array_equal(outcomes["play"], log.play)


def test_a_page_gets_the_same_answer_alone_and_in_company(world):
    log = world.log
    together = world.respond(log.user[:20], log.items[:20], log.time[:20])
    for row in range(20):
        one = slice(row, row + 1)
        alone = world.respond(log.user[one], log.items[one], log.time[one])
        for name, values in alone.items():
            assert np.array_equal(values[0], together[name][row]), name


def test_no_item_gets_no_response(world):
    outcomes = world.respond(np.array([3]), np.full((1, 5), -1), np.array([world.config.end_time]))
    assert set(outcomes) == {*PREFERENCES, "time"}
    assert all(not values.any() for name, values in outcomes.items() if name != "time")
    empty = world.respond(np.empty(0, np.int64), np.empty((0, 10), np.int64), np.empty(0))
    assert empty["click"].shape == (0, 10)


def test_the_oracle_ranks_clicked_items_first_and_better_than_popularity(world):
    log = world.log
    last = log.time >= world.config.end_time - DAY
    clicks, shown = log.flag("click"), np.bincount(log.items[~last].ravel(), minlength=600)
    clicked = np.bincount(log.items[~last].ravel(), weights=clicks[~last].ravel(), minlength=600)
    popularity = (clicked + 1.5) / (shown + 20)
    oracle = world.preference(log.user[last], log.items[last], log.time[last])
    oracle_auc = auc(clicks[last], oracle["click"])
    popular_auc = auc(clicks[last], popularity[log.items[last]])
    assert oracle_auc > 0.76
    assert 0.55 < popular_auc < oracle_auc - 0.1
    assert auc(log.flag("long_view")[last], oracle["long_view"]) > 0.76
    assert auc(log.flag("like")[last], oracle["like"]) > 0.76


def test_the_oracle_tells_true_rates(world):
    log = world.log
    oracle = world.preference(log.user, log.items, log.time)
    looked_at = examination(np.arange(log.items.shape[1]))
    for action in FLAGS:
        rates = oracle[action] * looked_at
        spread = np.sqrt((rates * (1 - rates)).sum())
        assert abs(log.flag(action).sum() - rates.sum()) < 4 * spread, action
    assert log.play.sum() == pytest.approx((oracle["play"] * looked_at).sum(), rel=0.1)


def test_the_oracle_answers_for_pairs_and_for_whole_catalogues_alike(world):
    log = world.log
    users, times = log.user[-40:], log.time[-40:]
    everything = np.broadcast_to(np.arange(600), (40, 600))
    catalogue = world.preference(users, everything, times)
    pairs = world.preference(users, log.items[-40:, 0], times)
    assert set(catalogue) == set(PREFERENCES)
    for name, values in pairs.items():
        np.testing.assert_allclose(values, catalogue[name][np.arange(40), log.items[-40:, 0]], rtol=1e-5)


def test_the_oracle_gives_nothing_for_the_unknown_and_the_unpublished(world):
    start, newest = world.config.start_time, world.config.items - 1
    answer = world.preference(np.array([0, 0, -1, 0]), np.array([-1, newest, 3, 3]), np.full(4, start))
    for name, values in answer.items():
        assert (values[:3] == 0).all(), name
        assert values[3] > 0, name
    nothing = world.preference(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    assert nothing["click"].shape == (0,)


@pytest.mark.parametrize(
    ("users", "items", "times", "word"),
    [
        ([0, 1], [1], [0.0, 0.0], "items"),
        ([0], [[[1]]], [0.0], "items"),
        ([0], [600], [0.0], "items"),
        ([0], [-2], [0.0], "items"),
        ([200], [1], [0.0], "users"),
        ([[0]], [1], [[0.0]], "users"),
        ([0], [1], [np.nan], "times"),
        ([0], [1], [0.0, 1.0], "times"),
    ],
)
def test_wrong_arguments_are_refused_by_name(world, users, items, times, word):
    with pytest.raises(ValueError, match=word):
        world.preference(np.array(users), np.array(items), np.array(times))


def test_a_response_needs_pages_known_users_and_places(world):
    now = np.array([world.config.end_time])
    with pytest.raises(ValueError, match="items"):
        world.respond(np.array([0]), np.array([1]), now)
    with pytest.raises(ValueError, match="users"):
        world.respond(np.array([-1]), np.array([[1]]), now)
    with pytest.raises(ValueError, match="positions"):
        world.respond(np.array([0]), np.array([[1, 2]]), now, np.arange(3))


def test_taste_follows_the_interests_and_the_content_vector_shows_it(world):
    people, items = world.population.users, world.population.items
    users = np.arange(200)
    everything = np.broadcast_to(np.arange(600), (200, 600))
    taste = world.behaviour.taste(users, everything, np.full(200, world.config.end_time))
    liked = (items.topic[None, None, :] == people.topics[:, :, None]).any(axis=1)
    assert taste[liked].mean() > taste[~liked].mean() + 1.0
    assert float(np.abs(taste).max()) < 6
    latent = (items.latent @ items.latent.T)[np.triu_indices(600, 1)]
    shown = (items.vector @ items.vector.T)[np.triu_indices(600, 1)]
    assert 0.5 < np.corrcoef(latent, shown)[0, 1] < 0.95
