"""What the steps of a funnel may not say although each could be read: names, places and what they need of others.

Settings of a stage come as they are in the tree (`assemble.StageConfig`), which stands above this file; so does the
list that says which part a step is.
"""

from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any, Final

from tamis.config import StepConfig
from tamis.features.spec import FeaturesConfig, single_codes
from tamis.rank.fuse import FuseConfig
from tamis.rank.multitask import MultitaskConfig
from tamis.rank.rating import RatingConfig
from tamis.recall.matrix_completion import MatrixCompletionConfig
from tamis.recall.sequential import SequentialConfig

Stages = Mapping[str, Any]
"""Name of a stage → its settings, in the order they run."""
PartOf = Callable[[StepConfig], Any]
"""The class of a step's part."""
WHOLE_LOG: Final = (MatrixCompletionConfig, SequentialConfig, RatingConfig)
"""Settings of the parts that want all events in memory, so that no bound can hold; see features.bounded."""


def funnel_problems(stages: Stages, part_of: PartOf, catalog: Set[str]) -> Iterator[str]:
    """A line for each problem, beginning with the path. catalog: columns of one number per item."""
    yield from _sources_twice(stages, part_of)
    yield from _unknown_heads(stages, catalog)
    yield from _sources_amiss(stages, part_of)
    yield from _not_before(stages, part_of)
    yield from _fallbacks_amiss(stages, part_of)
    yield from _untaught(stages, part_of)


def searches_amiss(stages: Stages, features: FeaturesConfig, timeline_limit: int) -> Iterator[str]:
    """Long histories that the state does not keep, and searches in what is not there."""
    history, fields = features.history, single_codes(features, "item")
    if history.long_length > timeline_limit:
        yield (
            f"state.timeline_limit is {timeline_limit}: wanted at least features.history.long_length, "
            f"{history.long_length}"
        )
    for stage_name, stage in stages.items():
        for name, step in stage.steps.items():
            where = f"funnel.{stage_name}.steps.{name}"
            if not isinstance(step, MultitaskConfig) or step.search == "none":
                continue
            if not history.long_length:
                yield f'{where}.search = "{step.search}" wants a features.history.long_length above 0'
            if step.search == "hard" and step.search_field not in fields:
                yield f"{where}.search_field: {step.search_field!r} is no item feature of one code, of {fields}"


def whole_logs(stages: Stages, features: FeaturesConfig) -> Iterator[str]:
    """Steps and features that want the whole log in memory, where train.memory_gib bounds it."""
    for wanting in (*_whole_log_steps(stages), *_whole_log_features(features)):
        yield f"train.memory_gib: {wanting} wants the whole log in memory; leave it out, or set memory_gib = 0"


def _whole_log_steps(stages: Stages) -> Iterator[str]:
    for stage_name, stage in stages.items():
        for name, step in stage.steps.items():
            where = f"funnel.{stage_name}.steps.{name}"
            if isinstance(step, WHOLE_LOG):
                yield f"{where} ({step.__struct_config__.tag})"
            yield from (f"{where}.{setting}" for setting in ("hard_share", "distill") if getattr(step, setting, 0.0))
            if isinstance(step, MultitaskConfig) and step.search != "none":
                yield f'{where}.search = "{step.search}"'


def _whole_log_features(features: FeaturesConfig) -> Iterator[str]:
    if features.history.last_n:
        yield "features.history.last_n"


def _sources_twice(stages: Stages, part_of: PartOf) -> Iterator[str]:
    """Channels are known by their names alone, in whatever stage they are."""
    seen: set[str] = set()
    for stage_name, stage in stages.items():
        for name, step in stage.steps.items():
            if hasattr(part_of(step), "recall"):
                if name in seen:
                    yield f"funnel.{stage_name}.steps.{name}: another source has that name"
                seen.add(name)


def _sources_amiss(stages: Stages, part_of: PartOf) -> Iterator[str]:
    """Quotas and budgets that are not of the sources of their stage, or that could not be kept."""
    for stage_name, stage in stages.items():
        sources = [name for name, step in stage.steps.items() if hasattr(part_of(step), "recall")]
        where = f"funnel.{stage_name}"
        for key, named in (("quotas", stage.quotas), ("source_budget_ms", stage.source_budget_ms)):
            if unknown := sorted(set(named) - set(sources)):
                yield f"{where}.{key} names {unknown}, not among the sources {sources}"
        if stage.quotas:
            if stage_name != "recall":
                yield f"{where}.quotas: only recall divides its limit among sources"
            if missing := [name for name in sources if name not in stage.quotas]:
                yield f"{where}.quotas lacks {missing}: wanted a share for every source (0 = only places left over)"
            if not any(stage.quotas.values()):
                yield f"{where}.quotas are all 0: wanted one above 0"
        if stage.source_budget_ms and not stage.parallel:
            yield f"{where}.source_budget_ms wants parallel = true: what runs in the request's thread cannot be stopped"


def _not_before(stages: Stages, part_of: PartOf) -> Iterator[str]:
    """A problem for each channel made of another one that does not stand before it or knows no items like an item."""
    for stage_name, stage in stages.items():
        able: list[str] = []
        for name, step in stage.steps.items():
            over = getattr(step, "over", None)
            if over is not None and over not in able:
                where = f"funnel.{stage_name}.steps.{name}.over"
                yield f"{where}: {over!r} is no step before it that knows items like an item; there are {able}"
            if hasattr(part_of(step), "similar"):
                able.append(name)


def _unknown_heads(stages: Stages, catalog: Set[str]) -> Iterator[str]:
    """A problem for each fusion of what no step before it writes, or whose constants hide what is there."""
    table = {"channel", "found_by", "score"}  # what sources give
    maybe = set(table)  # with what only a fallback writes: a factor may be absent
    for stage_name, stage in stages.items():
        for name, step in stage.steps.items():
            if isinstance(step, FuseConfig):
                unknown = [head for head in step.reads if not {f"p_{head}", head} & table and head not in catalog]
                if unknown:
                    yield (
                        f"funnel.{stage_name}.steps.{name}.{step.section}: {step.formula} reads heads {unknown}, which "
                        f"no step before it predicts; there are {sorted(table)} and {sorted(catalog)} of the catalogue"
                    )
                where = f"funnel.{stage_name}.steps.{name}"
                if absent := sorted(set(step.factors) - maybe):
                    there = f"there are {sorted(maybe)}"
                    yield f"{where}.factors names {absent}, columns that no step before it writes; {there}"
                if hidden := [name for name in step.constants if {f"p_{name}", name} & table or name in catalog]:
                    yield f"{where}.constants names {hidden}, which are heads; wanted names of their own"
            maybe.update(getattr(step, "columns", ()))
            if name != stage.fallback:
                table.update(getattr(step, "columns", ()))


def _untaught(stages: Stages, part_of: PartOf) -> Iterator[str]:
    """Steps that are to learn from a ranker where there is none."""
    steps = [
        (f"funnel.{stage}.steps.{name}", step) for stage, own in stages.items() for name, step in own.steps.items()
    ]
    if not any(hasattr(part_of(step), "teach") for _, step in steps):
        for where, step in steps:
            if getattr(step, "distill", 0.0):
                yield f"{where}.distill: there is no ranker to learn from; wanted a step of kind multitask"


def _fallbacks_amiss(stages: Stages, part_of: PartOf) -> Iterator[str]:
    """Fallbacks that are no scorer of their stage, read what an outage takes away, or would never run."""
    for stage_name, stage in stages.items():
        where, step = f"funnel.{stage_name}.fallback", stage.steps.get(stage.fallback)
        if not stage.fallback:
            continue
        if step is None or not hasattr(part_of(step), "score") or isinstance(step, FuseConfig):
            scorers = [name for name, each in stage.steps.items() if hasattr(part_of(each), "score")]
            yield f"{where} is {stage.fallback!r}: wanted one of the scorers {scorers} that reads no other's columns"
        elif not stage.optional:
            yield f"{where} wants optional = true: an outage of another stage is an error and nothing falls back"
        elif len(stage.steps) == 1:
            yield f"{where}: {stage.fallback!r} is the only step; wanted one that it stands in for"
