"""Statistics of every kind on a small log: against their definition, live against logged, and with planted futures."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.config import convert
from tamis.data.dataset import Dataset
from tamis.data.samples import SampleConfig
from tamis.data.tables import RawTables
from tamis.data.write import import_tables
from tamis.errors import ConfigError
from tamis.features.batch import query_dynamic
from tamis.features.encode import Encoder, with_ages
from tamis.features.inputs import Inputs
from tamis.features.online import query_features
from tamis.features.prepare import Moment, prepare
from tamis.features.spec import FeaturesConfig
from tamis.features.statistics import Statistics
from tamis.features.tables import Tables
from tamis.types import ACTION_CODE, ACTIONS, Features, History, Query

DAY, HOUR = 86_400.0, 3_600.0
START = 19_000 * DAY
UNTIL = START + 8 * DAY
CLICKS = {"kind": "count", "action": "click"}
RATE = {"kind": "rate", "action": "click", "prior": 3}
STARS = {"kind": "mean", "prior": 3}
CONFIG = {
    "user": {
        "gender": {"kind": "category", "column": "gender"},
        "now": {**CLICKS, "as_of": "now"},
        "all": CLICKS,
        "day": {**CLICKS, "window_hours": 24},
        "at_hour": {**CLICKS, "by": "hour"},
        "in_tab": {**CLICKS, "by": "tab", "window_hours": 72},
        "author": {**CLICKS, "by": "author_name"},
        "type": {**CLICKS, "by": "type", "window_hours": 72},
        "author_rate": {**RATE, "by": "author_name"},
        "day_rate": {**RATE, "window_hours": 24},
        "tab_rate": {**RATE, "by": "tab"},
        "stars": STARS,
        "author_stars": {**STARS, "by": "author_name", "window_hours": 72},
    },
    "context": {"hour": {"kind": "hour"}, "tab": {"kind": "scene"}},
    "item": {
        "author_name": {"kind": "category", "column": "author"},
        "type": {"kind": "category", "column": "category"},
        "age": {"kind": "age"},
        "all": CLICKS,
        "hour": {**CLICKS, "window_hours": 1},
        "in_tab": {**CLICKS, "by": "tab"},
        "gender": {**CLICKS, "by": "gender", "window_hours": 72},
        "of_author": {**CLICKS, "of": "author_name"},
        "tab_rate": {**RATE, "by": "tab", "window_hours": 48},
        "stars": STARS,
        "day_stars": {**STARS, "window_hours": 24},
        "gender_stars": {**STARS, "by": "gender"},
        "author_stars": {**STARS, "of": "author_name"},
    },
    "history": {"fields": ["author_name"], "actions": ["click"]},
}
COUNTS = [
    f"{side}.{name}"
    for side in ("user", "item")
    for name, feature in CONFIG[side].items()  # type: ignore[attr-defined]
    if feature["kind"] == "count"
]
MEANS = [
    f"{side}.{name}"
    for side in ("user", "item")
    for name, feature in CONFIG[side].items()  # type: ignore[attr-defined]
    if feature["kind"] == "mean"
]
USERS = [{"user_id": f"u{n}", "gender": [None, "f", "m"][n % 3]} for n in range(5)]
ITEMS = [
    {
        "item_id": f"i{n}",
        "author": [None, "a", "b"][n % 3],
        "category": ["image", "video"][n % 2],
        "publish_time": None if n == 4 else START - DAY,
    }
    for n in range(6)
]


@dataclass(frozen=True)
class Deed:
    """A user met an item, in a scene; "" = without a request."""

    user: int
    item: int
    time: float
    scene: str
    stars: float = 4.0


def imported(folder: Path, shown: list[Deed], clicks: list[Deed]) -> Dataset:
    """Every click is a rating as well."""
    requests, events = [], []
    for action, deeds in (("impression", shown), ("click", clicks), ("rate", clicks)):
        for n, deed in enumerate(deeds):
            request = f"{action}{n}" if deed.scene else ""
            here = {"request_id": request, "user_id": f"u{deed.user}", "time": deed.time}
            events.append({**here, "item_id": f"i{deed.item}", "action": action})
            events[-1]["value"] = deed.stars if action == "rate" else 0.0
            if request:
                requests.append({**here, "scene": deed.scene})
    frames = {"users": USERS, "items": ITEMS, "requests": requests, "events": events}
    folder.mkdir()
    import_tables(RawTables.of(**{name: pl.DataFrame(rows) for name, rows in frames.items()}), folder)
    return Dataset.open(folder)


def inputs_of(dataset: Dataset, encoder: Encoder | None = None, until: float = UNTIL) -> Inputs:
    config = convert(CONFIG, FeaturesConfig)
    return prepare(dataset, Moment(until, until), (config, SampleConfig(), ("click",)), encoder=encoder)


def encoded(inputs: Inputs, row: Deed) -> dict[str, np.float32]:
    """ "side.name" → what a training row has."""
    samples, sides = inputs.train, inputs.sides(inputs.train)
    request = int(np.flatnonzero((samples.user == row.user) & (samples.time == row.time))[0])
    layout = inputs.layout
    assert samples.first[request + 1] == samples.first[request] + 1
    of_user = zip(layout.user_dense, sides.user.dense[request], strict=True)
    of_item = zip(layout.item_dynamic, sides.dynamic[samples.first[request]], strict=True)
    items = {name if name.startswith("user.") else f"item.{name}": value for name, value in of_item}
    return {f"user.{name}": value for name, value in of_user} | items


def defined(name: str, row: Deed, clicks: list[Deed]) -> list[Deed]:
    """The clicks that a feature counts for a row, by its declaration."""
    side, _, feature = name.partition(".")
    declared: dict[str, Any] = CONFIG[side][feature]  # type: ignore[index]
    until = row.time if declared.get("as_of") == "now" else row.time // DAY * DAY
    since = until - declared["window_hours"] * HOUR if "window_hours" in declared else -np.inf

    def same(shared: str, click: Deed) -> bool:
        def of(deed: Deed) -> Any:
            return {
                "hour": int(deed.time // HOUR) % 24,
                "tab": deed.scene,
                "gender": USERS[deed.user]["gender"],
                "author_name": ITEMS[deed.item]["author"],
                "type": ITEMS[deed.item]["category"],
            }[shared]

        return of(row) == of(click) and of(row) not in (None, "")

    def counts(click: Deed) -> bool:
        own = click.user == row.user if side == "user" else click.item == row.item
        if "of" in declared:
            own = same(declared["of"], click)
        return own and since <= click.time < until and ("by" not in declared or same(declared["by"], click))

    return list(filter(counts, clicks))


deeds = st.builds(
    Deed,
    user=st.integers(0, 4),
    item=st.integers(0, 5),
    time=st.one_of(st.integers(0, 100).map(lambda n: START + n * HOUR), st.floats(START, START + 5 * DAY)),
    scene=st.sampled_from(["feed", "search", ""]),
    stars=st.sampled_from([0.0, 0.5, 1.0, 3.7, 5.0]),
)
pages = st.lists(deeds.filter(lambda deed: deed.scene), min_size=1, max_size=5, unique_by=lambda d: (d.user, d.time))

logs = st.lists(deeds, max_size=30, unique_by=lambda deed: (deed.user, deed.item, deed.time))  # told apart by an import


@given(pages, logs)
@settings(max_examples=30, deadline=None)
def test_every_count_is_what_its_declaration_says(shown: list[Deed], clicks: list[Deed]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        inputs = inputs_of(imported(Path(folder) / "data", shown, clicks))
        for row in shown:
            got = encoded(inputs, row)
            for name in COUNTS:
                assert got[name] == np.log1p(np.float32(len(defined(name, row, clicks)))), (name, row)


@given(pages, logs)
@settings(max_examples=20, deadline=None)
def test_every_mean_is_what_its_declaration_says(shown: list[Deed], clicks: list[Deed]) -> None:
    every = [deed.stars for deed in clicks if deed.stars]
    overall = sum(every) / max(1, len(every))
    with tempfile.TemporaryDirectory() as folder:
        inputs = inputs_of(imported(Path(folder) / "data", shown, clicks))
        for row in shown:
            got = encoded(inputs, row)
            for name in MEANS:
                stars = [deed.stars for deed in defined(name, row, clicks) if deed.stars]  # 0 = not known
                wanted = (sum(stars) - len(stars) * overall) / (len(stars) + 3)
                assert got[name] == pytest.approx(wanted, abs=1e-3), (name, row)  # in units of 1/1024
                assert stars or got[name] == 0


@given(pages, logs)
@settings(max_examples=20, deadline=None)
def test_a_request_served_by_the_bundle_of_the_refresh_has_the_bytes_of_its_training_row(
    shown: list[Deed], clicks: list[Deed]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset = imported(Path(folder) / "data", shown, clicks)
        inputs = inputs_of(dataset)
        samples, sides = inputs.train, inputs.sides(inputs.train)
        for request in range(len(samples)):
            now, user = float(samples.time[request]), int(samples.user[request])
            rows = slice(*samples.first[request : request + 2].tolist())
            query, layout = served(inputs, dataset, (user, now, samples.scenes[samples.scene[request]])), inputs.layout
            assert query.features.dense.tobytes() == sides.user.dense[request].tobytes()
            assert query_dynamic(layout, query, samples.item[rows]).tobytes() == sides.dynamic[rows].tobytes()


def served(inputs: Inputs, dataset: Dataset, moment: tuple[int, float, str]) -> Query:
    """The query of (user, now, scene), over the statistics as of the last refresh, read from disk."""
    encoder, (user, now, scene) = inputs.encoder, moment
    bundle = inputs_of(dataset, encoder, until=now // DAY * DAY)
    with tempfile.TemporaryDirectory() as folder:
        pairs = {name: bundle.pairs_of(group) for name, group in encoder.groups.items()}
        Tables.of(encoder, pairs, bundle.until).save(Path(folder))
        tables = Tables.load(Path(folder), encoder)
    clicks = (inputs.events.action == ACTION_CODE["click"]) & (inputs.events.user == user) & (inputs.events.time < now)
    counts = np.zeros(len(ACTIONS), np.int64)
    counts[ACTION_CODE["click"]] = clicks.sum()
    profile = {"gender": USERS[user]["gender"]}
    features = query_features(encoder, user, profile, counts, (now, scene, {}), tables)
    return Query(user, now, 5, scene, 1, History.empty(), features, bundle.catalog)


SHOWN = Deed(1, 1, START + 3 * DAY + 12 * HOUR, "feed")
PAST = [replace(SHOWN, time=START + 60 * HOUR), Deed(2, 2, START + 40 * HOUR, "search")]
REFRESH = START + 3 * DAY
LAST_MOMENT = {"user.now": SHOWN.time - 1, "user.at_hour": REFRESH - 12 * HOUR + 1}
"""When a click still counts for `SHOWN`, where that is not a second before the refresh."""


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return inputs_of(imported(tmp_path_factory.mktemp("known") / "data", [SHOWN], PAST))


@pytest.mark.parametrize(
    "name", [*COUNTS, *MEANS, "user.author_rate", "user.day_rate", "user.tab_rate", "item.tab_rate"]
)
def test_a_planted_future_changes_no_statistic_and_the_moment_before_does(
    known: Inputs, name: str, tmp_path: Path
) -> None:
    before = encoded(known, SHOWN)
    too_late = SHOWN.time if name == "user.now" else REFRESH
    future = [replace(SHOWN, time=too_late + later) for later in (0.0, 0.001, HOUR, 12 * HOUR, DAY)]
    future = [replace(deed, stars=1.0) for deed in future]
    planted = encoded(inputs_of(imported(tmp_path / "future", [SHOWN], [*PAST, *future]), known.encoder), SHOWN)
    assert planted[name].tobytes() == before[name].tobytes()
    in_time = replace(SHOWN, time=LAST_MOMENT.get(name, REFRESH - 1), stars=5.0)
    told = encoded(inputs_of(imported(tmp_path / "past", [SHOWN], [*PAST, in_time]), known.encoder), SHOWN)
    assert told[name] > before[name]


def test_feat_3_slices_add_up_to_the_whole(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    clicks = [
        Deed(
            1,
            int(random.integers(6)),
            START + float(random.uniform(0, 3)) * DAY,
            str(random.choice(["feed", "search"])),
        )
        for _ in range(40)
    ]
    shown = [Deed(1, item, SHOWN.time + item, tab) for item in range(6) for tab in (["feed", "search"][item % 2],)]
    inputs = inputs_of(imported(tmp_path / "data", shown, clicks))
    rows = [np.expm1(encoded(inputs, row)["user.type"]) for row in shown[:2]]  # an image and a video
    tabs = [np.expm1(encoded(inputs, row)["user.in_tab"]) for row in shown[:2]]
    whole = np.expm1(encoded(inputs, shown[0])["user.all"])
    assert sum(rows) == pytest.approx(40) == whole == pytest.approx(sum(tabs))


def test_a_user_an_item_and_values_never_met_have_the_statistics_of_no_events(known: Inputs) -> None:
    encoder, layout = known.encoder, known.layout
    pairs = {name: known.pairs_of(group) for name, group in encoder.groups.items()}
    tables = Tables.of(encoder, pairs, known.until)
    nobody = query_features(
        encoder, -1, {"gender": "other"}, np.zeros(len(ACTIONS)), (SHOWN.time, "unheard of", {}), tables
    )
    none = query_features(encoder, 1, {"gender": "f"}, np.zeros(len(ACTIONS)), (SHOWN.time, "feed", {}))
    statistics = [layout.user_dense.index(name) for name in layout.user_statistics]
    assert nobody.dense[0, statistics].tobytes() == none.dense[0, statistics].tobytes()
    fresh = encoder.items(np.array([-1]), {"author": ["newcomer"], "category": [None]})
    assert np.isfinite(fresh["dynamic"]).all()
    for cross in layout.item_crosses:
        keys = np.array([10_000]) if cross.field < 0 else fresh["codes"][:, cross.field]
        for features in (nobody, none):
            assert features.lookups[cross.table].find(keys)[0].tobytes() == encoder.absent[cross.table].tobytes()


def test_an_age_that_is_not_known_says_so(known: Inputs) -> None:
    features = Features(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32), known_lookups(known))
    query = Query(1, SHOWN.time, 5, "feed", 1, History.empty(), features, known.catalog)
    dynamic = query_dynamic(known.layout, query, np.array([3, 4]))
    age, gap = (known.layout.item_dynamic.index(name) for name in ("age", "age.missing"))
    assert dynamic[:, age].tolist() == [np.float32(np.log1p(4.5 * 24)), 0.0]
    assert dynamic[:, gap].tolist() == [0.0, 1.0]


def known_lookups(inputs: Inputs) -> dict[str, Any]:
    return query_features(inputs.encoder, -1, {}, np.zeros(len(ACTIONS)), (SHOWN.time, "", {})).lookups


@pytest.mark.parametrize(
    ("path", "feature", "wanted"),
    [
        (
            "user.x",
            {**CLICKS, "by": "nowhere"},
            "user.x: by names 'nowhere'; wanted a feature with a single code of context or item, and there is none",
        ),
        (
            "user.x",
            {**CLICKS, "by": "gender"},
            "by names 'gender'; wanted a feature with a single code of context or item",
        ),
        ("item.x", {**CLICKS, "by": "type"}, "by names 'type'; wanted a feature with a single code of context or user"),
        ("user.x", {**CLICKS, "by": "age"}, "by names 'age'; wanted a feature with a single code"),
        ("user.tab", {**CLICKS, "by": "tab"}, None),
        (
            "item.x",
            {**CLICKS, "by": "twice"},
            "a feature with a single code of context or user, and context and user both have it",
        ),
        (
            "item.x",
            {**CLICKS, "of": "hour"},
            "of names 'hour'; wanted a feature with a single code of item, and there is none",
        ),
        ("user.x", {**CLICKS, "of": "type"}, "user.x: `of` is for items only"),
        ("user.x", {**CLICKS, "as_of": "now", "window_hours": 24}, 'user.x: as_of = "now" is for all events of a user'),
        ("item.x", {**CLICKS, "as_of": "now"}, 'item.x: as_of = "now" is for all events of a user'),
        (
            "user.x",
            {**STARS, "as_of": "now"},
            'user.x: as_of = "now" is for rates and counts; the state holds no values',
        ),
        ("user.x", {"kind": "mean", "action": "click"}, "Invalid enum value 'click'"),
        ("user.x", {**CLICKS, "window_hours": -1}, "window_hours"),
        ("user.x", {**CLICKS, "as_of": "then"}, "as_of"),
        ("user.x", {"kind": "rate", "action": "smile"}, "unknown action 'smile'"),
        ("context.x", CLICKS, "context.x: kind 'count' is not for this side"),
    ],
)
def test_a_statistic_that_cannot_be_counted_is_refused_by_name(path: str, feature: Any, wanted: str | None) -> None:
    side, _, name = path.partition(".")
    twice = {"kind": "category", "column": "gender"}
    tree = {**CONFIG, side: {**CONFIG[side], name: feature}}  # type: ignore[dict-item]
    if "twice" in str(feature):
        tree = {**tree, "user": {**tree["user"], "twice": twice}, "context": {**tree["context"], "twice": twice}}
    if wanted is None:
        assert convert(tree, FeaturesConfig)
        return
    with pytest.raises(ConfigError) as error:
        convert(tree, FeaturesConfig)
    assert wanted in str(error.value)


def test_a_feature_of_a_column_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    dataset = imported(tmp_path / "data", [SHOWN], PAST)
    for side, name, column in (("user", "x", "income"), ("context", "x", "phone"), ("item", "x", "length")):
        tree = {**CONFIG, side: {**CONFIG[side], name: {"kind": "number", "column": column}}}  # type: ignore[dict-item]
        configs = (convert(tree, FeaturesConfig), SampleConfig(), ("click",))
        with pytest.raises(ConfigError, match=rf"features\.{side}\.{name}: the data has no column '{column}'"):
            prepare(dataset, Moment(UNTIL, UNTIL), configs)


BAD = [None, float("nan"), float("inf"), float("-inf"), "", "none of these", 10**400, [], [None], [float("nan")] * 2]
EVERY_KIND = {
    "user": {
        "category": {"kind": "category", "column": "x"},
        "hash": {"kind": "hash", "column": "x", "buckets": 5},
        "tags": {"kind": "tags", "column": "x", "width": 2},
        "bucket": {"kind": "bucket", "column": "x", "count": 3},
        "number": {"kind": "number", "column": "x", "log1p": True},
        "cell": {"kind": "geohash", "latitude": "x", "longitude": "x"},
    },
    "context": {"tab": {"kind": "scene"}, "number": {"kind": "number", "column": "x"}},
    "item": {
        "id": {"kind": "id"},
        "bucket": {"kind": "bucket", "column": "x", "edges": [0, 1]},
        "content": {"kind": "vector", "column": "v"},
        "age": {"kind": "age", "column": "x"},
        "rate": {**RATE, "of": "bucket"},
    },
    "history": {"fields": []},
}


@pytest.mark.parametrize("value", [["music", "live"], "music", 3.0], ids=str)
def test_a_content_vector_of_a_column_that_holds_none_is_refused(value: Any) -> None:
    nothing = Statistics.of(np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0), 0)
    config = convert({"item": {"v": {"kind": "vector", "column": "v"}}, "history": {"fields": []}}, FeaturesConfig)
    with pytest.raises(ConfigError, match=r"features\.item\.v: column 'v' holds .*, wanted lists of numbers"):
        Encoder.fit(config, {"user": {}, "item": {"v": [None, value]}, "context": {}}, nothing, nothing)


def test_content_vectors_have_one_width() -> None:
    nothing = Statistics.of(np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0), 0)
    item = {name: {"kind": "vector", "column": name} for name in ("v", "w")}
    config = convert({"item": item, "history": {"fields": []}}, FeaturesConfig)
    raw = {"user": {}, "item": {"v": [[1.0, 2.0]], "w": [[1.0, 2.0, 3.0]]}, "context": {}}
    with pytest.raises(ConfigError, match=r"'item\.v': 2, 'item\.w': 3.*wanted one width"):
        Encoder.fit(config, raw, nothing, nothing)
    raw["item"]["w"] = [None]
    assert Encoder.fit(config, raw, nothing, nothing).learnt.vector_width == 2


@pytest.mark.parametrize("good", [[1.0, 2.0, 5.0], ["a", "b"], []], ids=str)
def test_bad_values_of_every_kind_are_finite_numbers_and_codes_of_their_field(good: list[Any]) -> None:
    nothing = Statistics.of(np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0), 0)
    learnt = {"x": [*good, *BAD], "v": [[1.0, 2.0], *[None] * (len(good) + len(BAD) - 1)]}
    context = {**learnt, "scene": ["feed"]}
    config = convert(EVERY_KIND, FeaturesConfig)
    encoder = Encoder.fit(config, {"user": learnt, "item": learnt, "context": context}, nothing, nothing)
    raw, count, layout = {"x": BAD, "v": BAD}, len(BAD), encoder.layout
    here = encoder.context(np.zeros(count), [str(value) for value in BAD], raw)
    user = encoder.user_side(encoder.users(np.full(count, -1), raw), {}, here)
    items = encoder.items(np.full(count, -1), raw)
    dynamic = items["dynamic"].copy()
    with_ages(layout, dynamic, {"x": items["x"]}, 1e9)
    assert all(np.isfinite(array).all() for array in (user.dense, items["dense"], dynamic))
    assert dynamic[0, layout.item_dynamic.index("age.missing")] == 1
    for fields, codes in ((layout.user_fields, user.codes), (layout.item_fields, items["codes"])):
        for field in fields:
            own = codes[:, field.start : field.start + field.width]
            assert ((own >= field.offset) & (own < field.offset + field.size) | (own == 0)).all(), field.name
            assert own[0, 0] == field.offset, field.name
