from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shelf import inputs, query, row

from tamis.recall.friends import Friends, FriendsConfig
from tamis.recall.last_liked import last_liked
from tamis.types import Action

LIKE, CLICK, SHOWN = Action.LIKE, Action.CLICK, Action.IMPRESSION
ROWS = [row(f"i{n}") for n in range(5)]
DONE = [(1, 0, CLICK), (1, 1, CLICK), (1, 1, LIKE), (2, 1, CLICK), (2, 2, CLICK), (2, 3, SHOWN), (3, 4, CLICK)]


def test_what_friends_liked_adds_up() -> None:
    known = inputs(ROWS, DONE)
    channel = Friends.fit(FriendsConfig(), known, 0)
    answer = channel.recall(query(known.catalog, profile={"friends": ["u1", "u2"]}))
    assert answer.ids.tolist() == [1, 0, 2]
    assert answer.column("score").tolist() == [3.0, 1.0, 1.0]
    own = channel.recall(query(known.catalog, [(1, CLICK)], profile={"friends": ["u2", "u1", "u1"]}))
    assert own.ids.tolist() == [0, 2]


@pytest.mark.parametrize(
    "profile",
    [
        {},
        {"friends": None},
        {"friends": []},
        {"friends": ["nobody", 3]},
        {"friends": "u0"},
        {"friends": ["\ud800", {}]},
    ],
)
def test_no_friends_and_friends_who_did_nothing_give_nothing(profile: dict[str, Any]) -> None:
    known = inputs(ROWS, DONE)
    assert len(Friends.fit(FriendsConfig(), known, 0).recall(query(known.catalog, profile=profile))) == 0


def test_only_the_last_items_of_the_first_friends_count() -> None:
    known = inputs(ROWS, DONE)
    channel = Friends.fit(FriendsConfig(items=1, friends=1), known, 0)
    assert channel.recall(query(known.catalog, profile={"friends": ["u2", "u1"]})).ids.tolist() == [2]


def test_a_user_gets_his_latest_items_first() -> None:
    known = inputs(ROWS, [(0, 3, CLICK), (0, 1, CLICK), (0, 3, LIKE), (1, 2, CLICK)])
    table = last_liked(known, known.interest(), 10)
    assert table.ids.tolist() == [[3, 1], [2, -1], [-1, -1], [-1, -1]]
    assert table.weights[:2].tolist() == [[2.0, 1.0], [1.0, 0.0]]


def test_without_events_or_users_there_is_an_empty_table(tmp_path: Path) -> None:
    for known in (inputs([row("a")]), inputs([], users=0)):
        channel = Friends.fit(FriendsConfig(), known, 0)
        channel.save(tmp_path)
        again = Friends.load(FriendsConfig(), tmp_path)
        assert len(again.recall(query(known.catalog, profile={"friends": ["u1", "x"]}))) == 0
    assert np.asarray(again.keys).shape == (0,)
