"""The exposure filter's Bloom filter: BLOOM-1 … BLOOM-6 of the course specification."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tamis.bloom import add_to_bytes, expiry
from tamis.filters.bloom import Bloom, Generations, parameters, predicted_rate


def inject(bits: int, hashes: int, table: dict[int, tuple[int, ...]]) -> Bloom:
    """A filter whose hash functions are a given table: key → bit positions."""

    class Injected(Bloom):
        def positions(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
            return np.array([table[int(key)] for key in keys], np.int64)

    return Injected(bits, hashes)


def keys(*numbers: int) -> NDArray[np.uint64]:
    return np.array(numbers, np.uint64)


def ones(bloom: Bloom) -> set[int]:
    return set(np.flatnonzero(np.unpackbits(bloom.data, bitorder="little")).tolist())


def draw(seed: int, count: int) -> NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def test_bloom_1_one_hash_function() -> None:
    bloom = inject(16, 1, {1: (1,), 2: (8,), 3: (1,), 4: (5,), 5: (5,), 6: (5,), 7: (2,), 8: (8,)})
    bloom.add(keys(1, 2, 3, 4, 5, 6))
    assert ones(bloom) == {1, 5, 8}
    assert bloom.contains(keys(7, 5, 8)).tolist() == [False, True, True]  # 8 is a false positive


def test_bloom_2_three_hash_functions() -> None:
    table = {1: (1, 3, 5), 2: (8, 3, 15), 8: (3, 2, 1), 4: (3, 8, 5), 9: (15, 5, 8)}
    bloom = inject(16, 3, table)
    bloom.add(keys(1, 2))
    assert ones(bloom) == {1, 3, 5, 8, 15}
    assert bloom.contains(keys(8, 4, 9)).tolist() == [False, True, True]
    bloom.add(keys(4))
    assert ones(bloom) == {1, 3, 5, 8, 15}


def test_bloom_3_never_a_false_negative() -> None:
    shown = draw(1, 100_000)
    bloom = Bloom(*parameters(100_000, 0.01))
    for part in np.array_split(shown, 7):
        bloom.add(part)
    assert bloom.contains(shown).all()


def test_bloom_4_parameters_are_the_exact_optimum() -> None:
    bits, hashes = parameters(1000, 0.01)
    assert (bits, hashes) == (9592, 7)  # 9586 of the exact constant, rounded up to whole bytes
    assert predicted_rate(1000, 9586, 7) == pytest.approx(0.010035, abs=5e-7)
    assert predicted_rate(1000, 9211, 7) == pytest.approx(0.012111, abs=1e-6)  # the course's own constant misses
    for rate, wanted_bits, wanted_hashes in ((0.1, 4793, 3), (0.05, 6236, 4), (0.001, 14378, 10)):
        bits, hashes = parameters(1000, rate)
        assert wanted_bits <= bits < wanted_bits + 8
        assert hashes == wanted_hashes
    for capacity, rate in ((0, 0.1), (10, 0.0), (10, 1.0)):
        with pytest.raises(ValueError, match="capacity"):
            parameters(capacity, rate)


@pytest.mark.parametrize(
    ("count", "bits", "hashes"), [(1000, 9216, 7), (1000, 4608, 3), (500, 4096, 5), (2000, 10_000, 1)]
)
def test_bloom_5_the_rate_of_false_positives_is_the_predicted_one(count: int, bits: int, hashes: int) -> None:
    wrong = 0
    for seed in range(10):
        bloom = Bloom(bits, hashes)
        bloom.add(draw(seed, count))
        wrong += int(bloom.contains(draw(1000 + seed, 100_000)).sum())
    assert wrong / 1_000_000 == pytest.approx(predicted_rate(count, bits, hashes), rel=0.1)


def test_bloom_5_consecutive_keys_are_no_easier_to_confuse() -> None:
    bloom = Bloom(9216, 7)
    bloom.add(np.arange(1000, dtype=np.uint64))
    assert bloom.contains(np.arange(1000, 401_000, dtype=np.uint64)).mean() == pytest.approx(0.0121, rel=0.25)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 40), st.integers(0, 40))
def test_bloom_6_adding_is_idempotent_commutative_and_an_or(seed: int, a: int, b: int) -> None:
    first, second = draw(seed, a), draw(seed + 5000, b)
    left, right, both, again = (Bloom(512, 5) for _ in range(4))
    left.add(first)
    right.add(second)
    both.add(np.concatenate([first, second]))
    again.add(np.concatenate([second[::-1], first, first]))
    for key in second:
        again.add(np.array([key]))
    assert (left.data | right.data).tobytes() == both.data.tobytes() == again.data.tobytes()
    assert again.count <= a + b


def test_generations_know_what_any_of_them_knows() -> None:
    old, new = Bloom(4096, 7), Bloom(8192, 1)
    old.add(keys(1, 2))
    new.add(keys(3))
    assert Generations((old, new)).contains(keys(1, 2, 3)).all()
    unknown = draw(3, 500)
    asked = Generations((old, new)).contains(unknown)
    np.testing.assert_array_equal(asked, old.contains(unknown) | new.contains(unknown))
    assert Generations(()).contains(keys(1, 2)).tolist() == [False, False]
    assert Generations((old,)).contains(keys()).tolist() == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 12), st.integers(0, 80)), max_size=5), st.integers(0, 99))
def test_generations_of_any_shapes_answer_as_their_filters_do_one_by_one(shapes, seed: int) -> None:
    blooms = []
    for number, (octets, hashes, count) in enumerate(shapes):
        blooms.append(Bloom(octets * 8, hashes))
        blooms[-1].add(draw(seed + number, count))
    asked = np.concatenate([draw(seed, 40), draw(seed + 1, 40), draw(7000 + seed, 200)])
    wanted = np.any([bloom.contains(asked) for bloom in blooms], axis=0) if blooms else np.zeros(280, np.bool_)
    np.testing.assert_array_equal(Generations(tuple(blooms)).contains(asked), wanted)


def test_a_filter_that_has_expired_is_not_asked_and_its_moment_is_stored() -> None:
    never, soon = Bloom(64, 2), Bloom(64, 2, expires=100.0)
    never.add(keys(1))
    soon.add(keys(2))
    assert Generations.alive((soon, never), 99.9).contains(keys(1, 2)).all()
    assert Generations.alive((soon, never), 100.0).blooms == (never,)
    for bloom in (never, soon):
        stored = bytearray(bloom.to_bytes())
        add_to_bytes(stored, 3)
        again = Bloom.from_bytes(bytes(stored))
        assert again.expires == bloom.expires == expiry(stored)
        assert again.contains(keys(3)).all()
        assert again.count == bloom.count + 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 50), st.integers(1, 200), st.integers(1, 64))
def test_the_stored_form_round_trips_and_can_be_added_to(seed: int, count: int, octets: int, hashes: int) -> None:
    shown = draw(seed, count)
    bloom, stored = Bloom(octets * 8, hashes), bytearray(Bloom(octets * 8, hashes).to_bytes())
    for key in shown:
        bloom.add(np.array([key]))
        add_to_bytes(stored, int(key))
    again = Bloom.from_bytes(bytes(stored))
    assert again.to_bytes() == bloom.to_bytes()
    assert again.contains(shown).all()
    assert again.count == bloom.count


def test_bits_and_hashes_that_make_no_filter_are_refused() -> None:
    for bits, hashes in ((0, 1), (12, 1), (8, 0), (8, 65)):
        with pytest.raises(ValueError, match="bits"):
            Bloom(bits, hashes)


@pytest.mark.parametrize("wrong", [np.array([1.0, np.nan]), np.zeros((2, 2), np.uint64), np.array(["a"])])
def test_what_is_no_column_of_whole_numbers_is_refused_by_name(wrong: NDArray[np.generic]) -> None:
    bloom = Bloom(64, 3)
    with pytest.raises(ValueError, match="ids is"):
        bloom.add(wrong)
    with pytest.raises(ValueError, match="keys is"):
        bloom.contains(wrong)
    assert bloom.contains(np.array([])).shape == (0,)
