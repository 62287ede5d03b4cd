import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.simulate.memory import CLICKED, SHOWN, Diary, Memory, Recent

USERS, ITEMS, PAGE = 3, 30, 4


def test_nothing_is_remembered_at_first():
    recent = Memory.empty(2).recent(np.array([1]))
    assert (recent.shown == -1).all()
    assert (recent.clicked == -1).all()
    assert recent.times_shown(np.array([[0, 1]])).tolist() == [[0, 0]]


def test_an_empty_diary_remembers_nothing():
    nothing = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    recent = Diary.of((0.0, 100.0), nothing, nothing).recent(np.array([0, 7]), np.array([5.0, 1e9]))
    assert recent.shown.shape == (2, SHOWN)
    assert (recent.shown == -1).all()
    assert (recent.clicked == -1).all()


def test_what_happens_at_the_very_moment_is_not_yet_remembered():
    shown = (np.array([0, 0]), np.array([4, 5]), np.array([10.0, 20.0]))
    diary = Diary.of((0.0, 100.0), shown, shown)
    recent = diary.recent(np.zeros(3, np.int64), np.array([10.0, 20.0, 20.001]))
    assert recent.shown[:, :2].tolist() == [[-1, -1], [4, -1], [5, 4]]
    assert recent.clicked[:, :2].tolist() == [[-1, -1], [4, -1], [5, 4]]


def test_a_click_after_the_log_is_nobodys():
    shown = (np.array([0, 1]), np.array([4, 5]), np.array([99.0, 99.5]))
    late = (np.array([0, 1]), np.array([4, 5]), np.array([101.0, 100.5]))
    recent = Diary.of((0.0, 100.0), shown, late).recent(np.array([0, 1, 2]), np.array([1e9, 50.0, 50.0]))
    assert recent.shown[:, 0].tolist() == [4, -1, -1]
    assert (recent.clicked == -1).all()


def test_a_copy_goes_its_own_way():
    memory = Memory.empty(1)
    other = memory.copy()
    other.remember(np.array([0]), np.array([[3]]), {"click": np.array([[True]]), "time": np.array([[1.0]])})
    assert 3 in other.recent(np.array([0])).clicked
    assert 3 not in memory.recent(np.array([0])).clicked


@pytest.mark.parametrize("wide", [1, SHOWN + 50])
def test_impressions_are_counted_alike_for_few_and_for_many_items(wide):
    generator = np.random.default_rng(3)
    shown = generator.integers(-1, 40, (5, SHOWN)).astype(np.int32)
    recent = Recent(shown, np.full((5, CLICKED), -1, np.int32), np.zeros((5, CLICKED)))
    items = generator.integers(0, 60, (5, wide))
    wanted = [[int((shown[row] == item).sum()) for item in items[row]] for row in range(5)]
    assert recent.times_shown(items).tolist() == wanted


@given(st.integers(0, 2**31), st.integers(1, 150))
@settings(max_examples=25, deadline=None)
def test_memory_and_diary_agree_about_the_same_past(seed, pages):
    generator = np.random.default_rng(seed)
    memory = Memory.empty(USERS)
    users, items = generator.integers(0, USERS, pages), generator.integers(-1, ITEMS, (pages, PAGE))
    click = (generator.random(items.shape) < 0.3) & (items >= 0)
    times = np.arange(pages) * 10.0
    at = times[:, None] + np.arange(PAGE) + 1
    for row in range(pages):
        one = slice(row, row + 1)
        memory.remember(users[one], items[one], {"click": click[one], "time": at[one]})
    row, place = np.nonzero(items >= 0)
    clicked_row, clicked_place = np.nonzero(click)
    diary = Diary.of(
        (0.0, pages * 10.0),
        (users[row], items[row, place], times[row]),
        (users[clicked_row], items[clicked_row, clicked_place], at[clicked_row, clicked_place]),
    )
    everyone = np.arange(USERS)
    carried, looked_up = memory.recent(everyone), diary.recent(everyone, np.full(USERS, pages * 10.0))
    assert np.array_equal(np.sort(carried.shown, axis=1), np.sort(looked_up.shown, axis=1))
    assert np.array_equal(np.sort(carried.clicked, axis=1), np.sort(looked_up.clicked, axis=1))
