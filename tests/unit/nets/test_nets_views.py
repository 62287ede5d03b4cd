import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import ConfigError
from tamis.features.layout import Field
from tamis.nets.tower_plan import ViewsPlan
from tamis.nets.views import Views, mutual_information

# id, category, keywords (up to four), city
FIELDS = (
    Field(name="item.id", start=0, width=1, offset=1, size=40),
    Field(name="item.category", start=1, width=1, offset=41, size=9),
    Field(name="item.keywords", start=2, width=4, offset=50, size=20),
    Field(name="item.city", start=6, width=1, offset=70, size=5),
)


def codes(count: int = 30, seed: int = 0) -> np.ndarray:
    """Items with one to four keywords each."""
    random = np.random.default_rng(seed)
    out = np.zeros((count, 7), np.int32)
    for field in FIELDS:
        for column in range(field.width):
            there = random.random(count) < 1 / (1 + column)
            out[there, field.start + column] = field.offset + 1 + random.integers(0, field.size - 1, there.sum())
    return out


def views(mask: str, seed: int = 0, share: float = 0.5, fields: tuple[Field, ...] = FIELDS) -> Views:
    return Views(fields, ViewsPlan(mask=mask, share=share), codes(), seed)


def kept(view: np.ndarray, fields: tuple[Field, ...] = FIELDS) -> set[str]:
    """The fields that a view shows as they are, all others being unknown."""
    whole, out = codes(), set()
    for field in fields:
        part = slice(field.start, field.start + field.width)
        if (view[:, part] == whole[:, part]).all():
            out.add(field.name)
        else:
            assert (view[:, field.start] == field.offset).all()
            assert (view[:, field.start + 1 : field.start + field.width] == 0).all()
    return out


@given(st.integers(0, 200))
@settings(max_examples=20, deadline=None)
def test_halves_share_no_field_and_make_up_the_whole(seed: int) -> None:  # T-11.3
    for mask in ("complementary", "correlated"):
        one, other = (kept(view) for view in views(mask, seed).of(codes()))
        assert one.isdisjoint(other)
        assert one | other == {field.name for field in FIELDS}
        assert len(one) == len(other) == 2


def test_the_split_differs_from_batch_to_batch() -> None:
    made = views("complementary")
    assert len({frozenset(kept(made.of(codes())[0])) for _ in range(20)}) > 2


@given(st.integers(0, 200), st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_a_random_mask_never_hides_everything(seed: int, share: float) -> None:
    one, other = (kept(view) for view in views("random", seed, share).of(codes()))
    assert one
    assert other


def test_a_random_mask_hides_as_many_as_told() -> None:
    made = views("random", share=0.3)
    counts = [len(kept(view)) for _ in range(300) for view in made.of(codes())]
    assert np.mean(counts) / 4 == pytest.approx(0.7, abs=0.04)


def test_dropout_takes_half_of_the_values_of_lists_and_never_the_last() -> None:  # T-11.4
    whole, made = codes(2000, 3), views("dropout")
    for view in made.of(whole):
        single = [0, 1, 6]
        np.testing.assert_array_equal(view[:, single], whole[:, single])
        before, after = whole[:, 2:6], view[:, 2:6]
        assert ((after == before) | (after == 0)).all()
        counts = (before != 0).sum(1)
        assert ((after != 0).sum(1) >= np.minimum(counts, 1)).all()
        several = counts > 1
        assert (after[several] != 0).sum() / counts[several].sum() == pytest.approx(0.5, abs=0.02)
    one, other = made.of(whole)
    assert (one != other).any()


def test_fields_that_copy_each_other_are_hidden_together() -> None:  # T-11.5
    random = np.random.default_rng(1)
    first, second = random.integers(0, 8, 500), random.integers(0, 4, 500)
    columns = np.stack([1 + first, 21 + second, 41 + first, 61 + second], 1).astype(np.int32)
    fields = tuple(Field(name=f"item.{n}", start=n, width=1, offset=20 * n, size=20) for n in range(4))
    made = Views(fields, ViewsPlan(mask="correlated"), columns, 0)
    for _ in range(20):
        one = made.of(columns)[0]
        hidden = [n for n in range(4) if (one[:, n] == 20 * n).all()]
        assert hidden in ([0, 2], [1, 3])


@pytest.mark.parametrize(
    ("joint", "wanted"),
    [
        ([[0.5, 0.0], [0.0, 0.5]], math.log(2)),
        ([[0.25, 0.25], [0.25, 0.25]], 0.0),
        ([[0.4, 0.1], [0.1, 0.4]], 0.192745),
    ],
)
def test_mutual_information_is_that_of_the_formula(joint: list[list[float]], wanted: float) -> None:  # T-11.2
    pairs = [(u, v) for u in range(2) for v in range(2) for _ in range(round(20 * joint[u][v]))]
    one, other = (np.array([[1 + pair[side]] for pair in pairs], np.int32) for side in range(2))
    assert mutual_information(one, other) == pytest.approx(wanted, abs=1e-6)
    assert mutual_information(other, one) == pytest.approx(wanted, abs=1e-6)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 3)), max_size=30))
@settings(deadline=None)
def test_mutual_information_of_lists_is_symmetric_and_not_negative(rows: list[tuple[int, int, int]]) -> None:
    one = np.array([[a] for a, _, _ in rows], np.int32).reshape(-1, 1)
    other = np.array([[b, c] for _, b, c in rows], np.int32).reshape(-1, 2)
    assert mutual_information(one, other) == pytest.approx(mutual_information(other, one), abs=1e-9)
    assert mutual_information(one, other) >= 0.0


def test_items_with_too_few_fields_are_refused() -> None:
    for mask in ("complementary", "correlated"):
        with pytest.raises(ConfigError, match="at least two item features"):
            views(mask, fields=FIELDS[:1])
    with pytest.raises(ConfigError, match="tags"):
        views("dropout", fields=FIELDS[:2])
    assert kept(views("random", fields=FIELDS[:1]).of(codes())[0], FIELDS[:1]) == {"item.id"}
