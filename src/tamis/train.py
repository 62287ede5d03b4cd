"""One training run: prepare, fit every part in the order of the configuration, evaluate the whole funnel, publish.

A run may fit some parts only and keep the others of the served bundle. What they share is kept with them: the encoder,
so that codes mean the same to old nets and new ones. Catalogue, ids and statistics are made anew, since the numbers of
users and items never change; items that a kept part has never seen are to it what items published later are.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from tamis import __version__
from tamis.artifact import (
    Bundle,
    BundleWriter,
    Run,
    current_name,
    open_full,
    prune,
    publish,
    replace_durably,
    report_file,
)
from tamis.assemble import ProjectConfig, TrainConfig, artifact_name, load_model, part_of, save_model
from tamis.config import StepConfig, digest
from tamis.data.dataset import MANIFEST, Dataset
from tamis.data.on_disk import Room
from tamis.data.samples import Samples
from tamis.data.split import Split, by_time, sizes
from tamis.errors import ArtifactError, ConfigError, DataError, TamisError
from tamis.evaluate.offline import evaluate
from tamis.evaluate.report import MUCH_HELD_OUT, Report
from tamis.features.bounded import Bound, prepare_bounded
from tamis.features.coverage import seldom
from tamis.features.inputs import Inputs, Journal, no_part
from tamis.features.lesson import Lesson
from tamis.features.prepare import Moment, prepare
from tamis.holds import locked, scratch
from tamis.lineage import Before, Kept, earlier_bundle, kept_parts, steps_of
from tamis.nets.door import nets_module
from tamis.types import Progress, silent

log = structlog.get_logger("tamis.train")


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run gave. published: False when the gate held it back."""

    bundle: Bundle
    report: Report
    seconds: dict[str, float]
    published: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """What of the data and of the funnel is trained.

    since: what happened before this moment (seconds since the epoch) teaches nothing: it is in no training row and no
    interest, only in histories and statistics, where the server has it too.
    only: names of steps ("itemcf" or "recall.itemcf"), () = all; the others are kept as in the last full bundle.
    warm: parts that can begin with the weights of the last full bundle, and see the rows once.
    resume: go on with a run of the same configuration, data and choice that was stopped; without one, begin anew.
    """

    since: float = -np.inf
    only: tuple[str, ...] = ()
    warm: bool = False
    resume: bool = False


def train(
    config: ProjectConfig,
    data: Path,
    bundles: Path,
    progress: Progress = silent,
    oracle: Any = None,
    choice: Choice | None = None,
) -> Trained:
    """Builds every part from the data, evaluates the assembled funnel on the held-out days and publishes a bundle.

    data: a data set folder.   bundles: where bundles are published.   oracle: see evaluate.offline.
    Raises ConfigError for a funnel without a source, DataError when there is nothing to learn from; either of them or
    ArtifactError when parts are to be kept that do not fit. Such errors leave nothing behind, since their cure makes it
    another run; whatever else stops the run (a signal, a full disk) leaves the finished parts, for a choice that
    resumes.
    """
    choice = choice or Choice()
    if not any(hasattr(part_of(step), "recall") for step in steps_of(config).values()):
        raise ConfigError("funnel.recall.steps: no source, so no page would have an item; wanted one, like popular")
    if not config.train.memory_gib:
        return _train(config, (data, bundles), progress, oracle, choice, None)
    if choice.since > -np.inf:
        raise ConfigError("--since with train.memory_gib: a part of a log is not learnt from under a bound yet")
    with scratch(bundles) as folder:
        room = Room(folder, config.train.memory_gib * 2**30)
        return _train(config, (data, bundles), progress, oracle, choice, room)


def _train(
    config: ProjectConfig,
    where: tuple[Path, Path],
    progress: Progress,
    oracle: Any,
    choice: Choice,
    room: Room | None,
) -> Trained:
    data, bundles = where
    dataset = Dataset.open(data)
    split = by_time(dataset, config.split)
    _warn_of_much_held_out(dataset, split)
    kept = kept_parts(config, bundles, dataset, split, choice.only) if choice.only else None
    _check_cards(config, kept)
    seconds: dict[str, float] = {}
    clock = Clock(seconds)
    inputs = _prepared(config, (dataset, split), kept, progress, room)
    inputs = since(inputs, choice.since) if choice.since > -np.inf else inputs
    if not (len(inputs.events) or len(inputs.train)):
        wanted = "choose an earlier --since" if choice.since > -np.inf else "import more, or lower split.test_days"
        raise DataError(f"{data}: no events to learn from before the held-out days begin; {wanted}")
    clock.lap("features")
    earlier = earlier_bundle(config, bundles, (dataset, split, inputs), warm=choice.warm)
    writer = _writer(config, data, bundles, (choice, kept, earlier))
    try:
        fit_parts(config, inputs, writer, clock, (kept, earlier))
        save_model(writer.folder, config, dataset, inputs)
        bundle = writer.finish(
            {
                "code_version": __version__,
                "config_digest": digest(config),
                "seed": config.train.seed,
                "trained_to": inputs.until,
                "valid_since": split.valid_since,
                "kept": dict(kept.parts) if kept else {},
                "began_with": earlier.bundle.name if earlier and choice.warm else "",
            }
        )
        del inputs, earlier  # what they hold of the log is not needed to judge
        model = load_model(bundle)
        if rare := seldom(model.coverage, config.train.least_coverage):
            log.warning("features that seldom have a value", coverage={name: round(at, 4) for name, at in rare.items()})
        report = evaluate(model, dataset, split, progress=progress, oracle=oracle)
        clock.lap("evaluate")
        released = release(bundle, report, config.train)
    except BaseException as error:
        _give_up(writer, error)
        raise
    writer.close()
    return Trained(bundle, report, seconds, released)


def _check_cards(config: ProjectConfig, kept: Kept | None) -> None:
    """Raises ConfigError for a net that wants a card which is not there, before the parts that stand ahead of it."""
    for artifact, step in steps_of(config).items():
        if getattr(step, "device", "") == "cuda" and not (kept and artifact in kept.parts):
            with _named(artifact):
                nets_module("device").chosen("cuda")


def _warn_of_much_held_out(dataset: Dataset, split: Split) -> None:
    learnt_from, held_out = sizes(dataset, split)
    if held_out > MUCH_HELD_OUT * (learnt_from + held_out):
        hint = "more days of log, or a later split.test_since, leave more to learn from"
        log.warning("much of the log is held out", learnt_from=learnt_from, held_out=held_out, hint=hint)


def _give_up(writer: BundleWriter, error: BaseException) -> None:
    """What is left of a run that is stopped by an error or a signal; see `train`."""
    if current_name(writer.root) == writer.name:
        writer.close()  # it is served: what failed came after that
    elif isinstance(error, TamisError):
        writer.discard()
    elif writer.leave():
        log.warning("stopped; `tamis train --resume` goes on from here", bundle=writer.name)


def _prepared(
    config: ProjectConfig, data: tuple[Dataset, Split], kept: Kept | None, progress: Progress, room: Room | None
) -> Inputs:
    """The inputs of the whole log, within `room` if there is a bound."""
    dataset, split = data
    moment = Moment(split.valid_since, split.test_since)
    configs = (config.features, config.samples, config.train.interest_actions)
    encoder = kept.model.encoder if kept else None
    if room:
        unshown = tuple(sorted({getattr(step, "unshown", 0) for step in steps_of(config).values()} - {0}))
        bound = Bound(config.state, room, unshown, config.train.seed)
        return prepare_bounded(dataset, moment, configs, bound, encoder, progress)
    return prepare(dataset, moment, configs, config.state, encoder, progress)


def _writer(
    config: ProjectConfig, data: Path, bundles: Path, of: tuple[Choice, Kept | None, Before | None]
) -> BundleWriter:
    """A new bundle's, or the one that a run of the same things left unfinished, if the choice is to go on with it."""
    choice, kept, earlier = of
    run = Run(
        code_version=__version__,
        config_digest=digest(config),
        data_digest=hashlib.sha256((data / MANIFEST).read_bytes()).hexdigest(),
        choice=repr(replace(choice, resume=False)),
        earlier=kept.bundle.name if kept else earlier.bundle.name if earlier else "",
    )
    if not choice.resume:
        return BundleWriter(bundles, run)
    if writer := BundleWriter.resume(bundles, run):
        log.info("goes on with", bundle=writer.name, finished=len(writer.run.done) if writer.run else 0)
        return writer
    log.warning("nothing to go on with: no unfinished run of this configuration, data and choice; begins anew")
    return BundleWriter(bundles, run)


def release(bundle: Bundle, report: Report, config: TrainConfig) -> bool:
    """Publishes a judged bundle unless the gate holds it back, and deletes old ones. → whether it was published.

    One at a time: of two trainings that end together the second is compared with the first.
    """
    bundles = bundle.path.parent
    with locked(bundles):
        replace_durably(report_file(bundle.path), report.to_json())
        passed = _gate(config, bundles, report)
        if passed:
            publish(bundle)
        prune(bundles, config.keep_bundles)
    return passed


def fit_parts(
    config: ProjectConfig,
    inputs: Inputs,
    writer: BundleWriter,
    clock: "Clock",
    before: tuple[Kept | None, Before | None] = (None, None),
) -> None:
    """Fits and saves each part, in the order of `fitting_order`; those that are kept are copied."""
    kept, earlier = before
    finished: dict[str, dict[str, StepConfig]] = {}
    for artifact, step in fitting_order(config).items():
        stage, _, name = artifact.partition(".")
        beside = finished.setdefault(stage, {})
        if writer.run and artifact in writer.run.done:
            beside[name] = step
            continue
        if kept and artifact in kept.parts:
            shutil.copytree(kept.bundle.folder(artifact), writer.folder(artifact), dirs_exist_ok=True)
            beside[name] = step
            continue
        inputs.progress(artifact, 0, 1)
        at_hand = partial(_part, stage, writer.path, dict(beside))
        journal = Journal(writer.checkpoint(artifact), config.train.checkpoint_minutes * 60, config.train.log_steps)
        last = earlier.of(artifact) if earlier else None
        teacher = _teacher(config, writer) if getattr(step, "distill", 0.0) else None
        own = replace(inputs, earlier=last, journal=journal, part=at_hand, teacher=teacher)
        with _named(artifact):
            part = part_of(step).fit(step, own, config.train.seed)
        part.save(writer.folder(artifact))
        writer.done(artifact)
        beside[name] = step
        clock.lap(artifact)
        log.info("part fitted", part=artifact, seconds=round(clock.seconds[artifact], 2))
        inputs.progress(artifact, 1, 1)


@contextmanager
def _named(artifact: str) -> Iterator[None]:
    """Errors inside the block name the step: a part knows its settings, not what it is called."""
    try:
        yield
    except (ConfigError, DataError) as error:
        raise type(error)(f"funnel.{artifact}: {error}") from error


def fitting_order(config: ProjectConfig) -> dict[str, StepConfig]:
    """Artifact name → settings of each step: in the order of the funnel, those that learn from another at the end."""
    steps = steps_of(config)
    return dict(sorted(steps.items(), key=lambda item: bool(getattr(item[1], "distill", 0.0))))


def _teacher(config: ProjectConfig, writer: BundleWriter) -> Callable[[Inputs, Samples], Lesson]:
    """The ranker of the bundle that is being written, fitted just now or kept."""
    artifact, step = next((name, step) for name, step in steps_of(config).items() if hasattr(part_of(step), "teach"))
    teach: Callable[[Inputs, Samples], Lesson] = part_of(step).load(step, writer.path / artifact).teach
    return teach


def _part(stage: str, bundle: Path, finished: Mapping[str, StepConfig], name: str) -> Any:
    """A part of the bundle at hand that is finished, as it will be served; see `Inputs.part`."""
    if name not in finished:
        return no_part(name)
    return part_of(finished[name]).load(finished[name], bundle / artifact_name(stage, name))


def since(inputs: Inputs, moment: float) -> Inputs:
    """The inputs without the rows and the events before a moment; histories and statistics keep them."""
    events = inputs.events.take(inputs.events.time >= moment)
    begun = replace(inputs, events=events)
    return begun.with_samples(inputs.train.since(moment), inputs.valid.since(moment))


class Clock:
    """Seconds between laps, by name."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.since = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self.since
        self.since = now


def _gate(config: TrainConfig, bundles: Path, report: Report) -> bool:
    """True when the new page is not clearly worse than the one served now, or nothing can be compared.

    An increment was not judged: the full bundle that it continues stands for it.
    """
    if not report.users:
        log.warning("no held-out user could be judged, so nothing speaks against the bundle", bundle=report.bundle)
        return True
    if not current_name(bundles):
        return True
    try:
        served = open_full(bundles)
        old_report = report_file(served.path)
        if not old_report.is_file():
            return True
        old = Report.from_json(old_report.read_bytes())
    except (ArtifactError, DataError):
        return True  # a served bundle that cannot be read is no standard to hold a new one to
    floor = old.page["ndcg@10"] * (1 - config.gate)
    if report.page["ndcg@10"] >= floor:
        return True
    log.warning("gate held the bundle back", ndcg=report.page["ndcg@10"], wanted=floor, served=served.name)
    return False
