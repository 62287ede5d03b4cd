import numpy as np
import pytest
from serving_fakes import ITEMS, NOW, Broken, FakeModel, engine, funnel

from tamis.errors import NotFound, RequestError
from tamis.funnel import Funnel, Stage
from tamis.recall.cached import Cached, CachedConfig
from tamis.serving.engine import Engine
from tamis.serving.records import new_id
from tamis.serving.wire import EventRequest, ItemRequest, RankRequest, RecommendRequest, RejectedEvent
from tamis.state.memory import Memory
from tamis.types import Page, Query, item_key


def click(item: str, user: str = "u1", action: str = "click", **more: object) -> EventRequest:
    return EventRequest(user_id=user, item_id=item, action=action, **more)  # type: ignore[arg-type]


def shown(made: Engine, user: str = "u1", **more: object) -> list[str]:
    reply = made.recommend(RecommendRequest(user_id=user, **more))  # type: ignore[arg-type]
    return [item.item_id for item in reply.items]


def test_a_page_carries_external_ids_channels_and_reasons() -> None:
    reply = engine().recommend(RecommendRequest(user_id="u1", size=3))
    assert [item.item_id for item in reply.items] == ["i0", "i1", "i2"]
    assert (reply.user_id, reply.bundle, reply.degraded, reply.arms) == ("u1", "one", False, {})
    assert {(item.channel, item.reason) for item in reply.items} == {("newest", "just published")}
    assert reply.items[0].score > reply.items[1].score


def test_an_unknown_user_gets_a_page() -> None:
    assert shown(engine(), user="nobody", size=5) == ["i0", "i1", "i2", "i3", "i4"]


def test_no_reason_speaks_of_the_likes_of_a_user_of_whom_nothing_is_known() -> None:
    kinds = {"newest": "two_tower", "popular": "popular"}  # the first thirty items are found by both
    made = engine(FakeModel(kinds=kinds))

    def reasons(user: str) -> list[str]:
        reply = made.recommend(RecommendRequest(user_id=user, size=40))
        return [item.reason for item in reply.items if item.channel == "newest"]

    assert reasons("nobody") == ["popular now"] * 30 + ["a first pick while we get to know you"] * 10
    made.put_user("u1", {})
    assert set(reasons("u1")) == {"matches your interests"}  # the bundle learnt of him
    made.observe([click("i50", user="nobody")])
    assert "matches your interests" in reasons("nobody")


def test_an_empty_catalogue_gives_an_empty_page() -> None:
    reply = engine(FakeModel(items=0)).recommend(RecommendRequest(user_id="u1"))
    assert reply.items == []
    assert not reply.degraded


def test_a_catalogue_that_was_empty_fills_up_by_puts() -> None:
    made = engine(FakeModel(items=0))
    made.put_item("new", ItemRequest())
    assert shown(made) == ["new"]


def test_a_page_larger_than_what_exists_is_what_exists() -> None:
    assert len(shown(engine(FakeModel(items=7)), size=200)) == 7


def test_a_huge_page_is_refused_with_the_limit() -> None:
    with pytest.raises(RequestError, match="size: 201, wanted 1 to 200") as refused:
        shown(engine(), size=201)
    assert refused.value.field == "size"


def test_a_click_changes_the_next_page() -> None:
    made = engine()
    made.observe([click("i40")])
    assert shown(made, size=3) == ["i41", "i42", "i43"]
    assert shown(made, user="u2", size=1) == ["i0"]


def test_an_impression_is_not_shown_again() -> None:
    made = engine()
    made.observe([click("i0", action="impression"), click("i1", action="impression")])
    assert shown(made, size=2) == ["i2", "i3"]


def test_excluded_items_stay_away_and_unknown_ones_do_not_matter() -> None:
    assert shown(engine(), size=2, exclude=["i0", "nothing"]) == ["i1", "i2"]


def test_a_fresh_item_comes_out_of_the_newest_channel_in_the_next_page_of_every_engine() -> None:
    state = Memory()
    mine, other = engine(state=state), engine(state=state)
    shown(other)
    mine.put_item("new", ItemRequest(author="me"))
    for made in (mine, other):
        reply = made.recommend(RecommendRequest(user_id="u1", size=1))
        assert [(item.item_id, item.channel) for item in reply.items] == [("new", "newest")]


def test_an_item_taken_down_is_gone_at_once() -> None:
    made = engine()
    made.delete_item("i0")
    assert shown(made, size=1) == ["i1"]
    with pytest.raises(NotFound, match="taken down"):
        made.item("i0")
    with pytest.raises(NotFound):
        made.delete_item("i0")
    with pytest.raises(NotFound):
        made.similar("i0", 3)


def test_explaining_shows_every_step_and_every_score() -> None:
    reply = engine().recommend(RecommendRequest(user_id="u1", size=1, explain=True))
    assert [step.step for step in reply.trace] == ["near", "newest", "popular", "allowed", "fresh", "top"]  # type: ignore[union-attr]
    assert reply.items[0].found_by == ["newest", "popular"]
    assert reply.items[0].scores == {"score": NOW - 1000.0, "click": 1.0}


def test_a_page_without_one_channel_is_degraded_and_says_so() -> None:
    made = engine(FakeModel(funnel=funnel({"away": Broken()})))
    reply = made.recommend(RecommendRequest(user_id="u1", size=1, explain=True))
    assert reply.degraded
    assert len(reply.items) == 1
    assert [step.status for step in reply.trace if step.step == "away"] == ["failed"]  # type: ignore[union-attr]


def test_the_history_is_newest_first_and_the_seed_changes_with_the_request() -> None:
    seen: list[Query] = []

    class Spy:
        def emit(self, query: Query, page: Page) -> None:
            seen.append(query)

    made = engine()
    made.observe([click("i5", time=NOW - 20), click("i6", time=NOW - 10)])
    for _ in range(2):
        made.recommend(RecommendRequest(user_id="u1", context={"city": "Lyon"}), Spy())
    assert seen[0].history.items.tolist() == [6, 5]
    assert seen[0].history.times.tolist() == [NOW - 10, NOW - 20]
    assert seen[0].features.codes.tolist() == [[2]]
    assert seen[0].features.dense.tolist() == [[2.0]]
    assert seen[0].context == {"city": "Lyon"}
    assert (seen[0].now, seen[0].user, seen[0].size) == (NOW, 1, 20)
    assert seen[0].seed != seen[1].seed


@pytest.mark.parametrize(
    "context", [{"lat": "north"}, {"lat": 91}, {"lat": float("nan")}, {"lon": True}, {"city": 3}, {"device": 1.5}]
)
def test_the_well_known_names_of_the_context_are_checked(context: dict[str, object]) -> None:
    with pytest.raises(RequestError) as refused:
        shown(engine(), context=context)
    assert refused.value.field == f"context.{next(iter(context))}"


# ---- rank and similar --------------------------------------------------------------------------------------------


def test_rank_gives_all_of_the_callers_items_in_order_and_names_the_missing() -> None:
    made = engine()
    made.delete_item("i9")
    ids = ["i5", "x", "i3", "i5", "i9", *(f"i{n}" for n in range(10, ITEMS))]
    reply = made.rank(RankRequest(user_id="u1", item_ids=ids))
    assert [item.item_id for item in reply.items] == ["i3", "i5", *(f"i{n}" for n in range(10, ITEMS))]
    assert reply.missing == ["x", "i9"]
    assert {(item.channel, item.reason) for item in reply.items} == {("", "")}


def test_rank_of_nothing_known_is_empty() -> None:
    reply = engine().rank(RankRequest(user_id="u1", item_ids=["x"]))
    assert (reply.items, reply.missing) == ([], ["x"])


def test_rank_refuses_no_items_and_too_many() -> None:
    for item_ids in ([], ["i1"] * 2001):
        with pytest.raises(RequestError) as refused:
            engine().rank(RankRequest(user_id="u1", item_ids=item_ids))
        assert refused.value.field == "item_ids"


def test_rank_needs_a_rank_stage() -> None:
    model = FakeModel(funnel=Funnel([Stage("recall", {}, limit=1)]))
    with pytest.raises(RequestError, match="no rank stage"):
        engine(model).rank(RankRequest(user_id="u1", item_ids=["i1"]))


def test_similar_items_are_open_ones_nearest_first() -> None:
    made = engine()
    made.delete_item("i6")
    reply = made.similar("i5", 3)
    assert [item.item_id for item in reply.items] == ["i7", "i8", "i9"]


def test_an_item_nobody_knows_has_no_neighbours_and_a_fresh_one_may_have_some() -> None:
    made = engine()
    with pytest.raises(NotFound):
        made.similar("x", 3)
    with pytest.raises(NotFound):
        made.similar(f"i{ITEMS - 1}", 3)
    made.put_item("new", ItemRequest())
    assert [item.item_id for item in made.similar("new", 2).items] == ["i0", "i1"]


# ---- events ------------------------------------------------------------------------------------------------------


def test_events_are_accepted_deduplicated_or_rejected_one_by_one() -> None:
    made = engine()
    reply = made.observe(
        [
            click("i1", event_id="a"),
            click("i1", event_id="a"),
            click("unknown"),
            click("i1", action="stare"),
            click("i1", time=1e12),
            click("i1", time=NOW + 301),
            click("i1", time=-5.0),
            RejectedEvent(7, "not JSON"),
            click("i2"),
        ]
    )
    assert (reply.accepted, reply.duplicates) == (2, 1)
    assert [(row.index, row.field) for row in reply.rejected] == [
        (2, "item_id"), (3, "action"), (4, "time"), (5, "time"), (6, "time"), (7, ""),
    ]  # fmt: skip
    assert made.observe([click("i1", event_id="a")]).duplicates == 1


def test_an_event_without_id_and_time_is_given_both() -> None:
    state = Memory()
    engine(state=state).observe([click("i1"), click("i1")])
    first, second = (event for _, event in state.log())
    assert first.time == NOW
    assert first.event_id != second.event_id


def test_no_events_are_no_work() -> None:
    reply = engine().observe([])
    assert (reply.accepted, reply.duplicates, reply.rejected) == (0, 0, [])


def test_a_late_event_of_an_item_taken_down_is_still_true() -> None:
    made = engine()
    made.put_item("new", ItemRequest())
    made.delete_item("new")
    made.delete_item("i1")
    assert made.observe([click("new"), click("i1")]).accepted == 2


# ---- items and users ---------------------------------------------------------------------------------------------


def test_an_item_is_read_as_it_was_put_or_as_the_bundle_knows_it() -> None:
    made = engine()
    assert made.item("i3").author == "somebody"
    made.put_item("i3", ItemRequest(author="me", extra={"tone": "dry"}))
    row = made.item("i3")
    assert (row.author, row.extra, row.publish_time) == ("me", {"tone": "dry"}, NOW - 4000.0)
    assert made.put_item("new", ItemRequest()).publish_time == NOW
    assert made.put_item("new", ItemRequest(quality=1.0)).publish_time == NOW
    with pytest.raises(NotFound):
        made.item("x")


def test_a_vector_of_another_width_is_refused() -> None:
    with pytest.raises(RequestError, match="vector: 2 numbers, the bundle's items have 3"):
        engine().put_item("new", ItemRequest(vector=(1.0, 2.0)))


def test_what_no_feature_can_be_made_of_is_refused_at_the_door() -> None:
    made = engine()
    for refused in (
        lambda: made.put_user("u1", {"tags": "no list"}),
        lambda: made.put_item("i1", ItemRequest(extra={"tags": "no list"})),
        lambda: shown(made, context={"tags": "no list"}),
    ):
        with pytest.raises(RequestError, match="wanted a list") as error:
            refused()
        assert error.value.field == "tags"


def test_a_user_is_put_read_and_forgotten() -> None:
    made = engine()
    with pytest.raises(NotFound):
        made.user("someone")
    assert made.put_user("someone", {"age": 31, "likes": ["a"]}).profile == {"age": 31, "likes": ["a"]}
    made.observe([click("i1", user="someone"), click("i2", user="someone", action="impression")])
    reply = made.user("someone")
    assert reply.counts == {"click": 1, "impression": 1}
    assert [(past.item_id, past.action) for past in reply.recent] == [("i1", "click")]
    made.delete_user("someone")
    for call in (made.user, made.delete_user):
        with pytest.raises(NotFound):
            call("someone")


def test_nothing_learnt_of_a_deleted_user_is_used_even_when_he_comes_back() -> None:
    seen: list[Query] = []

    class Spy:
        def emit(self, query: Query, page: Page) -> None:
            seen.append(query)

    made = engine()
    made.observe([click("i1")])
    made.recommend(RecommendRequest(user_id="u1"), Spy())
    made.delete_user("u1")
    made.recommend(RecommendRequest(user_id="u1"), Spy())
    made.observe([click("i2")])
    made.recommend(RecommendRequest(user_id="u1"), Spy())
    made.recommend(RecommendRequest(user_id="u2"), Spy())
    assert [query.user for query in seen] == [1, -1, -1, -1]
    assert [query.features.codes.tolist() for query in seen] == [[[2]], [[0]], [[0]], [[0]]]


def test_ids_sort_by_time_and_never_repeat() -> None:
    ids = [new_id(second) for second in np.arange(NOW, NOW + 5).tolist()]
    assert ids == sorted(ids)
    assert len({new_id(NOW) for _ in range(1000)}) == 1000
    assert {len(made) for made in ids} == {32}


def test_a_scheduled_item_comes_out_at_its_time_and_not_before() -> None:
    now = [NOW]
    made = Engine(FakeModel(), Memory(), clock=lambda: now[0])
    made.put_item("later", ItemRequest(publish_time=NOW + 60.0))
    made.put_item("i3", ItemRequest(publish_time=NOW + 90.0))
    assert "later" not in shown(made, size=50)
    assert "i3" not in shown(made, size=50)
    assert made.rank(RankRequest(user_id="u1", item_ids=["later", "i1"])).missing == ["later"]
    with pytest.raises(NotFound, match="not published yet"):
        made.similar("later", 3)
    assert made.item("later").publish_time == NOW + 60.0
    now[0] += 60.0
    assert shown(made, size=1) == ["later"]
    now[0] += 30.0
    assert shown(made, size=2) == ["i3", "later"]


# ---- what is left over ---------------------------------------------------------------------------------------------


def with_cached(state: Memory) -> Engine:
    """A funnel whose only other channel gives the newest items; it ranks 50 of them."""
    return engine(FakeModel(funnel=funnel({"cached": Cached(CachedConfig(top=8, capacity=10))})), state)


def waits(state: Memory) -> list[int]:
    ids = {item_key(f"i{number}"): number for number in range(ITEMS)}
    return [ids[key] for key in state.leftovers("u1")["key"].tolist()]


def test_what_was_ranked_high_and_not_shown_waits_until_it_is_shown() -> None:
    state = Memory()
    made = with_cached(state)
    made.observe([click("i30")])
    page = shown(made, size=5)
    assert page == ["i31", "i32", "i33", "i0", "i1"]
    assert waits(state) == [2, 3, 4]
    made.observe([click("i3", action="impression")])
    made.delete_item("i4")
    queries: list[Query] = []

    class Spy:
        def emit(self, query: Query, page: Page) -> None:
            queries.append(query)

    reply = made.recommend(RecommendRequest(user_id="u1", size=5, explain=True), Spy())
    assert queries[0].cached.tolist() == [2]
    assert sum("cached" in item.found_by for item in reply.items) == 0  # it waits on, behind the first five
    assert waits(state)[0] == 2


def test_a_funnel_without_the_channel_keeps_nothing() -> None:
    state = Memory()
    made = engine(state=state)
    made.observe([click("i30")])
    shown(made, size=5)
    assert len(state.leftovers("u1")) == 0
    shown(with_cached(state), size=5, user="nobody")
    assert len(state.leftovers("nobody")) == 0
