import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.errors import StepError
from tamis.funnel import Funnel, Stage
from tamis.types import Candidates, Catalog, Features, History, Query


def query(size: int = 3) -> Query:
    keys = np.arange(100, dtype=np.uint64)
    empty = Features(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32))
    return Query(-1, 0.0, size, "feed", 1, History.empty(), empty, Catalog.of(keys, {}))


@dataclass(frozen=True)
class Give:
    ids: tuple[int, ...]
    wait: float = 0.0

    def recall(self, query: Query) -> Candidates:
        time.sleep(self.wait)
        return Candidates.of(self.ids)


@dataclass(frozen=True)
class Fail:
    def recall(self, query: Query) -> Candidates:
        raise ConnectionError("store is down")


@dataclass(frozen=True)
class FailScore:
    def score(self, query: Query, items: Candidates):
        raise ConnectionError("net is gone")


@dataclass(frozen=True)
class Needs:
    column: str

    def score(self, query: Query, items: Candidates):
        return {"score": items.column(self.column)}


@dataclass(frozen=True)
class Even:
    def keep(self, query: Query, items: Candidates):
        return items.ids % 2 == 0


@dataclass(frozen=True)
class ById:
    values: dict = field(default_factory=dict)

    def score(self, query: Query, items: Candidates):
        return {"score": np.array([self.values.get(int(i), float(i)) for i in items.ids])}


@dataclass(frozen=True)
class Reverse:
    def pick(self, query: Query, items: Candidates):
        return np.arange(len(items))[::-1]


@dataclass(frozen=True)
class Returns:
    value: object

    def keep(self, query: Query, items: Candidates):
        return self.value


@dataclass(frozen=True)
class Picks:
    value: object

    def pick(self, query: Query, items: Candidates):
        return self.value


def run(*stages: Stage, size: int = 3):
    return Funnel(stages).run(query(size))


def test_sources_are_united_with_the_provenance_of_all() -> None:
    page = run(Stage("recall", {"a": Give((5, 3, 1)), "b": Give((3, 9))}, 10))
    columns = (page.items.ids, page.items.column("channel"), page.items.column("found_by"))
    table = {int(i): (int(c), int(f)) for i, c, f in zip(*columns, strict=True)}
    assert table == {5: (0, 0b01), 3: (0, 0b11), 1: (0, 0b01), 9: (1, 0b10)}
    assert page.channels == ("a", "b")


def test_a_cut_of_recall_is_a_snake_merge_of_the_sources() -> None:
    page = run(Stage("recall", {"a": Give((1, 2, 3, 4)), "b": Give((11, 12, 13))}, 4))
    assert page.items.ids.tolist() == [1, 11, 2, 12]


def test_a_page_knows_the_rank_of_each_item_in_every_channel() -> None:
    page = run(Stage("recall", {"a": Give((5, 3, 1)), "bad": Fail(), "b": Give((3, 9))}, 3))
    assert page.items.ids.tolist() == [5, 3, 9]
    assert page.ranks().tolist() == [[0, -1, -1], [1, -1, 0], [-1, -1, 1]]
    assert page.found["a"].tolist() == [5, 3, 1]  # all of them, whatever the limit left
    assert "bad" not in page.found


def test_quotas_divide_the_limit_after_the_filters_and_a_patch_keeps_the_total() -> None:
    steps = {"a": Give(tuple(range(40))), "b": Give(tuple(range(50, 90))), "even": Even()}
    for quotas, wanted in (({"a": 6, "b": 2}, (6, 2)), ({"a": 6, "b": 6}, (4, 4)), ({"a": 0, "b": 1}, (0, 8))):
        page = run(Stage("recall", steps, 8, quotas=quotas))
        assert ((page.items.ids < 40).sum(), (page.items.ids >= 50).sum()) == wanted
        assert (page.items.ids % 2 == 0).all()
        assert page.items.column("score").tolist() == [-n for n in range(8)]


def test_a_source_that_fails_leaves_its_places_to_the_others() -> None:
    page = run(Stage("recall", {"bad": Fail(), "a": Give(tuple(range(9)))}, 6, quotas={"bad": 5, "a": 1}))
    assert page.items.ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert page.degraded


def test_in_threads_a_source_has_a_budget_of_its_own() -> None:
    steps = {"slow": Give((1,), wait=1.0), "a": Give((2,), wait=0.1), "b": Give((3,))}
    page = run(Stage("recall", steps, 10, parallel=True, source_budget_ms={"slow": 20}))
    assert page.items.ids.tolist() == [2, 3]
    assert {t.step: t.status for t in page.trace} == {"slow": "late", "a": "ok", "b": "ok"}


def test_filters_scorers_and_limits_apply_in_order() -> None:
    page = run(
        Stage("recall", {"a": Give(tuple(range(10))), "even": Even()}, 100),
        Stage("rank", {"s": ById()}, 3),
    )
    assert page.items.ids.tolist() == [8, 6, 4]
    assert [(t.step, t.rows_in, t.rows_out) for t in page.trace] == [("a", 0, 10), ("even", 10, 5), ("s", 5, 5)]
    assert not page.degraded


def test_a_selector_keeps_its_order_and_the_query_size_cuts() -> None:
    page = run(
        Stage("recall", {"a": Give(tuple(range(6)))}, 100),
        Stage("rank", {"s": ById()}, 6),
        Stage("rerank", {"r": Reverse()}, 0),
        size=2,
    )
    assert page.items.ids.tolist() == [0, 1]


def test_a_failed_source_thins_the_page_and_shows() -> None:
    page = run(Stage("recall", {"bad": Fail(), "a": Give((1, 2))}, 10))
    assert page.items.ids.tolist() == [1, 2]
    assert page.degraded
    assert page.trace[0].status == "failed"
    assert "store is down" in page.trace[0].error


def test_an_optional_stage_passes_rows_through_on_an_outage() -> None:
    page = run(Stage("recall", {"a": Give((7, 8))}, 10), Stage("rank", {"s": FailScore()}, 1, optional=True))
    assert page.items.ids.tolist() == [7]
    assert page.trace[1].status == "skipped"


def ranked(*steps: tuple[str, object]) -> list:
    """A funnel of three candidates and an optional stage that falls back on its step "light"."""
    recall = Stage("recall", {"a": Give((7, 8, 9))}, 10)
    stage = Stage("rank", dict(steps), 2, optional=True, fallback="light")
    return [recall, stage]


def test_a_fallback_scores_the_rows_only_after_an_outage() -> None:
    light = ("light", ById({7: 1.0, 8: 3.0, 9: 2.0}))
    fine = run(*ranked(light, ("main", ById({7: 3.0, 8: 1.0, 9: 2.0}))))
    assert fine.items.ids.tolist() == [7, 9]
    assert [step.step for step in fine.trace] == ["a", "main"]
    assert not fine.degraded
    out = run(*ranked(light, ("main", FailScore()), ("flip", Reverse())))
    assert out.items.ids.tolist() == [8, 9]
    assert [(step.step, step.status) for step in out.trace[1:]] == [
        ("main", "skipped"), ("flip", "skipped"), ("light", "ok")
    ]  # fmt: skip
    assert out.degraded
    late = run(*ranked(("main", ById()), light, ("flip", Reverse()), ("net", FailScore())))
    assert late.items.ids.tolist() == [8, 9]  # the order of the selector before the outage is gone


def test_a_fallback_that_fails_too_leaves_the_rows_as_they_came() -> None:
    page = run(*ranked(("main", FailScore()), ("light", FailScore())))
    assert page.items.ids.tolist() == [7, 8]
    assert page.trace[-1].error == "ConnectionError: net is gone"
    with pytest.raises(StepError):
        run(*ranked(("main", FailScore()), ("light", Needs("nothing"))))


def test_a_fallback_is_a_scorer_of_its_stage() -> None:
    for steps in ([("main", ById())], [("main", ById()), ("light", Even())]):
        with pytest.raises(StepError, match="'light' is no scorer"):
            Funnel(ranked(*steps))


def test_what_follows_a_failed_step_of_an_optional_stage_is_skipped_with_it() -> None:
    steps = {"heads": FailScore(), "fuse": Needs("p_click"), "pick": Reverse()}
    page = run(Stage("recall", {"a": Give((7, 8))}, 10), Stage("rank", steps, 2, optional=True))
    assert page.items.ids.tolist() == [7, 8]
    assert [t.status for t in page.trace] == ["ok", "skipped", "skipped", "skipped"]
    assert "heads was skipped" in page.trace[2].error


def test_a_needed_stage_raises_the_outage() -> None:
    with pytest.raises(ConnectionError):
        run(Stage("recall", {"a": Give((7, 8))}, 10), Stage("rank", {"s": FailScore()}, 1))


def test_a_source_after_the_budget_is_dropped_as_late() -> None:
    page = run(Stage("recall", {"a": Give((1,), wait=0.02), "b": Give((2,))}, 10, budget_ms=5))
    assert page.items.ids.tolist() == [1]
    assert [t.status for t in page.trace] == ["ok", "late"]


def test_parallel_sources_wait_together_and_the_slow_one_is_late() -> None:
    steps = {"slow": Give((1,), wait=1.0), "a": Give((2,)), "b": Give((3,))}
    page = run(Stage("recall", steps, 10, budget_ms=150, parallel=True))
    assert sorted(page.items.ids.tolist()) == [2, 3]
    assert {t.step: t.status for t in page.trace} == {"slow": "late", "a": "ok", "b": "ok"}


@pytest.mark.parametrize(
    "step",
    [
        Give((1, 1)),
        Returns(np.ones(5, np.bool_)),
        Returns(np.ones(2, np.int64)),
        Picks(np.array([0, 0])),
        Picks(np.array([5])),
        Picks(np.array([-1])),
    ],
    ids=repr,
)
def test_a_broken_promise_always_raises(step) -> None:
    with pytest.raises(StepError):
        run(Stage("recall", {"a": Give((1, 2)), "bad": step}, 10, optional=True))


def test_a_step_without_a_verb_or_with_two_is_refused_when_built() -> None:
    with pytest.raises(StepError, match="exactly one verb"):
        Funnel([Stage("recall", {"x": object()}, 1)])  # type: ignore[dict-item]


def test_two_sources_may_not_share_a_name() -> None:
    with pytest.raises(StepError, match="share a name"):
        Funnel([Stage("recall", {"a": Give(())}, 1), Stage("rank", {"a": Give(())}, 1)])


def test_the_caller_may_bring_his_own_candidates() -> None:
    funnel = Funnel([Stage("recall", {"a": Give((1,))}, 1), Stage("rank", {"s": ById()}, 9)])
    assert funnel.run(query(), Candidates.of([4, 6, 5]), first="rank").items.ids.tolist() == [6, 5, 4]


def test_the_tables_between_stages_can_be_kept() -> None:
    kept: dict[str, Candidates] = {}
    funnel = Funnel([Stage("recall", {"a": Give((1, 2, 3))}, 3), Stage("rank", {"s": ById()}, 1)])
    funnel.run(query(), keep=kept)
    assert {name: len(items) for name, items in kept.items()} == {"recall": 3, "rank": 1}


finite_or_not = st.floats(allow_nan=True, allow_infinity=True)


@settings(deadline=None)  # the first call compiles
@given(
    st.lists(st.lists(st.integers(0, 30), unique=True), max_size=5),
    st.dictionaries(st.integers(0, 30), finite_or_not),
    st.integers(1, 40),
)
def test_nothing_is_lost_or_doubled_whatever_the_sources_and_scores(sources, values, limit: int) -> None:
    steps = {f"s{n}": Give(tuple(ids)) for n, ids in enumerate(sources)}
    page = Funnel([Stage("recall", steps, 1000), Stage("rank", {"x": ById(values)}, limit)]).run(query())
    wanted = {i for ids in sources for i in ids}
    ids = page.items.ids.tolist()
    assert len(ids) == len(set(ids)) == min(limit, len(wanted))
    assert set(ids) <= wanted
    if ids:
        assert np.isfinite(page.items.column("score")).all()
        good = [i for i in wanted if np.isfinite(values.get(i, float(i)))]
        assert all(np.isfinite(values.get(i, float(i))) for i in ids[: len(good)])


@pytest.mark.parametrize("number", [-1, 1000, 2**40])
def test_a_source_that_finds_what_the_catalogue_has_not_is_named(number: int) -> None:
    asked = query()
    funnel = Funnel([Stage("recall", {"good": Give((0, 1)), "wild": Give((2, number))}, 10)])
    with pytest.raises(StepError, match="wild: the source returned an item outside the catalogue of"):
        funnel.run(asked)
