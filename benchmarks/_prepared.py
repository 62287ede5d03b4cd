"""A data set as its trainings see it: the days that are learnt from, and the held-out ones encoded alike."""

from tamis.assemble import ProjectConfig
from tamis.data.dataset import Dataset
from tamis.data.split import Split, by_time
from tamis.features.encode import Encoder
from tamis.features.inputs import Inputs
from tamis.features.prepare import Moment, prepare
from tamis.rank.multitask import MultitaskConfig


def periods(
    config: ProjectConfig, dataset: Dataset, split: Split | None = None, encoder: Encoder | None = None
) -> tuple[Inputs, Inputs]:
    """(inputs of training, inputs whose `valid` are the held-out days).

    split: None = the configuration's.   encoder: None = one that is fitted on the training days.
    """
    split = split or by_time(dataset, config.split)
    configs = (config.features, config.samples, config.train.interest_actions)
    learnt = prepare(dataset, Moment(split.valid_since, split.test_since), configs, encoder=encoder)
    return learnt, prepare(dataset, Moment(split.test_since, split.test_until), configs, encoder=learnt.encoder)


def ranker_of(config: ProjectConfig) -> MultitaskConfig:
    """The settings of the fine ranker."""
    return next(step for step in config.funnel.rank.steps.values() if isinstance(step, MultitaskConfig))
