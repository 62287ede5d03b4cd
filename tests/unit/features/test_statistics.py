import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.config import convert
from tamis.errors import ConfigError
from tamis.features.spec import FeaturesConfig
from tamis.features.statistics import Statistics, log_rate, refresh_time

events = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 50)), max_size=60)
asked = st.lists(st.tuples(st.integers(0, 5), st.integers(-5, 60)), max_size=20)


@given(events, asked)
def test_counts_before_a_moment_equal_brute_force(log, questions) -> None:
    entity, action, time = (np.array([row[n] for row in log], dtype) for n, dtype in enumerate((int, np.uint8, float)))
    statistics = Statistics.of(entity, action, time, 6)
    who = np.array([q[0] for q in questions], int)
    when = np.array([q[1] for q in questions], float)
    got = statistics.before(who, when, range(3))[:, :3]
    wanted = [[sum(e == u and a == c and t < w for e, a, t in log) for c in range(3)] for u, w in questions]
    assert got.tolist() == np.array(wanted, float).reshape(len(questions), 3).tolist()


def test_a_planted_future_event_changes_nothing() -> None:
    entity, time = np.array([0, 0, 1]), np.array([10.0, 20.0, 15.0])
    action = np.zeros(3, np.uint8)
    before = Statistics.of(entity, action, time, 2)
    later = (np.append(entity, [0, 1]), np.append(action, np.zeros(2, np.uint8)), np.append(time, [20.0, 99.0]))
    after = Statistics.of(*later, 2)
    who, when = np.array([0, 1]), np.array([20.0, 16.0])
    assert before.before(who, when, [0])[:, 0].tolist() == after.before(who, when, [0])[:, 0].tolist() == [1.0, 1.0]


def test_an_entity_without_events_has_the_overall_rate() -> None:
    none = np.zeros(1, np.float32)
    assert log_rate(none, none, 0.1, 20.0).tolist() == [0.0]
    many = log_rate(np.array([50.0]), np.array([100.0]), 0.1, 20.0)
    assert np.isclose(many[0], np.log((50 + 2) / 120 / 0.1))


@pytest.mark.parametrize("hours", [0, -1, float("inf"), float("nan")])
def test_a_refresh_that_never_comes_is_refused(hours: float) -> None:
    with pytest.raises(ConfigError, match="refresh_hours"):
        convert({"refresh_hours": hours}, FeaturesConfig)


def test_refreshes_are_at_whole_multiples() -> None:
    assert refresh_time(np.array([86_399.0, 86_400.0, 100_000.0]), 24).tolist() == [0.0, 86_400.0, 86_400.0]


def test_times_a_hair_apart_are_told_apart_at_any_number_of_entities() -> None:
    now = 1.7e9
    later = float(np.nextafter(now, np.inf))
    last = 10_000_000
    statistics = Statistics.of(np.array([last, last]), np.zeros(2, np.uint8), np.array([now, later]), last + 1)
    asked = np.array([now, later, np.nextafter(later, np.inf), -np.inf, np.inf])
    assert statistics.before(np.full(5, last), asked, [0])[:, 0].tolist() == [0, 1, 2, 0, 2]
    assert statistics.before(np.full(5, last - 1), asked, [0])[:, 0].tolist() == [0] * 5


def test_an_entity_without_a_number_has_no_events() -> None:
    statistics = Statistics.of(np.array([0, 0, 1]), np.zeros(3, np.uint8), np.array([1.0, 2.0, 3.0]), 2)
    assert statistics.before(np.array([-1, 1]), np.inf, [0])[:, 0].tolist() == [0, 1]
