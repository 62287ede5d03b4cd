from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shelf import DAY, NOW, closed, inputs, published, query, row

from tamis.config import convert
from tamis.errors import ArtifactError, ConfigError
from tamis.recall.keyed import Keyed, KeyedConfig
from tamis.recall.lists import OrderConfig
from tamis.types import Action

NEWEST = {"half_life_days": 0.0}
LIKE, CLICK, SHOWN, FOLLOW = Action.LIKE, Action.CLICK, Action.IMPRESSION, Action.FOLLOW


def part(known: Any, **settings: Any) -> Keyed:
    return Keyed.fit(convert({"kind": "keyed", **settings}, KeyedConfig), known, 0)


def names(found: Any) -> list[int]:
    return found.ids.tolist()


def test_category_index_gives_the_newest_and_newer_ones_take_their_place() -> None:
    known = inputs([row(f"i{t}", t, category="food") for t in range(1, 11)])
    channel = part(known, context="topic", positives=[], per_key=3, order=NEWEST)
    asked = {"context": {"topic": "food"}}
    assert names(channel.recall(query(known.catalog, **asked))) == [9, 8, 7]
    more = published(known.catalog, [row(f"f{t}", t, category="food") for t in (21, 22, 23)])
    assert names(channel.recall(query(more, **asked))) == [12, 11, 10]


def test_a_user_without_keys_gets_an_empty_list() -> None:
    known = inputs([row("a", category="food")])
    for channel in (part(known), part(known, profile="topics", context="topic"), part(known, neighbours=3)):
        assert len(channel.recall(query(known.catalog))) == 0
        assert len(channel.recall(query(known.catalog, profile={"topics": []}, context={"topic": ""}))) == 0
        assert len(channel.recall(query(known.catalog, [(-1, CLICK)], profile={"topics": None}))) == 0


def test_unknown_city_is_nothing_and_a_known_one_the_same_for_everybody() -> None:
    known = inputs([row("a", 1, city="Rome"), row("b", 2, city="Oslo"), row("c", 3, city="Rome")])
    channel = part(known, column="city", context="city", positives=[])
    assert len(channel.recall(query(known.catalog, context={"city": "Atlantis"}))) == 0
    one = channel.recall(query(known.catalog, context={"city": "Rome"}))
    other = channel.recall(query(known.catalog, [(1, LIKE)], context={"city": "Rome"}, user=2))
    assert names(one) == names(other) == [2, 0]


def test_goodness_and_age_share_the_order() -> None:
    rows = [row("good", 80, category="c"), row("poor", 80, category="c"), row("new", 87, category="c")]
    done = [(user, item, SHOWN) for user in range(4) for item in (0, 1)] * 25
    done += [(user, 0, CLICK) for user in range(4)] * 20 + [(0, 1, CLICK)] * 20
    known = inputs(rows, done)
    asked = {"context": {"topic": "c"}}
    order = {"half_life_days": 7.0, "prior": 0.0}
    # The good item has 0.8 clicks per impression, the average is 0.5, the new item of a week later counts twice.
    answer = part(known, context="topic", positives=[], order=order).recall(query(known.catalog, **asked))
    assert names(answer) == [2, 0, 1]
    age = (NOW / DAY - np.array([87, 80, 80])) / 7
    np.testing.assert_allclose(answer.column("score"), np.log2([1.0, 1.6, 0.4]) - age)
    slow = part(known, context="topic", positives=[], order={**order, "half_life_days": 70.0})
    assert names(slow.recall(query(known.catalog, **asked))) == [0, 2, 1]


def test_interest_weighs_the_keys_and_the_history_itself_is_left_out() -> None:
    rows = [row(f"i{n}", 5, category=category) for n, category in enumerate("aabb")]
    known = inputs(rows)
    past = [(1, CLICK), (3, CLICK), (3, LIKE)]
    answer = part(known).recall(query(known.catalog, past))
    assert names(answer) == [2, 0]
    np.testing.assert_allclose(np.diff(answer.column("score")), [-1.0])
    assert names(part(known, keys=1).recall(query(known.catalog, past))) == [2]


def test_keywords_add_up_and_a_repeated_word_counts_once() -> None:
    rows = [row("a", keywords=("x", "x")), row("b", keywords=("x", "y")), row("c", keywords=("z",))]
    known = inputs(rows)
    channel = part(known, column="keywords", context="search", profile="searches", positives=[])
    answer = channel.recall(query(known.catalog, context={"search": ["x", "y"]}))
    assert names(answer) == [1, 0]
    np.testing.assert_allclose(np.diff(answer.column("score")), [-1.0])
    assert names(channel.recall(query(known.catalog, profile={"searches": ["z", "x"]}))) == [0, 1, 2]


def authors(*, shared: bool) -> tuple[Any, list[int]]:
    """Three authors liked by user 0; each has four similar ones, two of them one in common when told. Newest items."""
    groups = [[f"a{g}"] + [f"s{g}{n}" for n in range(4)] for g in range(3)]
    if shared:
        groups[1][4] = "s03"
    rows, done, newest = [], [], {}
    for group_number, group in enumerate(groups):
        for author in group:
            if author not in newest:
                newest[author] = len(rows) + 1
                rows += [row(f"{author}-old", 1, author=author), row(f"{author}-new", 2, author=author)]
            done += [(1 + group_number, newest[author], LIKE)]
    done += [(0, newest[f"a{g}"] - 1, LIKE) for g in range(3)]
    known = inputs(rows, done)
    return known, sorted(item for author, item in newest.items() if author.startswith("s"))


@pytest.mark.parametrize("shared", [False, True])
def test_auth_2_each_similar_author_gives_his_newest_item(shared: bool) -> None:
    known, wanted = authors(shared=shared)
    channel = part(known, column="author", positives=["like"], neighbours=6, per_key=1, order=NEWEST, limit=0)
    past = [(int(item), LIKE) for item in known.events.item[known.events.user == 0]]
    assert sorted(names(channel.recall(query(known.catalog, past)))) == wanted
    assert len(wanted) == (11 if shared else 12)


def test_auth_1_followed_by_profile_and_interacted_by_what_was_done() -> None:
    known = inputs([row("a", author="ann"), row("b", author="ann"), row("c", author="bob")])
    followed = part(known, column="author", positives=[], profile="follows")
    assert names(followed.recall(query(known.catalog, profile={"follows": ["ann"]}))) == [0, 1]
    assert names(followed.recall(query(known.catalog, profile={"follows": []}))) == []
    interacted = part(known, column="author", positives=["like", "collect", "share"])
    assert names(interacted.recall(query(known.catalog, [(0, CLICK)]))) == []
    assert names(interacted.recall(query(known.catalog, [(0, LIKE)]))) == [1]
    follow = part(known, column="author", positives=["follow"])
    assert names(follow.recall(query(known.catalog, [(0, FOLLOW)]))) == [1]


def test_an_author_without_items_gives_nothing() -> None:
    known = inputs([row("a", author="ann"), row("b")])
    channel = part(known, column="author", profile="follows", positives=["like"])
    assert names(channel.recall(query(known.catalog, profile={"follows": ["nobody", 17]}))) == []
    assert names(channel.recall(query(known.catalog, [(1, LIKE)]))) == []  # an item without an author
    assert names(channel.recall(query(closed(known.catalog, 0), profile={"follows": "ann"}))) == []


@pytest.mark.parametrize("words", ["\ud800", ["x"] * 300, {"x": 1}, [None, float("nan"), ["y"]], 3, True, "x\x00"])
def test_words_of_any_kind_are_no_error(words: Any) -> None:
    known = inputs([row("a", keywords=("x",))])
    channel = part(known, column="keywords", context="search", positives=[])
    assert names(channel.recall(query(known.catalog, context={"search": words}))) in ([], [0])


def test_what_is_closed_poor_or_not_yet_published_is_in_no_answer() -> None:
    rows = [row("a", 1, category="c", quality=0.9), row("b", 2, category="c", quality=0.1)]
    rows += [row("c", 101, category="c"), row("d", 3, category="c"), row("e", None, category="c")]
    known = inputs(rows)
    channel = part(known, context="topic", positives=[], order={"least_quality": 0.5, **NEWEST}, per_key=2)
    fresh = [row("f", 102, category="c"), row("g", 4, category="c", quality=0.2), row("h", 5, category="c")]
    catalog = closed(published(known.catalog, fresh), 3)
    assert names(channel.recall(query(catalog, context={"topic": "c"}))) == [7, 0]
    assert names(channel.recall(query(closed(catalog, 7, 0), context={"topic": "c"}))) == [4]


def test_fresh_items_of_new_keys_are_found_and_those_of_the_history_are_not() -> None:
    known = inputs([row("a", category="c")])
    catalog = published(known.catalog, [row("f", 99, category="new"), row("g", 98, category="new")])
    channel = part(known)
    assert names(channel.recall(query(catalog, [(1, CLICK)]))) == [2]
    assert names(channel.recall(query(catalog, [(0, CLICK)]))) == []


def test_one_item_and_no_events_are_enough(tmp_path: Path) -> None:
    known = inputs([row("a", None)])
    channel = part(known, neighbours=2)
    assert names(channel.recall(query(known.catalog, [(0, CLICK)]))) == []
    nothing = inputs([])
    assert names(part(nothing).recall(query(nothing.catalog, context={"city": "Rome"}))) == []


def test_lists_of_other_settings_are_not_taken_for_these(tmp_path: Path) -> None:
    known = inputs([row("a", category="c")])
    part(known).save(tmp_path)
    assert names(Keyed.load(KeyedConfig(), tmp_path).recall(query(known.catalog, context={}))) == []
    for changed in (KeyedConfig(column="author"), KeyedConfig(order=OrderConfig(prior=1))):
        with pytest.raises(ArtifactError, match="lists were made by"):
            Keyed.load(changed, tmp_path)


@pytest.mark.parametrize("wrong", [{"column": "colour"}, {"keys": 0}, {"order": {"half_life_days": -1.0}}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        convert({"kind": "keyed", **wrong}, KeyedConfig)


ITEM = st.tuples(st.sampled_from(["", "x", "y"]), st.sampled_from(["", "y", "z"]), st.integers(0, 110), st.booleans())


@given(
    items=st.lists(ITEM, max_size=12),
    base=st.integers(0, 12),
    words=st.lists(st.sampled_from(["x", "y", "z", "q"]), max_size=3),
    per_key=st.integers(0, 4),
)
def test_the_answer_is_what_sorting_everything_would_give(
    items: list[Any], base: int, words: list[str], per_key: int
) -> None:
    rows = [row(f"i{n}", day, keywords=(one, two)) for n, (one, two, day, _) in enumerate(items)]
    known = inputs(rows[:base])
    down = [n for n, item in enumerate(items) if item[3]]
    catalog = closed(published(known.catalog, rows[base:]), *down)
    channel = part(known, column="keywords", context="search", positives=[], per_key=per_key, order=NEWEST, limit=0)
    answer = channel.recall(query(catalog, context={"search": words}))
    assert names(answer) == _sorted(items, words, per_key)
    assert (np.diff(answer.column("score")) <= 0).all() if len(answer) else True


def _sorted(items: list[Any], words: list[str], per_key: int) -> list[int]:
    open_items = [n for n, (_, _, day, down) in enumerate(items) if not down and day * DAY <= NOW]
    order = sorted(open_items, key=lambda n: (-items[n][2], n))
    found: set[int] = set()
    for word in set(words):
        found.update([n for n in order if word in items[n][:2]][: per_key or None])
    return [n for n in order if n in found]


def test_the_answer_stays_inside_a_smaller_catalogue() -> None:
    known = inputs([row(f"i{n}", n + 1.0, category="food") for n in range(500)])
    few = inputs([row(f"i{n}", n + 1.0, category="food") for n in range(3)])
    channel = part(known, context="topic", positives=[], per_key=0, order=NEWEST)
    assert names(channel.recall(query(few.catalog, context={"topic": "food"}))) == [2, 1, 0]
