import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.features.fields import Codes, Learned, encode_number, learn, problem, size, text
from tamis.features.spec import Age, Bucket, Category, Hash, Number, Tags, Vector

HUGE = 10**400
words = st.one_of(
    st.none(), st.just(""), st.text(max_size=5), st.integers(-3, 3), st.just(HUGE), st.floats(allow_nan=True)
)


@pytest.mark.parametrize(
    ("value", "word"), [(3, "3"), (3.0, "3"), ("3", "3"), (True, "1"), (None, ""), (float("nan"), ""), (2.5, "2.5")]
)
def test_equal_values_of_different_types_are_one_word(value, word: str) -> None:
    assert text(value) == word


@given(st.lists(words), st.lists(words))
def test_codes_stay_inside_the_fields_rows_whatever_the_values(training, serving) -> None:
    for feature in (Category(column="x"), Hash(column="x", buckets=7), Bucket(column="x", count=4)):
        learned = learn(feature, training)
        codes = Codes(feature, learned, 100).encode(serving)
        assert codes.shape == (len(serving), 1)
        assert ((codes >= 100) & (codes < 100 + size(feature, learned))).all()


@given(st.lists(st.one_of(words, st.lists(words, max_size=6))), st.integers(1, 4))
def test_tags_are_padded_and_never_start_with_padding(rows, width: int) -> None:
    feature = Tags(column="x", width=width)
    learned = learn(feature, rows)
    codes = Codes(feature, learned, 50).encode(rows)
    assert codes.shape == (len(rows), width)
    assert (codes[:, 0] >= 50).all()
    assert ((codes == 0) | ((codes >= 50) & (codes < 50 + size(feature, learned)))).all()


def test_the_vocabulary_is_by_count_then_by_word_and_drops_the_rare() -> None:
    learned = learn(Category(column="x", min_count=2), ["b", "a", "b", "a", "c", None, ""])
    assert learned.words == ("a", "b")
    assert Codes(Category(column="x"), learned, 10).encode(["a", "b", "c", None])[:, 0].tolist() == [11, 12, 10, 10]


def test_buckets_have_equal_mass_and_a_place_for_missing() -> None:
    feature = Bucket(column="x", count=4)
    learned = learn(feature, list(range(100)))
    codes = Codes(feature, learned, 0).encode([*range(100), None, -5, 1e9])[:, 0]
    assert np.bincount(codes[:100])[1:].tolist() == [25, 25, 25, 25]
    assert codes[100:].tolist() == [0, 1, 4]


@given(st.lists(words, min_size=1), st.lists(words))
def test_numbers_are_always_finite(training, serving) -> None:
    for feature in (Number(column="x"), Number(column="x", log1p=True, lowest=-1, highest=10)):
        assert np.isfinite(encode_number(feature, learn(feature, training), serving)).all()


def test_a_missing_or_infinite_number_is_the_mean_and_says_so() -> None:
    feature = Number(column="x", highest=1e9)
    endless = [float("inf"), float("-inf")]
    learned = learn(feature, [1.0, 3.0, *endless])
    assert (learned.mean, learned.deviation) == (2.0, 1.0)
    codes = encode_number(feature, learned, [2.0, None, "x", float("nan"), *endless, 3.0])
    assert codes[:, 0].tolist() == [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    assert codes[:, 1].tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf"), float("-inf"), "", "many", HUGE])
def test_a_bucket_of_what_is_no_number_is_unknown(nothing) -> None:
    feature = Bucket(column="x", count=4)
    learned = learn(feature, [*range(100), nothing, nothing])
    assert learned == learn(feature, list(range(100)))
    assert Codes(feature, learned, 10).encode([nothing, 0]).tolist() == [[10], [11]]


@pytest.mark.parametrize("feature", [Category(column="x"), Hash(column="x", buckets=9), Tags(column="x", width=2)])
@pytest.mark.parametrize("nothing", [None, float("nan"), ""])
def test_a_missing_word_has_the_code_of_the_unknown(feature, nothing) -> None:
    codes = Codes(feature, learn(feature, ["a", "b", nothing]), 10).encode([nothing, "a"])
    assert codes[0].tolist() == [10, 0][: codes.shape[1]]
    assert codes[1, 0] > 10


def test_a_hash_code_is_the_same_in_every_process() -> None:
    codes = Codes(Hash(column="x", buckets=1000), Learned(), 0).encode(["alpha", "beta", None])
    assert codes[:, 0].tolist() == [948, 428, 0]


def test_a_tag_alone_is_a_list_of_one() -> None:
    feature = Tags(column="x", width=2)
    learned = learn(feature, [["rock", "jazz"], "rock", 7])
    assert learned.words == ("rock", "7", "jazz")
    assert Codes(feature, learned, 10).encode(["rock", 7, "r"]).tolist() == [[11, 0], [12, 0], [10, 0]]


@pytest.mark.parametrize(
    ("feature", "good", "bad"),
    [
        (Tags(column="x"), [[], ["a", 1], None], ["a", 5, HUGE]),
        (Number(column="x"), [1, 2.5, "3", "", True, None], [HUGE, "many", [1], float("inf")]),
        (Bucket(column="x"), [1, None], [-HUGE, "many", ["1"]]),
        (Age(), [1, None], [HUGE]),
        (Vector(column="x"), [[1, 2.0], [], None], ["12", 3, [1, "2"], [HUGE], [float("nan")]]),
        (Category(column="x"), ["a", 1, HUGE, None, ()], [["a"]]),
        (Hash(column="x", buckets=3), ["a", HUGE, None], [["a"]]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_feature_cannot_be_made_of_is_said_in_few_words(feature, good, bad) -> None:
    for value in good:
        assert problem(feature, value) == ""
        if not isinstance(feature, Age | Number | Vector):
            Codes(feature, learn(feature, [value]), 0).encode([value])
    for value in bad:
        assert "wanted" in problem(feature, value)
        assert len(problem(feature, value)) < 100
