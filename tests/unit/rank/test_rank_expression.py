"""Formulas of one's own: what is read, what it gives, what is refused and where."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tamis.assemble import ProjectConfig
from tamis.config import convert, override
from tamis.errors import ConfigError
from tamis.rank.expression import LEAST, MOST, _Check, read_expression
from tamis.rank.fuse import Fuse, FuseConfig, click_times_sum, conversion_product, rank_sum
from tamis.types import Candidates, Catalog, Features, History, Query

CLICK, LIKE, PLAY = np.array([0.2, 0.5, 0.1]), np.array([0.05, 0.1, 0.02]), np.array([30.0, 10.0, 60.0])
HEADS = {"click": CLICK, "like": LIKE, "play": PLAY, "quality": np.array([-1.0, 0.0, 2.0])}


def value(text: str, **constants: float) -> np.ndarray:
    expression = read_expression(text)
    expression.check(constants)
    return expression.score({name: HEADS[name] for name in expression.names if name not in constants}, constants)


def refused(text: str, **constants: float) -> str:
    with pytest.raises(ValueError, match="expression") as error:
        read_expression(text).check(constants)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("click * (1 + 2*like) * max(play, 1)^0.3", CLICK * (1 + 2 * LIKE) * PLAY**0.3),
        ("click + 2 * like ^ 2 / 4 - 1", CLICK + 2 * LIKE**2 / 4 - 1),
        ("click ** 2 ** 0.5", CLICK ** (2**0.5)),
        ("-click^2", -(CLICK**2)),
        ("+click - -like", CLICK + LIKE),
        (
            "log(click) + log1p(play) + exp(like) + sqrt(like)",
            np.log(CLICK) + np.log1p(PLAY) + np.exp(LIKE) + LIKE**0.5,
        ),
        ("min(click, like, 0.04) + clip(play, 20, 40) / 40", np.minimum(LIKE, 0.04) + np.clip(PLAY, 20, 40) / 40),
        ("3 / (rank(play) + 1) + 1 / (rank(click) + 1)", 3 / np.array([3, 4, 2]) + 1 / np.array([3, 2, 4])),
        ("\n click\n   + like ", CLICK + LIKE),
        ("1e-1*click", 0.1 * CLICK),
    ],
)
def test_a_formula_gives_what_it_says(text: str, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(value(text), wanted, rtol=1e-12)


def test_the_formulas_of_the_course_can_be_written() -> None:
    both = {"click": CLICK, "like": LIKE}
    np.testing.assert_allclose(value("click * (1 + w * like)", w=3.0), click_times_sum(CLICK, both, {"like": 3.0}))
    np.testing.assert_allclose(value("click^0.5 * like^2"), conversion_product(both, {"click": 0.5, "like": 2.0}))
    ranks = value("2 / (rank(click)^0.5 + 1) + 1 / (rank(like) + 3)")
    np.testing.assert_allclose(ranks, rank_sum(both, {"click": 2, "like": 1}, {"click": 0.5}, {"like": 3}))


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ("click $ 2", 7, r"no character '\$'"),
        ("click +", 7, "cannot be read"),
        ("2 * (click", 5, "never closed"),
        ("click + sigmoid(like)", 9, "no function 'sigmoid'"),
        ("click + 2 ^ like.x", 13, "Attribute is no part"),
        ("click or like", 1, "BoolOp"),
        ("like + (lambda)", None, "cannot be read"),
        ("True * click", 1, "Constant"),
        ("click * 2j", 9, "Constant"),
        ("click * 2or 3", None, "cannot be read"),
        ("log + click", 1, "log is a function"),
        ("max(click)", 1, "wanted at least 2"),
        ("log(click, 2)", 1, "log of 2 values; wanted 1"),
        ("clip(click, 0)", 1, "wanted 3"),
        ("click * 1e200", 9, "too large"),
        ("click ^ 2 + " + "9" * 400, 13, "too large"),
        ("click + play", 9, r"seconds beside plain numbers \(place 1\)"),
        ("click + like * play", 9, "seconds beside plain numbers"),
        ("max(play, click)", 11, "plain numbers beside seconds"),
        ("play^2 + play", 10, r"seconds beside seconds\^2"),
        ("exp(play)", 1, "exp of seconds"),
        ("2 ^ play", 5, "an exponent in seconds"),
        ("play ^ like", 1, "differs from row to row"),
        ("max(click, 30)", 1, "always 30"),
        ("click + like^0", 9, "always 1"),
        ("click + 0 * like", 9, "always 0"),
        ("click + log(-like)", 9, "always -20.7"),
        ("click / 0", 9, "division by 0"),
        ("click * rank(3)", 9, "rank of what is the same"),
        ("1 + 2", None, "reads no head"),
        ("  ", None, "is empty"),
        ("click + " + "(" * 90 + "like" + ")" * 90 + " * x" * 40, 9, "too large"),
        ("-" * 700 + "click", 41, "at most 200 parts and 40 levels"),
        ("click" + " + click" * 120, 1, "at most 200 parts and 40 levels"),
        ("click + " * 200 + "like", None, "at most 1000"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(text: str, place: int | None, why: str) -> None:
    message = refused(text)
    assert place is None or f"place {place} " in message
    with pytest.raises(ValueError, match=why):
        read_expression(text).check({})


@pytest.mark.parametrize(
    "text",
    [
        "0.02 * play + click",
        "play / 60 * click + like * (play / avg_seconds)",
        "2 * play + play",
        "log1p(play) + click",
        "max(play, 1) * click",
        "play ^ a + play ^ a",
        "min(play, 600) / play + click / duration_seconds * play",
        "click * a",
    ],
)
def test_units_that_fit_are_let_through(text: str) -> None:
    read = read_expression(text)
    read.check({"a": 0.0} if "a" in read.names else {})  # raises where they do not
    assert read.names


def test_a_constant_may_be_0_because_it_is_there_to_be_changed() -> None:
    np.testing.assert_array_equal(value("click + w * like", w=0.0), CLICK)
    assert "reads no head" in refused("w + 1", w=2.0)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1 / quality", [-1.0, 1 / LEAST, 0.5]),
        ("log(quality)", [np.log(LEAST), np.log(LEAST), np.log(2)]),
        ("sqrt(quality)", [0.0, 0.0, np.sqrt(2)]),
        ("log1p(quality)", [np.log1p(LEAST - 1), 0.0, np.log(3)]),
        ("quality ^ 2", [1.0, 0.0, 4.0]),
        ("quality ^ 0.5", [LEAST**0.5, LEAST**0.5, 2**0.5]),
        ("quality ^ -1", [1 / LEAST, 1 / LEAST, 0.5]),
        ("exp(quality * 1000)", [0.0, 1.0, MOST]),
        ("quality * 1e90 * 1e90", [-MOST, 0.0, MOST]),
    ],
)
def test_what_has_no_finite_value_gets_the_stated_one(text: str, wanted: list[float]) -> None:
    np.testing.assert_allclose(value(text), wanted, rtol=1e-6, atol=1e-300)


# ---- properties ------------------------------------------------------------------------------------------------

Made = tuple[str, Callable[[dict[str, Any]], Any]]
_leaf = st.one_of(
    st.sampled_from(["click", "like", "quality"]).map(lambda name: (name, lambda heads: heads[name])),
    st.floats(0.01, 5).map(lambda number: (repr(number), lambda heads: number)),
)


def _bigger(inner: st.SearchStrategy[Made]) -> st.SearchStrategy[Made]:
    def pair(sign: str, one: Made, other: Made) -> Made:
        both = {"+": np.add, "-": np.subtract, "*": np.multiply}[sign]
        return f"({one[0]} {sign} {other[0]})", lambda heads: both(one[1](heads), other[1](heads))

    def call(name: str, one: Made, other: Made) -> Made:
        function = {"max": np.maximum, "min": np.minimum}[name]
        return f"{name}({one[0]}, {other[0]})", lambda heads: function(one[1](heads), other[1](heads))

    return st.one_of(
        st.builds(pair, st.sampled_from("+-*"), inner, inner),
        st.builds(call, st.sampled_from(["min", "max"]), inner, inner),
        inner.map(lambda one: (f"-{one[0]}", lambda heads: -one[1](heads))),
    )


formulas = st.recursive(_leaf, _bigger, max_leaves=12)
numbers = st.lists(st.floats(0, 1), min_size=3, max_size=3).map(np.array)


@settings(max_examples=150, deadline=None)
@given(formulas, numbers, numbers, st.lists(st.floats(-3, 3), min_size=3, max_size=3).map(np.array))
def test_a_formula_is_read_as_it_is_written(
    made: Made, click: np.ndarray, like: np.ndarray, quality: np.ndarray
) -> None:
    text, wanted = made
    heads = {"click": click, "like": like, "quality": quality}
    np.testing.assert_allclose(read_expression(text).score(heads, {}), wanted(heads), rtol=1e-9, atol=1e-9)


_any_leaf = st.sampled_from(["click", "like", "quality", "play", "0", "1", "0.5", "3", "1e99"])
any_formula = st.recursive(
    _any_leaf,
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*", "/", "^"]), inner),
        st.builds("{}({})".format, st.sampled_from(["log", "log1p", "exp", "sqrt", "rank"]), inner),
        st.builds("clip({}, {}, {})".format, inner, inner, inner),
    ),
    max_leaves=8,
)
wide = st.lists(st.floats(-1e300, 1e300), min_size=4, max_size=4).map(np.array)


@settings(max_examples=200, deadline=None)
@given(any_formula, numbers.map(lambda n: np.append(n, 0.0)), wide, wide.map(np.abs))
@example("click / log(click)", np.array([0.0, 0.0, 0.5, 0.0]), np.zeros(4), np.zeros(4))
def test_whatever_passes_is_finite_and_inside_its_range(
    text: str, rate: np.ndarray, quality: np.ndarray, play: np.ndarray
) -> None:
    expression = read_expression(text)
    try:
        expression.check({})
    except ValueError:
        return
    got = expression.score({"click": rate, "like": rate[::-1], "quality": quality, "play": play}, {})
    assert got.shape == (4,)
    assert np.isfinite(got).all()
    low, high = _Check(text, {}).range(expression.root)
    assert (got >= low - 1e-9 * abs(low)).all()
    assert (got <= high + 1e-9 * abs(high)).all()


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.text("()+-*/^.,0123 eclikx\n", max_size=120)))
def test_any_text_is_a_formula_or_a_value_error(text: str) -> None:
    formula = None
    with contextlib.suppress(ValueError):
        formula = read_expression(text)
        formula.check({})
    assert formula is None or formula.root is not None


# ---- as a setting of the fusion ----------------------------------------------------------------------------------


def query(**columns: Any) -> Query:
    features = Features(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32))
    return Query(0, 0.0, 3, "", 1, History.empty(), features, Catalog.of(np.arange(3, dtype=np.uint64), columns))


def test_the_fusion_reads_heads_columns_and_the_catalogue() -> None:
    config = FuseConfig(
        formula="expression", expression="click * (1 + w * like) / length", constants={"w": 2.0}, factors={"pre": 1.0}
    )
    assert config.reads == ("click", "like", "length")
    items = Candidates.of([2, 0], p_click=np.array([0.5, np.nan]), like=np.array([0.1, 0.2]), pre=np.array([0.5, 1]))
    got = Fuse(config).score(query(length=np.array([4, 5, 8])), items)["score"]
    np.testing.assert_allclose(got, [0.5 * 1.2 / 8 * 0.5, 0.0])
    assert len(Fuse(config).score(query(length=np.array([4, 5, 8])), items.take(slice(0)))["score"]) == 0


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ({"formula": "expression"}, "is empty"),
        ({"formula": "expression", "expression": "click", "weights": {"like": 1.0}}, "reads no weights"),
        ({"formula": "expression", "expression": "click", "constants": {"w": 1.0}}, r"constants has \['w'\]"),
        ({"formula": "expression", "expression": "click + play"}, "place 9"),
        ({"expression": "click"}, "click_times_sum reads no expression"),
        ({"constants": {"w": 1.0}}, "reads no constants"),
    ],
)
def test_a_wrong_formula_is_a_config_error(section: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        convert({"kind": "fuse", **section}, FuseConfig)


def test_a_head_that_nobody_predicts_is_refused_by_the_configuration(tiny: Any) -> None:
    config: ProjectConfig = tiny.project.config
    fuse = {"kind": "fuse", "formula": "expression", "expression": "click * (1 + 2 * like)"}
    assert override(config, {"funnel.rank.steps.fuse": fuse}).funnel.rank.steps["fuse"].reads == ("click", "like")
    fuse["expression"] = "click * applause"
    with pytest.raises(ConfigError, match=r"fuse\.expression: expression reads heads \['applause'\]"):
        override(config, {"funnel.rank.steps.fuse": fuse})
