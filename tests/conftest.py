"""What many tests share: a tiny simulated world, imported, trained and evaluated once per test process."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tamis.config import override
from tamis.data.dataset import Dataset
from tamis.data.write import import_tables
from tamis.project import Project, create, oracle_of
from tamis.simulate.world import World, WorldConfig
from tamis.train import Trained, train

DATA = Path(os.environ.get("TAMIS_DATA", Path(__file__).parents[2] / "shared" / "data"))


@dataclass(frozen=True)
class Tiny:
    """A trained project on a tiny world."""

    project: Project
    world: World
    trained: Trained

    @property
    def dataset(self) -> Dataset:
        return Dataset.open(self.project.data)


@pytest.fixture(scope="session")
def child_environment() -> dict[str, str]:
    """The environment in which another Python finds what this one does."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A small world (200 users, 600 items), trained with every part. Do not change it: copy its folder."""
    folder = tmp_path_factory.mktemp("tiny") / "feed"
    create(folder, "demo")
    world = World.generate(WorldConfig.tiny())
    import_tables(world.tables(), folder / "data")
    project = Project(folder)
    one = {f"funnel.{step}.threads": 1 for step in ("recall.steps.two_tower", "prerank.steps.three_tower")}
    one["funnel.rank.steps.heads.threads"] = 1  # test processes run side by side
    config = override(project.config, {"evaluate.most_users": 60, "evaluate.most_requests": 200, **one})
    trained = train(config, project.data, project.bundles, oracle=oracle_of(world))
    return Tiny(project, world, trained)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files and folders that were made sure to be on disk, in order, as the test goes on."""
    paths: list[Path] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        paths.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return paths


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; the test is skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}; set TAMIS_DATA")
    return DATA
