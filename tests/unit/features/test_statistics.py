import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.config import convert
from tamis.errors import ConfigError
from tamis.features.groups import Group
from tamis.features.spec import Count, FeaturesConfig
from tamis.features.statistics import SUMS, UNITS, VALUED, Statistics, log_rate, mean_shift, refresh_time
from tamis.types import ACTIONS, Action

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


@given(events, asked, st.lists(st.integers(1, 40), max_size=3))
def test_counts_in_windows_equal_brute_force(log, questions, hours) -> None:
    entity, action, time = (np.array([row[n] for row in log], dtype) for n, dtype in enumerate((int, np.uint8, float)))
    statistics = Statistics.of(entity, action, time * 3600, 6)
    who = np.array([q[0] for q in questions], int)
    when = np.array([q[1] for q in questions], float)
    got = statistics.counts(who, when * 3600, range(3), [0.0, *hours])
    assert got[0.0].tolist() == statistics.before(who, when * 3600, range(3)).tolist()
    for window in hours:
        wanted = [
            [sum(e == u and a == c and w - window <= t < w for e, a, t in log) for c in range(3)] for u, w in questions
        ]
        assert got[window][:, :3].tolist() == np.array(wanted, float).reshape(len(questions), 3).tolist()


def test_values_are_summed_before_a_moment_and_unknown_ones_left_out() -> None:
    entity, time = np.array([0, 1, 0, 0, 1]), np.array([30.0, 10.0, 10.0, 20.0, 20.0])
    action = np.full(5, Action.RATE, np.uint8)
    value = np.array([5, 4, 3.5, 0, 1e30], np.float32)
    statistics = Statistics.of(entity, action, time, 2, value)
    asked = np.array([0, 0, 0, 1, -1]), np.array([10.0, 25.0, 99.0, 15.0, 99.0])
    counts = statistics.counts(*asked, [Action.RATE, VALUED + Action.RATE])[0.0]
    assert counts[:, Action.RATE].tolist() == [0, 2, 3, 1, 0]
    assert counts[:, VALUED + Action.RATE].tolist() == [0, 1, 2, 1, 0]
    assert (counts[:, SUMS + Action.RATE] / UNITS).tolist() == [0, 3.5, 8.5, 4, 0]
    assert statistics.totals()[SUMS + Action.RATE] == int((12.5 + 1e9) * UNITS)  # a value is at most a thousand million


def test_a_mean_is_smoothed_towards_the_overall_one() -> None:
    n, units = np.array([0, 1, 90], np.float32), np.array([0, 5, 450], np.float32) * UNITS
    np.testing.assert_allclose(mean_shift(n, units, 3.0, 10.0), [0, 2 / 11, 1.8], rtol=1e-6)


def test_feat_1_counts_are_log1p() -> None:
    group = Group(("user",), (), (("user.shown", Count()),))
    counts = np.zeros((4, len(ACTIONS)), np.float32)
    counts[:, Action.IMPRESSION] = [0, 9, 99, 9999]
    np.testing.assert_allclose(group.values({0.0: counts}, {})[:, 0], [0, 2.302585, 4.605170, 9.210340], atol=1e-6)


def test_feat_2_rates_are_smoothed() -> None:
    counts, per = np.array([0, 3, 300], np.float32), np.array([0, 10, 1000], np.float32)
    rate = np.exp(log_rate(counts, per, 0.1, 10.0)) * 0.1
    np.testing.assert_allclose(rate, [0.1, 0.2, 301 / 1010], rtol=1e-6)
    more = log_rate(np.arange(0, 100, dtype=np.float32), np.full(100, 100, np.float32), 0.1, 10.0)
    assert (np.diff(more) > 0).all()


def test_feat_3_an_event_counts_in_the_windows_it_is_young_enough_for() -> None:
    minute = 60.0
    now, windows = 40 * 86_400.0, (1.0, 24.0, 168.0, 720.0)
    ages = np.array([59 * minute, 61 * minute, 8 * 86_400.0])
    statistics = Statistics.of(np.arange(3), np.zeros(3, np.uint8), now - ages, 3)
    counts = statistics.counts(np.arange(3), now, [0], windows)
    assert [counts[hours][:, 0].tolist() for hours in windows] == [[1, 0, 0], [1, 1, 0], [1, 1, 0], [1, 1, 1]]


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
    midnight = 16 * 3600.0  # in China
    assert refresh_time(np.array([midnight - 1, midnight]), 24, 8).tolist() == [midnight - 86_400, midnight]


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
