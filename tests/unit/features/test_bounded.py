"""Inputs within a bound of memory are those without one, read piece by piece."""

import gc
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from msgspec import structs

from tamis.assemble import PARTS, load_model
from tamis.config import StepConfig, convert, override
from tamis.data import on_disk
from tamis.data.dataset import Dataset
from tamis.data.negatives import Popularity
from tamis.data.on_disk import Appender, Derived, OnDisk, Room
from tamis.data.split import by_time
from tamis.data.tables import RawTables
from tamis.data.unshown import SHOWN, with_unshown
from tamis.data.write import import_tables
from tamis.errors import ConfigError, DataError
from tamis.features.bounded import Bound, prepare_bounded
from tamis.features.inputs import Inputs
from tamis.features.prepare import Moment, prepare
from tamis.features.spec import FeaturesConfig
from tamis.features.tables import Table
from tamis.funnel_checks import WHOLE_LOG
from tamis.nets import tower
from tamis.nets.draws import Drawer, acted_rows, known_pairs
from tamis.nets.labels import unlearnable
from tamis.nets.loop import in_pieces
from tamis.prerank.three_tower import ThreeTowerConfig
from tamis.rank import watch_time
from tamis.rank.light import LightRankConfig
from tamis.rank.multitask import MultitaskConfig
from tamis.recall.deep_retrieval import DeepRetrievalConfig
from tamis.recall.popular import PopularConfig
from tamis.recall.similar_items import SimilarItemsConfig
from tamis.recall.two_tower import TwoTowerConfig
from tamis.recall.youtube_dnn import YoutubeDnnConfig
from tamis.types import WATCH_HEADS

MIB = 2.0**20
REQUEST = ("user", "time", "history_start", "history_end", "item", "position")


UNSHOWN = 4  # rows that nobody was shown, in each request
FEATURES = {  # beside the demo's: what happened in a window, of a user as of a refresh, and ids that few know
    "features.item.click_rate_day": {"kind": "rate", "action": "click", "window_hours": 24.0},
    "features.user.likes_lately": {"kind": "count", "action": "like", "window_hours": 60.0},
    "features.user.hides": {"kind": "count", "action": "hide"},
    "features.item.seconds": {"kind": "mean", "action": "play"},
    "features.item.seconds_lately": {"kind": "mean", "action": "play", "window_hours": 30.0},
    "features.user.seconds": {"kind": "mean", "action": "play"},
    "features.refresh_hours": 5.1234567,  # of which no multiple is exact
    "features.user.user_id.min_count": 90,
    "features.item.item_id.min_count": 34,
}


@pytest.fixture(scope="module")
def both(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Inputs, Inputs]:
    config = override(tiny.project.config, FEATURES)
    split = by_time(tiny.dataset, config.split)
    moment = Moment(split.valid_since, split.test_since)
    configs = (config.features, config.samples, config.train.interest_actions)
    room = Room(tmp_path_factory.mktemp("room"), 2 * MIB)
    return (
        prepare(tiny.dataset, moment, configs, config.state),
        prepare_bounded(tiny.dataset, moment, configs, Bound(config.state, room, (UNSHOWN,), 3)),
    )


def test_samples_sides_and_histories_are_the_same_and_lie_on_disk(both: tuple[Inputs, Inputs]) -> None:
    whole, bounded = both
    assert bounded.pieces is not None
    assert len(bounded.pieces) > 2
    for name in REQUEST:
        column: Any = getattr(bounded.train, name)
        assert isinstance(column, OnDisk)
        np.testing.assert_array_equal(np.asarray(column), getattr(whole.train, name))
    assert set(bounded.train.labels) == set(whole.train.labels)
    for name, label in whole.train.labels.items():
        np.testing.assert_array_equal(np.asarray(bounded.train.labels[name]), label)
    requests = np.arange(0, len(whole.train), 3)
    made, wanted = bounded.batch(bounded.train, requests), whole.batch(whole.train, requests)
    for name in ("user_codes", "user_dense", "history_codes", "item_codes", "item_dense", "item_dynamic", "row_of"):
        np.testing.assert_array_equal(getattr(made, name), getattr(wanted, name))


def test_interest_catalogue_and_first_events_are_the_same(both: tuple[Inputs, Inputs]) -> None:
    whole, bounded = both
    assert (whole.interest() != bounded.interest()).nnz == 0
    np.testing.assert_array_equal(bounded.since, whole.since)
    np.testing.assert_array_equal(bounded.catalog.columns["dynamic"][0], whole.catalog.columns["dynamic"][0])


SETTINGS: dict[type[StepConfig], dict[str, Any]] = {  # others than the defaults, so that tests are quick or see more
    PopularConfig: {"half_life_days": 1.5},
    SimilarItemsConfig: {"over": "itemcf"},
    TwoTowerConfig: {"positives": ("click", "like"), "objectives": True, "extra_negatives": 64},
    DeepRetrievalConfig: {"epochs": 1},
    ThreeTowerConfig: {"unshown": 0},
    MultitaskConfig: {
        "heads": ("click", "play", *WATCH_HEADS),
        "position": "tower",
        "expert_hidden": (8,),
        "tower_hidden": (),
        "calibration": "none",
    },
}


@pytest.mark.parametrize("kind", [kind for kind in PARTS if kind not in WHOLE_LOG], ids=lambda kind: kind.__name__)
def test_a_part_is_saved_to_the_same_bytes(tiny: Any, both: tuple[Inputs, Inputs], kind: Any, tmp_path: Path) -> None:
    whole, bounded = both
    assert len(list(bounded.events.pieces())) > 1
    settings = {"threads": 1, "epochs": 1, **SETTINGS.get(kind, {})}  # of one epoch validation rows choose none
    config = kind(**{name: value for name, value in settings.items() if name in kind.__struct_fields__})
    steps = load_model(tiny.trained.bundle).funnel.stages[0].steps
    saved = []
    for number, inputs in enumerate((replace(whole, pieces=bounded.pieces), bounded)):
        folder = tmp_path / str(number)
        folder.mkdir()
        PARTS[kind].fit(config, replace(inputs, part=steps.__getitem__), 3).save(folder)
        files = [file for file in folder.rglob("*") if file.is_file()]
        saved.append({str(file.relative_to(folder)): _learnt(file) for file in files})
    assert saved[0] == saved[1]


def _learnt(file: Path) -> Any:
    """A file without what only validation rows say, of which there are fewer under a bound."""
    if file.suffix != ".json":
        return file.read_bytes()
    facts = msgspec.json.decode(file.read_bytes())
    return {name: value for name, value in facts.items() if name != "scores"} if isinstance(facts, dict) else facts


def test_no_more_than_a_window_is_read_at_once(both: tuple[Inputs, Inputs], monkeypatch: pytest.MonkeyPatch) -> None:
    _, bounded = both
    pieces = bounded.pieces
    assert pieces is not None
    largest = np.diff(bounded.train.first[pieces]).max()
    reads: list[int] = []
    read = OnDisk._read
    monkeypatch.setattr(
        OnDisk, "_read", lambda self, begin, end: (reads.append(end - begin), read(self, begin, end))[1]
    )
    for requests in in_pieces(np.diff(bounded.train.first), 64, np.random.default_rng(1), pieces):
        bounded.batch(bounded.train, requests)
    unlearnable(("click", "like"), bounded.train)
    assert 0 < max(reads) <= largest < len(bounded.train.item)


def test_a_derived_array_gives_what_is_made_of_the_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_disk, "_ROWS_AT_ONCE", 3)
    one, other = np.arange(20), np.arange(20) % 7 + 0.5
    files = [Appender(tmp_path / str(i)).append(rows).done([0, 8, 20]) for i, rows in enumerate((one, other))]
    array = Derived(files, lambda a, b: a * b)
    assert len(array) == 20
    np.testing.assert_array_equal(np.asarray(array), one * other)
    for rows in (np.array([9, 0, 19]), slice(3, 11), one % 2 == 0):
        np.testing.assert_array_equal(array[rows], (one * other)[rows])
    pieces = list(array.pieces())
    assert [len(piece) for piece in pieces] == [8, 12]
    np.testing.assert_array_equal(np.concatenate(pieces), one * other)


NETS = [MultitaskConfig, TwoTowerConfig, YoutubeDnnConfig, DeepRetrievalConfig, ThreeTowerConfig, LightRankConfig]


@pytest.mark.parametrize("kind", NETS)
def test_a_net_never_reads_more_rows_at_once_than_a_window_has(
    both: tuple[Inputs, Inputs], kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, bounded = both
    assert bounded.pieces is not None
    rows = {len(bounded.train.item), len(bounded.more[UNSHOWN].train.item)}
    largest = int(np.diff(bounded.train.first[bounded.pieces]).max())
    reads: list[int] = []
    read = OnDisk._read

    def noted(array: OnDisk, begin: int, end: int) -> Any:
        if len(array) in rows:
            reads.append(end - begin)
        return read(array, begin, end)

    monkeypatch.setattr(OnDisk, "_read", noted)
    monkeypatch.setattr(tower, "_SAMPLE_ROWS", 3000)
    monkeypatch.setattr(watch_time, "_MOST_PLAYS", 3000)
    settings = {"heads": ("click", *WATCH_HEADS), "position": "feature"} if kind is MultitaskConfig else {}
    PARTS[kind].fit(kind(epochs=1, threads=1, **settings), bounded, 3)
    assert 0 < max(reads) < 1.2 * largest < min(rows) / 2


def test_what_makes_batches_of_samples_on_disk_holds_nothing_as_long_as_their_rows(both: tuple[Inputs, Inputs]) -> None:
    _, bounded = both
    samples = bounded.train
    positive = acted_rows(samples, ["click"])
    drawer = Drawer(samples, positive, bounded.since, (64, 0.75), 1)
    held = {name: value for name, value in vars(drawer).items() if isinstance(value, np.ndarray)}
    assert {"rows", "starts"} <= set(held)
    most = max(len(samples) + 1, len(positive), len(bounded.catalog))
    assert max(len(array) for array in held.values()) <= most < len(samples.item) / 2
    known: Any = drawer._known.item
    assert isinstance(known, OnDisk)


def test_rows_drawn_as_the_log_is_gone_through_have_the_statistics_of_their_request(
    both: tuple[Inputs, Inputs],
) -> None:
    whole, bounded = both
    made = bounded.more[UNSHOWN].train
    shown = np.asarray(made.labels[SHOWN]) > 0
    np.testing.assert_array_equal(np.asarray(made.item)[shown], whole.train.item)
    np.testing.assert_array_equal(np.asarray(made.labels["click"])[shown], whole.train.labels["click"])
    np.testing.assert_array_equal(np.diff(made.first), np.diff(whole.train.first) + UNSHOWN)
    owner = np.repeat(np.arange(len(made)), np.diff(made.first))
    item, time = np.asarray(made.item), np.asarray(made.time)[owner]
    late = ~shown & (time >= whole.since.min())
    assert (whole.since[item[late]] <= time[late]).all()
    pair = owner * len(whole.catalog) + item
    assert not np.isin(pair[~shown], pair[shown]).any()
    rows: dict[str, Any] = {name: np.asarray(getattr(made, name)) for name in ("item", "position")}
    labels = {name: np.asarray(label) for name, label in made.labels.items()}
    alike = replace(whole.train, **rows, first=made.first, labels=labels)
    np.testing.assert_array_equal(np.asarray(bounded.sides(made).dynamic), whole.sides(alike).dynamic)
    other = with_unshown(whole.train, whole.since, UNSHOWN, 3)
    assert_alike(item[~shown], other.item[other.labels[SHOWN] == 0])


def assert_alike(one: np.ndarray, other: np.ndarray) -> None:
    """χ² of two samples of one distribution, over what came up often."""
    items = 1 + max(one.max(), other.max())
    counts = [np.bincount(each, minlength=items) for each in (one, other)]
    drawn = counts[0] + counts[1]
    often = drawn > 20
    distance = (np.square(counts[0] - counts[1])[often] / drawn[often]).sum()
    assert often.sum() > 100
    assert abs(distance - often.sum()) < 4 * np.sqrt(2 * often.sum())


PAIRS = {
    "features.user.at_hour": {"kind": "count", "action": "click", "by": "hour"},
    "features.user.in_scene": {"kind": "count", "action": "like", "by": "scene", "window_hours": 60},
    "features.user.of_author": {"kind": "rate", "action": "click", "by": "author"},
    "features.item.author_seconds": {"kind": "mean", "action": "play", "of": "author", "window_hours": 40},
    "features.item.of_gender": {"kind": "rate", "action": "click", "by": "gender", "of": "category"},
    "features.refresh_hours": 5.1234567,
}


def test_statistics_of_pairs_are_the_same_and_too_many_pairs_are_refused(tiny: Any, tmp_path: Path) -> None:
    config = override(tiny.project.config, PAIRS)
    split = by_time(tiny.dataset, config.split)
    moment = Moment(split.valid_since, split.test_since)
    configs = (config.features, config.samples, config.train.interest_actions)
    whole = prepare(tiny.dataset, moment, configs, config.state)
    bounded = prepare_bounded(tiny.dataset, moment, configs, Bound(config.state, Room(tmp_path, 8 * MIB)))
    made, wanted = bounded.sides(bounded.train), whole.sides(whole.train)
    np.testing.assert_array_equal(np.asarray(made.dynamic), wanted.dynamic)
    np.testing.assert_array_equal(np.asarray(made.user.dense), wanted.user.dense)
    for name, pairs in whole.pairs.items():
        for own, theirs in zip(bounded.pairs[name].keys(), pairs.keys(), strict=True):
            np.testing.assert_array_equal(own, theirs)
        group = whole.encoder.groups[name]
        tables = [Table.of(each.encoder, group, each.pairs[name], each.until) for each in (bounded, whole)]
        np.testing.assert_array_equal(tables[0].values, tables[1].values)
        assert len(tables[0].values)
    many = {"features.user.of_item": {"kind": "count", "action": "impression", "by": "item_id"}}
    configs = (override(config, many).features, *configs[1:])
    with pytest.raises(ConfigError, match=r"the statistic 'user-item\.item_id' has more than [\d,]+ pairs"):
        prepare_bounded(tiny.dataset, moment, configs, Bound(config.state, Room(tmp_path, MIB)))


def test_thinned_rows_are_the_same_and_those_that_went_stay_known(tiny: Any, tmp_path: Path) -> None:
    config = tiny.project.config
    split = by_time(tiny.dataset, config.split)
    moment = Moment(split.valid_since, split.test_since)
    sampling = structs.replace(config.samples, keep_negatives=0.4)
    configs = (config.features, sampling, config.train.interest_actions)
    whole = prepare(tiny.dataset, moment, configs, config.state)
    bounded = prepare_bounded(tiny.dataset, moment, configs, Bound(config.state, Room(tmp_path, 2 * MIB)))
    assert bounded.train.keep_negatives == 0.4
    for name in (*REQUEST, "spared"):
        np.testing.assert_array_equal(np.asarray(getattr(bounded.train, name)), getattr(whole.train, name))
    np.testing.assert_array_equal(np.asarray(bounded.train.labels["click"]), whole.train.labels["click"])
    made, wanted = (known_pairs(inputs.train, len(inputs.catalog)) for inputs in (bounded, whole))
    np.testing.assert_array_equal(np.asarray(made.item), wanted.item)
    np.testing.assert_array_equal(made.starts, wanted.starts)
    assert bounded.valid.spared is None


@pytest.mark.parametrize("power", [0.75, 0.0])
def test_a_log_without_impressions_has_the_same_positives_and_negatives_by_the_same_rule(
    tiny: Any, tmp_path: Path, power: float
) -> None:
    tables = tiny.world.tables()
    acts = replace(tables, events=tables.events.filter(pl.col("action") != "impression"))
    import_tables(acts, tmp_path / "data")
    dataset, config = Dataset.open(tmp_path / "data"), tiny.project.config
    split = by_time(dataset, config.split)
    moment = Moment(split.valid_since, split.test_since)
    sampling = structs.replace(config.samples, popularity_power=power, negatives=9)
    configs = (config.features, sampling, config.train.interest_actions)
    room = Room(tmp_path / "room", MIB)
    room.folder.mkdir()
    whole = prepare(dataset, moment, configs, config.state)
    bounded = prepare_bounded(dataset, moment, configs, Bound(config.state, room, (UNSHOWN,)))
    assert not bounded.more
    assert bounded.pieces is not None
    assert len(bounded.pieces) > 2
    np.testing.assert_array_equal(np.asarray(bounded.train.user), whole.train.user)
    items, events = len(whole.catalog), dataset.events(until=moment.until)
    met, rows = np.unique(events.user.astype(np.int64) * items + events.item), []
    for samples in (bounded.train, whole.train):
        owner = np.repeat(np.arange(len(samples)), np.diff(samples.first))
        pair = np.asarray(samples.user)[owner].astype(np.int64) * items + np.asarray(samples.item)
        positive = np.isin(pair, met)
        rows.append((pair[positive], np.asarray(samples.labels["like"])[positive], np.asarray(samples.item)[~positive]))
        assert (np.bincount(owner[positive]) == 1).all()
        assert np.bincount(owner[~positive]).max() == sampling.negatives
        if power:
            odds = Popularity.of(events, whole.catalog.column("publish_time", np.arange(items)), power)
            wanted = odds.log_odds(np.asarray(samples.item), np.asarray(samples.time)[owner])
            np.testing.assert_array_equal(np.asarray(samples.log_odds), wanted)
    np.testing.assert_array_equal(rows[0][0], rows[1][0])
    np.testing.assert_array_equal(rows[0][1], rows[1][1])
    assert_alike(rows[0][2], rows[1][2])
    for kind in (TwoTowerConfig, ThreeTowerConfig):
        PARTS[kind].fit(kind(epochs=1, threads=1), bounded, 3)


def test_a_bound_that_is_too_small_says_what_is_wanted_and_a_log_without_events_is_refused(
    tiny: Any, tmp_path: Path
) -> None:
    config = tiny.project.config
    configs = (config.features, config.samples, config.train.interest_actions)
    with pytest.raises(ConfigError, match=r"train\.memory_gib is .* alone want"):
        prepare_bounded(tiny.dataset, Moment(1e18, 1e18), configs, Bound(config.state, Room(tmp_path, 65536.0)))
    with pytest.raises(DataError, match="no events to learn from before the held-out days"):
        prepare_bounded(tiny.dataset, Moment(0.0, 0.0), configs, Bound(config.state, Room(tmp_path, MIB)))


@pytest.mark.parametrize("memory", [MIB, 1e6 * 2**30])
def test_an_answer_to_an_older_page_is_none_to_a_newer_one_with_the_same_item(
    tiny: Any, tmp_path: Path, memory: float
) -> None:
    random, begin, hour = np.random.default_rng(3), 1_767_225_600.0, 3600.0
    pages = [(f"{user}-{turn}", f"u{user}", begin + (turn + random.random()) * 5 * hour)
             for user in range(12) for turn in range(30)]  # fmt: skip
    events = []
    for page, user, time in pages:
        for item in random.choice(6, 4, replace=False):  # so that most items are shown again and again
            events.append((user, f"i{item}", "impression", time, page))
            if random.random() < 0.4:
                events.append((user, f"i{item}", "click", time + random.random() * 40 * hour, page))
    columns = ("user_id", "item_id", "action", "time", "request_id")
    log = pl.DataFrame(events, columns, orient="row")
    requests = pl.DataFrame(pages, ("request_id", "user_id", "time"), orient="row")
    import_tables(RawTables.of(requests=requests, events=log), tmp_path / "data")
    item = {"item_id": {"kind": "id"}, "clicks": {"kind": "count", "action": "click"}}
    features = {"user": {"user_id": {"kind": "id"}}, "item": item, "history": {"fields": ["item_id"]}}
    sampling = structs.replace(tiny.project.config.samples, label_window_hours=48.0)
    configs = (convert(features, FeaturesConfig), sampling, ("click",))
    dataset, moment = Dataset.open(tmp_path / "data"), Moment(begin + 120 * hour, begin + 200 * hour)
    whole = prepare(dataset, moment, configs, tiny.project.config.state)
    room = Room(tmp_path / "room", memory)
    room.folder.mkdir()
    bounded = prepare_bounded(dataset, moment, configs, Bound(tiny.project.config.state, room))
    assert 0.3 < whole.train.labels["click"].mean() < 0.5
    np.testing.assert_array_equal(np.asarray(bounded.train.item), whole.train.item)
    np.testing.assert_array_equal(np.asarray(bounded.train.labels["click"]), whole.train.labels["click"])


def test_a_preparation_that_fails_leaves_no_file_open(tiny: Any, tmp_path: Path) -> None:
    config = tiny.project.config
    configs = (config.features, config.samples, config.train.interest_actions)
    split = by_time(tiny.dataset, config.split)
    moment, bound = Moment(split.valid_since, split.test_since), Bound(config.state, Room(tmp_path, 2 * MIB))

    def full(name: str, done: int, total: int) -> None:
        if name == "samples" and done == 3:
            raise OSError("no space left on device")

    def fails() -> None:
        with pytest.raises(OSError, match="no space"):
            prepare_bounded(tiny.dataset, moment, configs, bound, progress=full)

    fails()
    gc.collect()  # the arrays that the error's frames held
    opened = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink() and link.exists()]
    assert not [path for path in opened if path.startswith(str(tmp_path))]
    assert list(tmp_path.iterdir())


def test_an_array_on_disk_gives_what_the_array_gives(tmp_path: Path) -> None:
    rows = np.arange(60, dtype=np.int32).reshape(20, 3)
    for number, windows in enumerate(([], [0, 7, 20])):
        array = Appender(tmp_path / str(number)).append(rows[:5]).append(rows[5:]).done(windows)
        mask = rows[:, 0] % 2 == 0
        for at in (3, slice(2, 9), slice(None, None, 4), np.array([[9, 0], [19, 9]]), mask, np.empty(0, np.int64)):
            np.testing.assert_array_equal(array[at], rows[at])
        np.testing.assert_array_equal(np.asarray(array), rows)
    assert [len(piece) for piece in array.pieces()] == [7, 13]
