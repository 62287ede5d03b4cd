"""The whole configuration tree, the closed list of every kind of part, and the assembly of a funnel from a bundle.

`AnyStep` is the registry, the schema, and the list that the contract tests walk over. To add a part: its file, one
line in `AnyStep`, one line in `PARTS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from tamis.artifact import Bundle, load_array, save_arrays
from tamis.checks import idle_weights, impossible_numbers, unknown_actions
from tamis.config import AboveZero, AtLeastOne, AtLeastZero, Config, Name, NotNegative, Share, StepConfig
from tamis.data.dataset import Dataset
from tamis.data.ids import Ids
from tamis.data.rows import Rows
from tamis.data.samples import SampleConfig
from tamis.data.split import SplitConfig
from tamis.errors import ArtifactError, ConfigError, NotFound
from tamis.features.coverage import Coverage, coverage
from tamis.features.encode import Encoder, single_columns
from tamis.features.inputs import Inputs
from tamis.features.online import check_values, item_rows, query_features
from tamis.features.spec import FeaturesConfig, Side
from tamis.features.tables import Tables
from tamis.filters.blocked import Blocked, BlockedConfig
from tamis.filters.excluded import Excluded, ExcludedConfig
from tamis.filters.seen import Seen, SeenConfig
from tamis.funnel import Funnel, Stage
from tamis.funnel_checks import funnel_problems, searches_amiss, whole_logs
from tamis.prerank.three_tower import ThreeTower, ThreeTowerConfig
from tamis.rank.fuse import Fuse, FuseConfig
from tamis.rank.light import LightRank, LightRankConfig
from tamis.rank.multitask import Multitask, MultitaskConfig
from tamis.rank.rating import Rating, RatingConfig
from tamis.recall.bpr import BPR, BPRConfig
from tamis.recall.cached import Cached, CachedConfig
from tamis.recall.deep_retrieval import DeepRetrieval, DeepRetrievalConfig
from tamis.recall.ease import EASE, EASEConfig
from tamis.recall.friends import Friends, FriendsConfig
from tamis.recall.geo import Geo, GeoConfig
from tamis.recall.graph_filter import GraphFilter, GraphFilterConfig
from tamis.recall.ials import IALS, IALSConfig
from tamis.recall.itemcf import ItemCF, ItemCFConfig
from tamis.recall.keyed import Keyed, KeyedConfig
from tamis.recall.matrix_completion import MatrixCompletion, MatrixCompletionConfig
from tamis.recall.newest import Newest, NewestConfig
from tamis.recall.popular import Popular, PopularConfig
from tamis.recall.sequential import Sequential, SequentialConfig
from tamis.recall.similar_content import SimilarContent, SimilarContentConfig
from tamis.recall.similar_items import SimilarItems, SimilarItemsConfig
from tamis.recall.swing import Swing, SwingConfig
from tamis.recall.two_tower import TwoTower, TwoTowerConfig
from tamis.recall.usercf import UserCF, UserCFConfig
from tamis.recall.youtube_dnn import YoutubeDnn, YoutubeDnnConfig
from tamis.rerank.mmr import Mmr, MmrConfig
from tamis.rerank.rules import Scatter, ScatterConfig
from tamis.stages import ItemToItem
from tamis.state.protocol import ItemRow
from tamis.state.settings import StateConfig
from tamis.types import ACTIONS, Catalog, Features

Some = Annotated[tuple[str, ...], Meta(min_length=1)]
AnyStep = (
    PopularConfig
    | NewestConfig
    | ItemCFConfig
    | SwingConfig
    | UserCFConfig
    | GraphFilterConfig
    | EASEConfig
    | IALSConfig
    | BPRConfig
    | MatrixCompletionConfig
    | KeyedConfig
    | GeoConfig
    | SimilarContentConfig
    | SimilarItemsConfig
    | FriendsConfig
    | CachedConfig
    | TwoTowerConfig
    | DeepRetrievalConfig
    | YoutubeDnnConfig
    | SequentialConfig
    | SeenConfig
    | BlockedConfig
    | ExcludedConfig
    | ThreeTowerConfig
    | MultitaskConfig
    | RatingConfig
    | LightRankConfig
    | FuseConfig
    | ScatterConfig
    | MmrConfig
)

_COVERAGE: Final = "coverage.json"

PARTS: Final[Mapping[type[StepConfig], Any]] = {
    PopularConfig: Popular,
    NewestConfig: Newest,
    ItemCFConfig: ItemCF,
    SwingConfig: Swing,
    UserCFConfig: UserCF,
    GraphFilterConfig: GraphFilter,
    EASEConfig: EASE,
    IALSConfig: IALS,
    BPRConfig: BPR,
    MatrixCompletionConfig: MatrixCompletion,
    KeyedConfig: Keyed,
    GeoConfig: Geo,
    SimilarContentConfig: SimilarContent,
    SimilarItemsConfig: SimilarItems,
    FriendsConfig: Friends,
    CachedConfig: Cached,
    TwoTowerConfig: TwoTower,
    DeepRetrievalConfig: DeepRetrieval,
    YoutubeDnnConfig: YoutubeDnn,
    SequentialConfig: Sequential,
    SeenConfig: Seen,
    BlockedConfig: Blocked,
    ExcludedConfig: Excluded,
    ThreeTowerConfig: ThreeTower,
    MultitaskConfig: Multitask,
    RatingConfig: Rating,
    LightRankConfig: LightRank,
    FuseConfig: Fuse,
    ScatterConfig: Scatter,
    MmrConfig: Mmr,
}


class StageConfig(Config, frozen=True):
    """One stage; see funnel.Stage."""

    limit: AtLeastZero = 0  # most rows that leave; 0 = the size that the request asks for
    budget_ms: NotNegative = 0.0  # sources that have not begun by then, in threads: are not done, are dropped; 0 = none
    optional: bool = False  # on an outage rows pass through unchanged
    parallel: bool = False  # run neighbouring sources in threads; pays only for remote ones
    quotas: dict[Name, AtLeastZero] = {}  # source → its share of the limit; all sources or none, {} = they take turns
    source_budget_ms: dict[Name, AboveZero] = {}  # source → when it is late, from the stage's begin; parallel only
    fallback: str = ""  # a scorer of an optional stage that runs only after an outage, in place of the rest; "" = none
    steps: dict[Name, AnyStep] = {}  # name → step; the name is used in traces, reports and patches


class FunnelConfig(Config, frozen=True):
    """The four stages in order."""

    recall: StageConfig
    prerank: StageConfig = StageConfig(limit=500)
    rank: StageConfig = StageConfig(limit=200)
    rerank: StageConfig = StageConfig(optional=True)


class TrainConfig(Config, frozen=True):
    """How training runs."""

    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 7  # of everything that is drawn
    interest_actions: Some = ("click", "like", "collect", "share")  # one point of interest each
    gate: Share = 0.2  # the page NDCG@10 may be this share below the served bundle's and still be published
    traced_users: AtLeastOne = 5000  # at most so many are run through the last bundle's funnel for hard negatives
    checkpoint_minutes: AboveZero = 5.0  # between two notes of how far a net's training is, for --resume
    log_steps: AtLeastOne = 500  # training steps between two lines of the log
    keep_bundles: Annotated[int, Meta(ge=2)] = 5  # published ones; older ones are deleted
    memory_gib: Annotated[float, Meta(ge=0, le=1e6)] = 0.0  # most memory for the log in training; 0 = what it takes
    least_coverage: Share = 0.02  # a warning names the features that have a value in fewer of the training rows


class EvaluateConfig(Config, frozen=True):
    """How much of the held-out days is used."""

    positive: Some = ("click",)  # actions that make an item relevant
    most_users: AtLeastOne = 1000  # users whose pages are judged, drawn by the seed
    most_requests: AtLeastOne = 20_000  # logged requests on which the heads are judged
    new_days: NotNegative = 1.0  # an item is new for this long


class ServingConfig(Config, frozen=True):
    """The server and its limits."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"  # address to listen on
    rest_port: Annotated[int, Meta(ge=1, le=65535)] = 8080  # port of the REST server
    workers: AtLeastOne = 1  # processes
    threads: AtLeastOne = 1  # engine calls at once per worker
    queue: AtLeastZero = 64  # calls that may wait for one; more are refused with 429
    deadline_ms: AboveZero = 500.0  # a call that has not begun by then is answered with 504
    most_items: AtLeastOne = 200  # largest page
    most_events: AtLeastOne = 1000  # events of one call
    most_body_bytes: AtLeastOne = 1 << 20  # larger bodies are refused with 413
    clock_tolerance_seconds: NotNegative = 300.0  # events dated further in the future are rejected
    reload_seconds: AboveZero = 1.0  # how often a newer bundle is looked for


class ProjectConfig(Config, frozen=True):
    """A whole project: `tamis.toml`."""

    features: FeaturesConfig
    funnel: FunnelConfig
    split: SplitConfig = SplitConfig()
    samples: SampleConfig = SampleConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    state: StateConfig = StateConfig()
    serving: ServingConfig = ServingConfig()

    def __post_init__(self) -> None:
        forgotten = sorted(set(self.features.history.actions) - set(self.state.timeline_actions))
        if forgotten:
            raise ValueError(f"state.timeline_actions lacks {forgotten}, which features.history.actions wants")
        for problem in (
            *unknown_actions(self),
            *idle_weights(self),
            *impossible_numbers(self),
            *funnel_problems(stages_of(self.funnel), part_of, single_columns(self.features)),
            *searches_amiss(stages_of(self.funnel), self.features, self.state.timeline_limit),
            *(whole_logs(stages_of(self.funnel), self.features) if self.train.memory_gib else ()),
        ):
            raise ValueError(problem)


def stages_of(config: FunnelConfig) -> dict[str, StageConfig]:
    """The stages by name, in the order they run."""
    return {name: getattr(config, name) for name in ("recall", "prerank", "rank", "rerank")}


def artifact_name(stage: str, step: str) -> str:
    """The folder of a part inside a bundle."""
    return f"{stage}.{step}"


@dataclass(frozen=True)
class Model:
    """One bundle, ready to serve: the funnel and all it needs to turn external ids and raw rows into numbers."""

    name: str
    config: ProjectConfig
    funnel: Funnel
    encoder: Encoder
    catalog: Catalog
    statistics: Tables
    user_ids: Ids
    item_ids: Ids
    trained_to: float
    items: Rows  # the items as they were imported; row = number
    coverage: Coverage  # of the features, in the training rows

    @cached_property
    def kinds(self) -> Mapping[str, str]:
        """Name of a step → the `kind` of its configuration."""
        stages = stages_of(self.config.funnel).values()
        return {name: str(step.__struct_config__.tag) for stage in stages for name, step in stage.steps.items()}

    @cached_property
    def history_actions(self) -> NDArray[np.bool_]:
        """[len(ACTIONS)] True for the actions that make up a history."""
        return np.isin(ACTIONS, self.encoder.learnt.config.history.actions)

    def check(self, side: Side, values: Mapping[str, Any]) -> None:
        """Refuses values of a caller that no feature can be made of; see features.online."""
        check_values(self.encoder, side, values)

    def query_features(
        self, user: int, profile: Mapping[str, Any], counts: NDArray[Any], moment: tuple[float, str, Mapping[str, Any]]
    ) -> Features:
        """The user side of one request; see features.online."""
        return query_features(self.encoder, user, profile, counts, moment, self.statistics)

    def item_rows(self, rows: Sequence[ItemRow]) -> dict[str, NDArray[Any]]:
        """Catalogue columns of freshly put items; see features.online."""
        return item_rows(self.encoder, rows)

    def describe(self, item: int) -> ItemRow:
        """What the bundle knows of one of its own items."""
        row = self.items[item]
        known = {name: row.pop(name) for name in ItemRow.__struct_fields__ if name in row}
        return msgspec.convert({**known, "extra": row}, ItemRow)

    def similar(self, item: int, size: int, catalog: Catalog) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids, scores) of the open items most like `item`, best first, from the first source that knows one.

        catalog: the snapshot that the numbers belong to.   Raises NotFound when no channel knows an open neighbour.
        """
        for stage in self.funnel.stages:
            for step in stage.steps.values():
                if isinstance(step, ItemToItem):
                    ids, scores = _open_neighbours(step, item, size, catalog)
                    if len(ids):
                        return ids, scores
        raise NotFound("no channel of this bundle knows items like this one", "item_id")


def _open_neighbours(
    step: ItemToItem, item: int, size: int, catalog: Catalog
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """At most `size` open neighbours; asks for more, twice as many each time, where closed ones take their places."""
    asked = size
    while True:
        ids, scores = step.similar(item, asked, catalog)
        there = ~catalog.closed[ids]
        if there.sum() >= size or len(ids) < asked:
            return ids[there][:size], scores[there][:size]
        asked *= 2


def save_model(folder_of: Callable[[str], Path], config: ProjectConfig, dataset: Dataset, inputs: Inputs) -> None:
    """Writes everything of a model but its parts. folder_of: artifact name → new folder."""
    (folder_of("config") / "config.json").write_bytes(msgspec.json.encode(config))
    inputs.encoder.save(folder_of("features"))
    folder, catalog = folder_of("catalog"), inputs.catalog
    save_arrays(folder, keys=catalog.keys[0], newest=catalog.newest)
    save_arrays(folder, **{f"column.{name}": pair[0] for name, pair in catalog.columns.items()})
    Rows.of(dataset.items).save(folder, "rows")
    groups = inputs.encoder.groups.values()
    pairs = {group.name: inputs.pairs_of(group) for group in groups}
    folder = folder_of("statistics")
    Tables.of(inputs.encoder, pairs, inputs.until).save(folder)
    (folder / _COVERAGE).write_bytes(msgspec.json.encode(coverage(inputs)))
    folder = folder_of("ids")
    dataset.user_ids.save(folder, "users")
    dataset.item_ids.save(folder, "items")


def load_model(bundle: Bundle, config: ProjectConfig | None = None) -> Model:
    """The model of a bundle, its arrays memory-mapped.

    config: run under this configuration instead of the one it was trained with (limits, weights, rules may differ; a
    step that the bundle has no artifact for raises ArtifactError).
    """
    try:
        trained = msgspec.json.decode((bundle.folder("config") / "config.json").read_bytes(), type=ProjectConfig)
        covered = msgspec.json.decode((bundle.folder("statistics") / _COVERAGE).read_bytes(), type=Coverage)
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{bundle.path}: {error}") from None
    used, encoder = config or trained, Encoder.load(bundle.folder("features"))
    return Model(
        name=bundle.name,
        config=used,
        funnel=assemble(used.funnel, bundle),
        encoder=encoder,
        catalog=_load_catalog(bundle.folder("catalog")),
        statistics=Tables.load(bundle.folder("statistics"), encoder),
        user_ids=Ids.load(bundle.folder("ids"), "users"),
        item_ids=Ids.load(bundle.folder("ids"), "items"),
        trained_to=bundle.manifest.trained_to,
        items=Rows.load(bundle.folder("catalog"), "rows"),
        coverage=covered,
    )


def assemble(config: FunnelConfig, bundle: Bundle) -> Funnel:
    """The funnel of a configuration, every part loaded from the bundle."""
    stages = []
    for stage_name, stage in stages_of(config).items():
        steps = {}
        for name, step in stage.steps.items():
            try:  # a part that learns nothing loads from nothing, so a patch may add a filter or a rule
                steps[name] = part_of(step).load(step, bundle.folder(artifact_name(stage_name, name)))
            except ArtifactError as error:
                raise ArtifactError(f"funnel.{stage_name}.steps.{name}: {error}; train again") from None
        settings = {name: getattr(stage, name) for name in StageConfig.__struct_fields__ if name != "steps"}
        stages.append(Stage(stage_name, steps, **settings))
    return Funnel(stages)


def part_of(config: StepConfig) -> Any:
    """The part's class for a step's configuration."""
    try:
        return PARTS[type(config)]
    except KeyError:
        raise ConfigError(f"{type(config).__name__} is no step; wanted one of {sorted(map(str, PARTS))}") from None


def _load_catalog(folder: Path) -> Catalog:
    names = [file.stem.removeprefix("column.") for file in sorted(folder.glob("column.*.npy"))]
    columns = {name: load_array(folder, f"column.{name}") for name in names}
    return Catalog.of(load_array(folder, "keys"), columns, load_array(folder, "newest"))
