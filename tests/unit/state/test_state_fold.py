"""The reducer against a model that is too simple to be wrong, and the backends against each other."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tamis.bloom import Bloom, Generations, add_to_bytes, parameters, predicted_rate
from tamis.config import convert
from tamis.errors import ConfigError, StateError
from tamis.state.fold import Rules, fold, row_from_history
from tamis.state.lmdb_ import Lmdb
from tamis.state.memory import Memory
from tamis.state.protocol import Event, State, UserRow
from tamis.state.rows import last_sequence, user_row
from tamis.state.settings import StateConfig
from tamis.types import ACTION_CODE, ACTIONS, TIMELINE, item_key, item_keys

CONFIG = StateConfig(timeline_limit=4, seen_capacity=3, seen_generations=2, map_size_gib=0.01, durable=False)
RULES = Rules.of(CONFIG)
BY_AGE = replace(CONFIG, seen_generations=3, seen_days=4 / 86_400)  # slots of two seconds

numbered_events = st.builds(
    lambda number, user, item, action, time: Event(
        event_id=f"e{number}", user_id=f"u{user}", item_id=f"i{item}" if item else "", action=action, time=float(time)
    ),
    st.integers(0, 25),
    st.integers(0, 2),
    st.integers(0, 12),
    st.sampled_from(ACTIONS),
    st.integers(0, 9),
)
calls_of_events = st.lists(st.lists(numbered_events, max_size=6), max_size=8)


def event(number: int, action: str = "click", item: str = "", time: float | None = None) -> Event:
    moment = float(number) if time is None else time
    return Event(event_id=f"e{number}", user_id="u", item_id=item or f"i{number}", action=action, time=moment)


def applied(state: State, calls: list[list[Event]]) -> list[Event]:
    """Applies the calls; the events that were new, in order. Checks the answers on the way."""
    known: dict[str, Event] = {}
    for call in calls:
        wanted = []
        for entry in call:
            wanted.append(entry.event_id not in known)
            known.setdefault(entry.event_id, entry)
        assert state.apply(call) == wanted
    return list(known.values())


@given(calls_of_events)
@settings(max_examples=60, deadline=None)
def test_any_calls_with_any_duplicates_give_what_a_plain_model_gives(calls: list[list[Event]]) -> None:
    state = Memory(CONFIG)
    new = applied(state, calls)
    assert [entry for _, entry in state.log()] == new
    for user in {entry.user_id for entry in new}:
        mine = [entry for entry in new if entry.user_id == user]
        row = state.user(user)
        kept = [entry for entry in mine if entry.item_id and entry.action in CONFIG.timeline_actions]
        newest = sorted(kept, key=lambda entry: entry.time)[-CONFIG.timeline_limit :]
        assert row.timeline["time"].tolist() == [entry.time for entry in newest]
        assert row.timeline["key"].tolist() == [item_key(entry.item_id) for entry in newest]
        assert row.timeline["action"].tolist() == [ACTION_CODE[entry.action] for entry in newest]
        assert row.counts.tolist() == [sum(entry.action == action for entry in mine) for action in ACTIONS]
        met = list(dict.fromkeys(entry.item_id for entry in reversed(mine) if entry.item_id))
        for item in met[: CONFIG.seen_capacity * (CONFIG.seen_generations - 1)]:
            assert any(bloom.contains(item_keys([item]))[0] for bloom in row.seen)


@given(calls_of_events, st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_lmdb_holds_byte_for_byte_what_memory_holds(calls: list[list[Event]], deleted: int) -> None:
    memory = Memory(CONFIG)
    with tempfile.TemporaryDirectory() as folder:
        store = Lmdb(Path(folder), CONFIG)
        for state in (memory, store):
            applied(state, calls[:4])
            state.delete_user(f"u{deleted}")
            for call in calls[4:]:
                state.apply(call)
        assert store.log() == memory.log()
        for user in ("u0", "u1", "u2", "u3"):
            one, other = store.user(user), memory.user(user)
            assert one.known == other.known
            assert one.timeline.tobytes() == other.timeline.tobytes()
            assert one.counts.tolist() == other.counts.tolist()
            assert [bloom.to_bytes() for bloom in one.seen] == [bloom.to_bytes() for bloom in other.seen]
        store.close()


@given(st.lists(numbered_events, max_size=30), st.integers(0, 30))
@settings(deadline=None)
def test_folding_in_two_parts_is_folding_at_once(entries: list[Event], cut: int) -> None:
    numbered = list(enumerate(entries, start=1))
    first = fold(None, numbered[:cut], RULES)
    assert fold(first, numbered[cut:], RULES) == fold(None, numbered, RULES)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=60))
def test_adding_single_keys_to_bytes_is_adding_them_to_a_filter(keys: list[int]) -> None:
    bloom = Bloom(328, 6)
    stored = bytearray(bloom.to_bytes())
    for key in keys:
        bloom.add(np.array([key], np.uint64))
        assert add_to_bytes(stored, key) == bloom.count
    assert bytes(stored) == bloom.to_bytes()


@pytest.mark.parametrize("config", [CONFIG, BY_AGE])
@given(entries=st.lists(numbered_events.filter(lambda entry: entry.item_id), max_size=40))
@settings(deadline=None)
def test_a_row_built_from_history_is_the_row_that_events_build(entries: list[Event], config: StateConfig) -> None:
    entries.sort(key=lambda entry: entry.time)
    history = np.zeros(len(entries), TIMELINE)
    history["key"] = item_keys(entry.item_id for entry in entries)
    history["time"] = [entry.time for entry in entries]
    history["action"] = [ACTION_CODE[entry.action] for entry in entries]
    raw = fold(None, enumerate(entries, start=1), Rules.of(config))
    built, folded = row_from_history(history, config), user_row(raw)
    assert built.timeline.tobytes() == folded.timeline.tobytes()
    assert built.counts.tolist() == folded.counts.tolist()
    assert [bloom.to_bytes() for bloom in built.seen] == [bloom.to_bytes() for bloom in folded.seen]


def test_the_row_knows_the_sequence_number_of_its_last_event() -> None:
    raw = fold(None, [(7, event(1)), (9, event(2))], RULES)
    assert last_sequence(raw) == 9
    assert last_sequence(None) == 0


def test_all_full_generations_together_keep_the_rate_of_the_settings() -> None:
    config = StateConfig(seen_capacity=200, seen_generations=4, seen_false_positive_rate=0.02)
    entries = np.zeros(799, TIMELINE)
    entries["key"] = item_keys(f"shown-{number}" for number in range(799))
    row = row_from_history(entries, config)
    assert len(row.seen) == 4
    others = item_keys(f"other-{number}" for number in range(50_000))
    imagined = np.zeros(len(others), np.bool_)
    for bloom in row.seen:
        imagined |= bloom.contains(others)
    assert 0.015 < imagined.mean() < 0.025
    assert all(predicted_rate(bloom.count, bloom.bits, bloom.hashes) < 0.0055 for bloom in row.seen)


def shown(names: list[str], days: np.ndarray, config: StateConfig) -> UserRow:
    """The row of somebody who was shown items on the given days."""
    entries = np.zeros(len(names), TIMELINE)
    entries["key"], entries["time"] = item_keys(names), days * 86_400
    return row_from_history(entries[np.argsort(entries["time"], kind="stable")], config)


def test_bloom_7_what_is_older_than_a_month_is_forgotten_and_nothing_younger() -> None:
    config = StateConfig(seen_capacity=1000, seen_generations=4, seen_days=30)
    old, young = [f"old-{n}" for n in range(400)], [f"young-{n}" for n in range(600)]
    now, rng = 400.0, np.random.default_rng(1)
    days = np.concatenate([rng.uniform(now - 90, now - 40, 400), rng.uniform(now - 29.99, now, 600)])
    row = shown(old + young, days, config)
    asked = Generations.alive(row.seen, now * 86_400)
    assert asked.contains(item_keys(young)).all()
    assert asked.contains(item_keys(old)).mean() < 0.02
    alone = Generations.alive(shown(young, days[400:], config).seen, now * 86_400)
    assert [bloom.to_bytes() for bloom in asked.blooms] == [bloom.to_bytes() for bloom in alone.blooms]
    assert sum(bloom.count for bloom in asked.blooms) == pytest.approx(600, abs=5)
    bits, hashes = asked.blooms[0].bits, asked.blooms[0].hashes
    assert (bits, hashes) == parameters(1000, 1 - 0.99**0.25)
    assert sum(predicted_rate(bloom.count, bits, hashes) for bloom in asked.blooms) < predicted_rate(1000, bits, hashes)


@given(st.floats(0, 200), st.floats(0.5, 40), st.integers(2, 6))
def test_bloom_7_an_item_is_remembered_for_the_days_of_the_settings_and_at_most_a_generation_longer(
    day: float, kept: float, generations: int
) -> None:
    config = StateConfig(seen_days=kept, seen_generations=generations)
    row = shown(["a"], np.array([day]), config)
    for later, known in ((kept * 0.999, True), (kept * generations / (generations - 1) * 1.001, False)):
        asked = Generations.alive(row.seen, (day + later) * 86_400)
        assert asked.contains(item_keys(["a"])).tolist() == [known]


def test_bloom_8_impressions_survive_a_restart_and_expire_by_the_clock_of_the_request(tmp_path: Path) -> None:
    config = replace(CONFIG, seen_generations=4, seen_days=30.0)
    day = 86_400.0
    for number, days in enumerate((0, 12, 24, 36)):
        state = Lmdb(tmp_path, config)
        state.apply([replace(event(number), action="impression", item_id=f"i{number}", time=days * day)])
        state.close()
    state = Lmdb(tmp_path, config)
    row = state.user(event(0).user_id)
    state.close()
    asked = Generations.alive(row.seen, 41 * day).contains(item_keys(["i0", "i1", "i2", "i3"]))
    assert asked.tolist() == [False, True, True, True]


def test_changed_settings_apply_from_the_next_event_on() -> None:
    raw = fold(None, ((number, event(number)) for number in range(1, 5)), RULES)
    wider = StateConfig(timeline_limit=2, seen_capacity=50, seen_generations=3)
    row = user_row(fold(raw, [(5, event(5))], Rules.of(wider)))
    assert row.timeline["time"].tolist() == [4.0, 5.0]
    assert len(row.seen) == 3
    assert row.seen[-1].bits > row.seen[0].bits
    assert all(any(bloom.contains(item_keys([f"i{number}"]))[0] for bloom in row.seen) for number in range(1, 6))


def test_a_row_from_before_an_action_existed_is_read_with_a_zero() -> None:
    raw = fold(None, [(1, event(1))], RULES)
    counters = len(ACTIONS) - 2
    older = raw[:2] + bytes([counters]) + raw[3 : 24 + 8 * counters] + raw[24 + 8 * len(ACTIONS) :]
    assert user_row(older).counts.tolist() == user_row(raw).counts.tolist()
    assert user_row(fold(older, [(2, event(2, "rate"))], RULES)).counts[ACTION_CODE["rate"]] == 1


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:10], lambda raw: raw[:-1], lambda raw: b"\x09" + raw[1:], lambda raw: raw[:30]]
)
def test_a_damaged_row_is_refused(damage: object) -> None:
    raw = fold(None, [(1, event(1))], RULES)
    with pytest.raises(StateError, match="user row"):
        user_row(damage(raw))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("timeline_limit", 0),
        ("timeline_actions", ["click", "gaze"]),
        ("seen_capacity", 0),
        ("seen_days", -1.0),
        ("seen_generations", 300),
        ("seen_false_positive_rate", 1.0),
        ("map_size_gib", 0.0),
        ("max_readers", -1),
        ("timeline_limits", 3),
    ],
)
def test_impossible_settings_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        convert({key: value}, StateConfig)
