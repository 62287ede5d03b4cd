"""Incremental training between two full ones: what the log since the last bundle says of users, published at once.

A part that can learn from a little more log says so by having the method `update`; all others are kept as they are
served, byte for byte. Encoder and settings are those of the served bundle, catalogue and statistics are made anew. Any
number of increments may follow each other; the next full training starts where the last full one ended (`lineage`).

Nothing is held out and nothing judged: the newest hours are what an increment is for. What may move is small, and the
gate of the next full training compares with the last full bundle.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tamis import __version__
from tamis.artifact import Bundle, BundleWriter, current_name, open_bundle, prune, publish
from tamis.assemble import Model, ProjectConfig, load_model, part_of, save_model
from tamis.config import digest
from tamis.data.dataset import Dataset
from tamis.errors import ArtifactError, ConfigError, DataError
from tamis.features.inputs import Inputs
from tamis.features.prepare import Moment, prepare
from tamis.holds import locked
from tamis.lineage import check_same_data, steps_of
from tamis.train import since
from tamis.types import Progress, silent


@dataclass(frozen=True, slots=True)
class Updated:
    """What an increment gave. events: of the log since the bundle before.   parts: artifacts that learnt from them."""

    bundle: Bundle
    events: int
    parts: tuple[str, ...]
    seconds: float


def update(config: ProjectConfig, data: Path, bundles: Path, progress: Progress = silent) -> Updated:
    """Lets every part that can learn from the log since the served bundle, once and in its order, and publishes.

    data: a data set folder.   bundles: where bundles are published.
    Raises ArtifactError without a served bundle, when it is of other data or another one was published meanwhile,
    DataError when nothing happened since, ConfigError when no part learns incrementally.
    """
    begun = time.perf_counter()
    dataset = Dataset.open(data)
    bundle = open_bundle(bundles)
    model = load_model(bundle)
    check_same_data(bundle, model, dataset)
    learners = _learners(model.config)
    if dataset.span()[1] < model.trained_to:  # before the features, which take their time: updates run often
        raise DataError(f"{data}: nothing happened since {bundle.name} was trained; import what did")
    inputs = _newest(model, dataset, progress)
    writer = BundleWriter(bundles)
    try:
        for artifact, step in steps_of(model.config).items():
            folder = writer.folder(artifact)
            if artifact not in learners:
                shutil.copytree(bundle.folder(artifact), folder, dirs_exist_ok=True)
                continue
            progress(artifact, 0, 1)
            part = part_of(step).load(step, bundle.folder(artifact))
            part.update(inputs, model.config.train.seed).save(folder)
            progress(artifact, 1, 1)
        save_model(writer.folder, model.config, dataset, inputs)
        made = writer.finish(_facts(bundle, model, inputs, learners))
    except BaseException:
        writer.discard()
        raise
    with locked(bundles):
        if current_name(bundles) != bundle.name:  # it would take the place of what it does not continue
            writer.discard()
            raise ArtifactError(f"{bundles}: another bundle was published since {bundle.name} was read; run again")
        publish(made)
        prune(bundles, config.train.keep_bundles)
    return Updated(made, len(inputs.events), learners, time.perf_counter() - begun)


def _learners(config: ProjectConfig) -> tuple[str, ...]:
    """The artifacts of parts that can learn incrementally."""
    found = tuple(artifact for artifact, step in steps_of(config).items() if hasattr(part_of(step), "update"))
    if not found:
        raise ConfigError("funnel: no step of it learns incrementally (two_tower does); train again instead")
    return found


def _newest(model: Model, dataset: Dataset, progress: Progress) -> Inputs:
    """The log up to its end, of which only what happened since the bundle teaches."""
    until = float(np.nextafter(dataset.span()[1], np.inf))
    configs = (model.config.features, model.config.samples, model.config.train.interest_actions)
    inputs = prepare(dataset, Moment(until, until), configs, model.config.state, model.encoder, progress)
    return since(inputs, model.trained_to)


def _facts(bundle: Bundle, model: Model, inputs: Inputs, learners: tuple[str, ...]) -> dict[str, object]:
    """What the manifest says of an increment."""
    before = bundle.manifest
    kept = {artifact: before.kept.get(artifact, before.name) for artifact in steps_of(model.config)}
    return {
        "code_version": __version__,
        "config_digest": digest(model.config),
        "seed": model.config.train.seed,
        "trained_to": inputs.until,
        "kept": {artifact: name for artifact, name in kept.items() if artifact not in learners},
        "continues": before.continues or before.name,
    }
