"""One training run: prepare, fit every part in the order of the configuration, evaluate the whole funnel, publish."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from tamis import __version__
from tamis.artifact import Bundle, BundleWriter, current_name, open_bundle, prune, publish
from tamis.assemble import ProjectConfig, artifact_name, load_model, part_of, save_model, stages_of
from tamis.config import digest
from tamis.data.dataset import Dataset
from tamis.data.split import by_time
from tamis.errors import ArtifactError, DataError
from tamis.evaluate.offline import evaluate
from tamis.evaluate.report import Report
from tamis.features.inputs import Inputs
from tamis.features.prepare import Moment, prepare
from tamis.types import Progress, silent

log = structlog.get_logger("tamis.train")


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run gave. published: False when the gate held it back."""

    bundle: Bundle
    report: Report
    seconds: dict[str, float]
    published: bool


def train(
    config: ProjectConfig,
    data: Path,
    bundles: Path,
    progress: Progress = silent,
    oracle: Any = None,
) -> Trained:
    """Builds every part from the data, evaluates the assembled funnel on the held-out days and publishes a bundle.

    data: a data set folder.   bundles: where bundles are published.   oracle: see evaluate.offline.
    Raises DataError when there is nothing to learn from; whatever stops the run leaves no half-written bundle behind.
    """
    dataset = Dataset.open(data)
    split = by_time(dataset, config.split)
    seconds: dict[str, float] = {}
    clock = _Clock(seconds)
    inputs = prepare(
        dataset,
        Moment(split.valid_since, split.test_since),
        (config.features, config.samples, config.train.interest_actions),
        progress=progress,
    )
    if not len(inputs.events):
        raise DataError(f"{data}: no events before the held-out days begin; import more, or lower split.test_days")
    clock.lap("features")
    writer = BundleWriter(bundles)
    try:
        fit_parts(config, inputs, writer, clock)
        save_model(writer.folder, config, dataset, inputs)
        bundle = writer.finish(
            {
                "code_version": __version__,
                "config_digest": digest(config),
                "seed": config.train.seed,
                "trained_to": inputs.until,
            }
        )
        report = evaluate(load_model(bundle), dataset, split, progress=progress, oracle=oracle)
        clock.lap("evaluate")
    except BaseException:
        writer.discard()
        raise
    (bundles / f"{bundle.name}.report.json").write_bytes(report.to_json())
    published = _gate(config, bundles, report)
    if published:
        publish(bundle)
    prune(bundles, config.train.keep_bundles)
    return Trained(bundle, report, seconds, published)


def fit_parts(config: ProjectConfig, inputs: Inputs, writer: BundleWriter, clock: "_Clock") -> None:
    """Fits and saves each part, in the order of the funnel."""
    for stage, stage_config in stages_of(config.funnel).items():
        for name, step in stage_config.steps.items():
            inputs.progress(f"{stage}.{name}", 0, 1)
            part = part_of(step).fit(step, inputs, config.train.seed)
            part.save(writer.folder(artifact_name(stage, name)))
            clock.lap(f"{stage}.{name}")
            log.info("part fitted", part=f"{stage}.{name}", seconds=round(clock.seconds[f"{stage}.{name}"], 2))
            inputs.progress(f"{stage}.{name}", 1, 1)


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.since = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self.since
        self.since = now


def _gate(config: ProjectConfig, bundles: Path, report: Report) -> bool:
    """True when the new page is not clearly worse than the one served now (or nothing is served yet)."""
    served = current_name(bundles)
    old_report = bundles / f"{served}.report.json"
    if not served or not old_report.is_file():
        return True
    try:
        open_bundle(bundles / served)
        old = Report.from_json(old_report.read_bytes())
    except (ArtifactError, DataError):
        return True  # a served bundle that cannot be read is no standard to hold a new one to
    floor = old.page["ndcg@10"] * (1 - config.train.gate)
    if report.page["ndcg@10"] >= floor:
        return True
    log.warning("gate held the bundle back", ndcg=report.page["ndcg@10"], wanted=floor, served=served)
    return False
