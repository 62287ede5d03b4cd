"""What a training takes from the last full bundle: parts as they are, weights to begin with, what its funnel cut.

An increment (`tamis.update`) is never taken from: it only knows the hours since the full bundle it continues, so each
full training follows on the full one before it, and the increments between are forgotten.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import structlog

from tamis.artifact import Bundle, open_full
from tamis.assemble import Model, ProjectConfig, artifact_name, load_model, stages_of
from tamis.config import StepConfig
from tamis.data.dataset import Dataset
from tamis.data.ids import Ids
from tamis.data.split import Split
from tamis.errors import ArtifactError, ConfigError
from tamis.evaluate.dropped import dropped_items
from tamis.features.earlier import Dropped, Earlier
from tamis.features.inputs import Inputs

log = structlog.get_logger("tamis.train")


@dataclass(frozen=True, slots=True)
class Kept:
    """The last full bundle and those of its parts that a run takes over.

    parts: artifact name → the bundle that it was made for.
    """

    bundle: Bundle
    model: Model
    parts: Mapping[str, str]


def kept_parts(config: ProjectConfig, bundles: Path, dataset: Dataset, split: Split, only: tuple[str, ...]) -> Kept:
    """The last full bundle and all parts but those named. Raises ConfigError, ArtifactError when they do not fit."""
    steps = steps_of(config)
    named = {artifact for artifact in steps if artifact in only or artifact.partition(".")[2] in only}
    if unknown := [name for name in only if name not in named and name not in {a.partition(".")[2] for a in named}]:
        raise ConfigError(f"--only {', '.join(unknown)}: no such step; there are {', '.join(steps)}")
    bundle = open_full(bundles)
    model = load_model(bundle)
    _check_fits(config, bundle, model, dataset, split)
    trained = steps_of(model.config)
    kept = {}
    for artifact, step in steps.items():
        if artifact in named:
            continue
        learns = bundle.folder(artifact).is_dir() and any(bundle.folder(artifact).iterdir())
        if artifact not in trained or (learns and trained[artifact] != step):
            changed = "has other settings now" if artifact in trained else "is new"
            raise ConfigError(f"funnel.{artifact} {changed} and cannot be kept; name it with --only too, or train all")
        kept[artifact] = bundle.manifest.kept.get(artifact, bundle.name)
    return Kept(bundle, model, kept)


@dataclass(frozen=True, slots=True)
class Before:
    """The last full bundle, and what parts may take from it."""

    bundle: Bundle
    model: Model
    warm: bool
    dropped: Callable[[], Dropped]

    def of(self, artifact: str) -> Earlier | None:
        """What it is for one part; None when it has no such part."""
        there = artifact in steps_of(self.model.config)
        folder = self.bundle.folder(artifact)
        return Earlier(self.bundle.name, folder, self.model.encoder, self.warm, self.dropped) if there else None


def earlier_bundle(
    config: ProjectConfig, bundles: Path, data: tuple[Dataset, Split, Inputs], *, warm: bool
) -> Before | None:
    """The last full bundle if some part wants it; without one, or one that fits, there are no hard negatives.

    Raises ConfigError or ArtifactError when parts are to begin with the weights of one that is not there or does not
    fit.
    """
    hard = any(getattr(step, "hard_share", 0.0) for step in steps_of(config).values())
    if not (warm or hard):
        return None
    dataset, split, inputs = data
    try:
        bundle = open_full(bundles)
        model = load_model(bundle)
        _check_same_past(bundle, model, dataset, split)
    except (ArtifactError, ConfigError) as error:
        if warm:
            raise
        log.warning("no hard negatives", why=str(error))
        return None
    draw = (config.train.traced_users, config.train.seed)
    dropped = cache(lambda: dropped_items(model, dataset, inputs.train, draw, inputs.progress))
    return Before(bundle, model, warm, dropped)


def _check_fits(config: ProjectConfig, bundle: Bundle, model: Model, dataset: Dataset, split: Split) -> None:
    """Raises when parts of the bundle could not work, or not be judged fairly, beside new ones."""
    if model.config.features != config.features:
        raise ConfigError(f"[features] differ from those of {bundle.name}, whose parts cannot be kept then; train all")
    _check_same_past(bundle, model, dataset, split)


def _check_same_past(bundle: Bundle, model: Model, dataset: Dataset, split: Split) -> None:
    """Raises when the bundle is of other data, or knows more of them than may be known before the held-out days."""
    if bundle.manifest.trained_to > split.test_since:
        raise ConfigError(
            f"{bundle.name} learnt from days that are held out now, so its parts cannot be judged on them; train all"
        )
    check_same_data(bundle, model, dataset)


def check_same_data(bundle: Bundle, model: Model, dataset: Dataset) -> None:
    """Raises ArtifactError when users or items have other numbers in the data set than in the bundle."""
    for what, old, new in (
        ("users", model.user_ids, dataset.user_ids),
        ("items", model.item_ids, dataset.item_ids),
    ):
        if not _continues(old, new):
            raise ArtifactError(f"{bundle.path}: its {what} have other numbers in {dataset.folder}; train all")


def _continues(old: Ids, new: Ids) -> bool:
    return len(new) >= len(old) and np.array_equal(np.asarray(old.keys), np.asarray(new.keys[: len(old)]))


def steps_of(config: ProjectConfig) -> dict[str, StepConfig]:
    """Artifact name → settings of each step, in the order of the funnel."""
    stages = stages_of(config.funnel).items()
    return {artifact_name(stage, name): step for stage, own in stages for name, step in own.steps.items()}
