"""A project folder as one object: what the command line and a notebook call.

my-feed/
  tamis.toml    the configuration            plan.toml    the experiments
  data/         the four tables              bundles/     trained bundles and CURRENT
  state/        what the server remembers    world.toml   only in a simulated project
"""

from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from tamis.artifact import open_bundle, open_full, open_named, replace_durably
from tamis.assemble import Model, ProjectConfig, load_model
from tamis.config import read
from tamis.data.dataset import Dataset
from tamis.data.split import by_time
from tamis.data.tables import RawTables
from tamis.data.write import ImportReport, import_tables
from tamis.errors import ConfigError
from tamis.evaluate.offline import Oracle, evaluate, unseen
from tamis.evaluate.report import Report
from tamis.evaluate.tune import Tuned, tune
from tamis.serving.engine import Engine
from tamis.serving.opening import catch_up, open_state
from tamis.serving.wire import RecommendReply, RecommendRequest
from tamis.simulate.world import World, WorldConfig
from tamis.state.protocol import State
from tamis.train import Choice, Trained, train
from tamis.types import Progress, silent
from tamis.update import Updated, update

TEMPLATES: Final = ("demo", "movielens", "kuairand", "table")


@dataclass(frozen=True)
class Answer:
    """A page for a library user."""

    reply: RecommendReply

    @property
    def items(self) -> list[dict[str, Any]]:
        """One dict per item, best first."""
        return list(msgspec.to_builtins(self.reply.items))

    @property
    def trace(self) -> list[dict[str, Any]]:
        """One dict per step of the funnel; [] when it was not asked for."""
        steps = self.reply.trace
        return [] if isinstance(steps, msgspec.UnsetType) else list(msgspec.to_builtins(steps))

    def to_frame(self) -> pl.DataFrame:
        """The items as a polars frame, row = place on the page."""
        return pl.DataFrame(self.items)


class Project:
    """See the module. Opening is cheap; models and state are opened when first used."""

    def __init__(self, folder: Path) -> None:
        self.folder: Final = folder
        self.config: Final = read(folder / "tamis.toml", ProjectConfig)
        self.data: Final = folder / "data"
        self.bundles: Final = folder / "bundles"

    def bring(self, tables: RawTables, most_rejected: float = 0.01, progress: Progress = silent) -> ImportReport:
        """Imports tables into the data set; a state that exists already learns of the new events at once.

        Raises DataError when a larger share of the rows than `most_rejected` is bad, and then imports nothing.
        """
        report = import_tables(tables, self.data, most_rejected, progress)
        if (self.folder / "state").is_dir():
            catch_up(self.state, Dataset.open(self.data), self.config.state)
        return report

    def train(self, progress: Progress = silent, choice: Choice | None = None) -> Trained:
        """Builds every part, or those chosen, evaluates the whole funnel, publishes a bundle."""
        return train(self.config, self.data, self.bundles, progress, self.oracle, choice)

    def update(self, progress: Progress = silent) -> Updated:
        """Learns from the log since the last bundle what can be learnt incrementally, publishes a bundle."""
        return update(self.config, self.data, self.bundles, progress)

    def evaluate(self, progress: Progress = silent, bundle: str = "") -> Report:
        """The report of the published bundle, or one by name, under the configuration as it is now.

        It is judged on the held-out days, or on what came after its training if that knows some of them. Raises
        ConfigError when nothing did.
        """
        dataset = Dataset.open(self.data)
        judged = open_named(self.bundles, bundle) if bundle else open_bundle(self.bundles)
        split = unseen(by_time(dataset, self.config.split), judged, dataset)
        return evaluate(load_model(judged, self.config), dataset, split, progress, self.oracle)

    def tune(self, trials: int = 100, seed: int = 7, progress: Progress = silent) -> Tuned:
        """Better numbers for the fusion, searched on the validation days; changes nothing.

        After increments it is the full bundle that they continue whose pages are searched on: it knows no held-out day.
        Days that its nets learnt from are left out, where the configuration validates on more than it did then.
        """
        dataset = Dataset.open(self.data)
        full, split = open_full(self.bundles), by_time(dataset, self.config.split)
        split = replace(split, valid_since=max(split.valid_since, full.manifest.valid_since))
        return tune(load_model(full, self.config), dataset, split, trials, seed, progress)

    def recommend(self, user: str, size: int = 20, explain: bool = False) -> Answer:
        """One page for a user, from the published bundle and the state that the server uses too."""
        return Answer(self.engine.recommend(RecommendRequest(user_id=user, size=size, explain=explain)))

    @cached_property
    def model(self) -> Model:
        """The published bundle under the project's present configuration."""
        return load_model(open_bundle(self.bundles), self.config)

    @cached_property
    def state(self) -> State:
        """The state store, with all that was imported in it."""
        return open_state(self.folder, self.config.state)

    @cached_property
    def engine(self) -> Engine:
        """The engine over `model` and `state`."""
        return Engine(self.model, self.state, self.config.serving)

    @cached_property
    def oracle(self) -> Oracle | None:
        """The true preferences, when the data are of a simulated world (world.toml is there)."""
        file = self.folder / "world.toml"
        if not file.is_file():
            return None
        return oracle_of(World.generate(read(file, WorldConfig)))


def open_project(folder: str | Path) -> Project:
    """The project in a folder. Raises ConfigError when there is none or its configuration is wrong."""
    return Project(Path(folder))


def create(folder: Path, template: str = "demo") -> list[Path]:
    """A new commented project folder from a template. Files that exist are never overwritten: ConfigError."""
    if template not in TEMPLATES:
        raise ConfigError(f"no template {template!r}, wanted one of {', '.join(TEMPLATES)}")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; wanted a folder")
    sources = {"tamis.toml": f"{template}.toml", "plan.toml": "plan.toml"}
    taken = [name for name in sources if (folder / name).exists()]
    if taken:
        raise ConfigError(f"{folder / taken[0]} exists already; choose another folder or remove it first")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, source in sources.items():
        replace_durably(folder / name, (resources.files("tamis") / "configs" / source).read_bytes())
        written.append(folder / name)
    return written


def oracle_of(world: World) -> Oracle:
    """The true click probability of a simulated world, as `evaluate` asks for it."""

    def oracle(user: str, items: list[str], now: float) -> NDArray[np.float64]:
        truth = world.preference(World.numbers([user]), World.numbers(items)[None, :], np.array([now]))
        return np.asarray(truth["click"][0])

    return oracle
