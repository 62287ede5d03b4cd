"""Planted futures: what comes after training ends changes neither the encoder nor any trained part."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from tamis.artifact import Bundle
from tamis.assemble import ProjectConfig
from tamis.config import StepConfig, override
from tamis.data.dataset import Dataset
from tamis.data.split import by_time
from tamis.data.tables import RawTables
from tamis.data.write import import_tables
from tamis.recall.geo import GeoConfig
from tamis.recall.keyed import KeyedConfig
from tamis.recall.similar_content import SimilarContentConfig
from tamis.train import train

BY_ITEM = ("ids", "weights", "vectors", "alike_ids", "alike_weights", "last_ids", "last_weights")
"""Arrays of parts with one row per item of the catalogue, or per user."""

LISTS = ("keys", "starts", "items", "worth")


@pytest.fixture(scope="module")
def bundles(tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    """The tiny bundle, and one trained in the same way on the same past with another future."""
    folder = tmp_path_factory.mktemp("planted")
    shutil.copytree(tiny.project.data, folder / "data")
    split = by_time(tiny.dataset, tiny.project.config.split)
    import_tables(future(tiny.dataset, split.test_since, split.test_until), folder / "data")
    assert by_time(Dataset.open(folder / "data"), tiny.project.config.split).valid_since == split.valid_since
    honest = tiny.trained.bundle
    raw = (honest.folder("config") / "config.json").read_bytes()
    config = override(msgspec.json.decode(raw, type=ProjectConfig), {"evaluate.most_users": 1})
    planted = train(config, folder / "data", folder / "bundles").bundle
    return honest, planted


def future(dataset: Dataset, since: float, until: float) -> RawTables:
    """New users and items with values never met before, and events of old and new ones, all from `since` on."""
    author = next(value for value in dataset.items["author"].to_list() if value)
    vector = [9.0] * len(dataset.items["vector"].drop_nulls()[0])
    strange = {"author": author, "category": "unheard of", "keywords": ["strange"], "city": "nowhere"}
    numbers = {"duration_seconds": 1e6, "quality": 1e3, "vector": vector}
    items = [
        {"item_id": f"planted{n}", **strange, **numbers, "publish_time": None if n % 2 else since + n}
        for n in range(40)
    ]
    users = [{"user_id": f"planted{n}", "gender": "new", "age": 500.0, "city": "nowhere"} for n in range(30)]
    old_users, old_items = dataset.users["user_id"].to_list()[:20], dataset.items["item_id"].to_list()[:20]
    random = np.random.default_rng(5)
    who = random.choice([*old_users, *(user["user_id"] for user in users)], 600)
    what = random.choice([*old_items, *(item["item_id"] for item in items[:30])], 600)
    when = np.sort(random.uniform(since, until - 1, 600))
    events = [
        {"user_id": user, "item_id": item, "action": action, "time": time}
        for user, item, time in zip(who.tolist(), what.tolist(), when.tolist(), strict=True)
        for action in ("impression", "click")
    ]
    return RawTables.of(users=pl.DataFrame(users), items=pl.DataFrame(items), events=pl.DataFrame(events))


def test_no_byte_of_the_encoder_comes_from_the_future(bundles: tuple[Bundle, Bundle]) -> None:
    honest, planted = (files_of(bundle, "features") for bundle in bundles)
    assert len(honest) == 3
    assert honest == planted


def test_no_trained_part_comes_from_the_future(bundles: tuple[Bundle, Bundle]) -> None:
    honest, planted = bundles
    parts = sorted(path.name for path in honest.path.iterdir() if "." in path.name and path.is_dir())
    assert {"recall.two_tower", "recall.itemcf", "recall.popular", "prerank.three_tower", "rank.heads"} <= set(parts)
    known = len(np.load(honest.folder("catalog") / "keys.npy"))
    for part in parts:
        if isinstance(config_of(honest, part), KeyedConfig | GeoConfig):  # a view of the catalogue, in which they are
            old, new = (lists_of(bundle, part, known) for bundle in bundles)
            assert old == new, part
            continue
        if isinstance(config_of(honest, part), SimilarContentConfig):  # the same: of items' vectors, not of events
            near_old, near_new = (np.load(bundle.folder(part) / "ids.npy") for bundle in bundles)
            for old_row, new_row in zip(near_old, near_new[:known], strict=True):
                kept = new_row[new_row < known]
                assert kept.tolist() == old_row[: len(kept)].tolist()
            continue
        one, other = files_of(honest, part), files_of(planted, part)
        assert one.keys() == other.keys(), part
        for name, content in one.items():
            if name.endswith(".npy") and Path(name).stem in BY_ITEM:
                old = np.load(honest.path / name)
                new = np.load(planted.path / name)[: len(old)]  # the planted items have the numbers after these
                np.testing.assert_allclose(new, old, atol=1e-6, err_msg=name)  # another block, another last bit
            else:
                assert content == other[name], name


def config_of(bundle: Bundle, part: str) -> StepConfig:
    """The settings of the step that a part's folder is named after."""
    raw = (bundle.folder("config") / "config.json").read_bytes()
    stage, step = part.split(".")
    found: StepConfig = getattr(msgspec.json.decode(raw, type=ProjectConfig).funnel, stage).steps[step]
    return found


def lists_of(bundle: Bundle, part: str, known: int) -> dict[int, list[tuple[int, float]]]:
    """Key → (item, worth) in order, of the first `known` items of the catalogue."""
    keys, starts, items, worth = (np.load(bundle.folder(part) / f"{name}.npy") for name in LISTS)
    found = {}
    for at, key in enumerate(keys.tolist()):
        own = slice(starts[at], starts[at + 1])
        listed = [pair for pair in zip(items[own].tolist(), worth[own].tolist(), strict=True) if pair[0] < known]
        if listed:
            found[key] = listed
    return found


def files_of(bundle: Bundle, artifact: str) -> dict[str, bytes]:
    """Relative path → content."""
    files = sorted(path for path in bundle.folder(artifact).rglob("*") if path.is_file())
    return {path.relative_to(bundle.path).as_posix(): path.read_bytes() for path in files}
