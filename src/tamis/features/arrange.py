"""Gives every feature its place: the one function that decides the layout of the encoded arrays."""

from collections.abc import Mapping, Sequence

from tamis.features.fields import Learned, size
from tamis.features.groups import ITEM, groups_of
from tamis.features.layout import Cross, Field, Layout
from tamis.features.spec import NUMERIC, Age, FeatureConfig, FeaturesConfig, Id, Number, Statistic, Tags, Vector
from tamis.types import ACTION_CODE, ACTIONS

AGE_CODES = 26  # log2 of minutes, 0 to 25 (64 years)


def arrange(
    config: FeaturesConfig, learned: Mapping[str, Mapping[str, Learned]], ids: Mapping[str, int], vector_width: int
) -> Layout:
    """The layout for declared features and what they learnt.

    learned: side → feature → what it learnt.   ids: side → users or items with a code of their own.
    """
    table = 1  # row 0 is padding
    fields: dict[str, list[Field]] = {"user": [], "context": [], "item": []}
    starts = {"user": 0, "context": 0, "item": 0}
    for side, placed in fields.items():
        if side == "context":
            starts["context"] = starts["user"]
        for name, feature in getattr(config, side).items():
            if not is_code(feature):
                continue
            rows = ids[side] + 1 if isinstance(feature, Id) else size(feature, learned[side][name])
            width = feature.width if isinstance(feature, Tags) else 1
            placed.append(Field(name=f"{side}.{name}", start=starts[side], width=width, offset=table, size=rows))
            starts[side] += width
            table += rows
    action = Field(name="history.action", start=0, width=1, offset=table, size=len(ACTIONS) + 1)
    age = Field(name="history.age", start=0, width=1, offset=table + action.size, size=AGE_CODES + 1)
    places = {field.name: field.start for field in fields["item"]}
    last_n = _last_n(config, fields["item"], starts["context"])
    ages = {name: feature for name, feature in config.item.items() if isinstance(feature, Age)}
    dynamic = _item_dynamic(config)
    statistics = _user_statistics(config)
    return Layout(
        table_size=table + action.size + age.size,
        user_fields=(*fields["user"], *fields["context"], *last_n),
        item_fields=tuple(fields["item"]),
        user_dense=(*_static(config.user), *statistics, *_static(config.context)),
        item_dense=_static(config.item, vector_width),
        item_dynamic=tuple(dynamic),
        item_ages={feature.column: dynamic.index(name) for name, feature in ages.items()},
        history_columns=tuple(places[f"item.{name}"] for name in config.history.fields),
        history_action=action,
        history_age=age,
        history_length=config.history.length,
        user_statistics=statistics,
        item_age_gaps={feature.column: dynamic.index(missing(name)) for name, feature in ages.items()},
        item_crosses=_crosses(config, dynamic, places),
        long_length=config.history.long_length,
        last_n=tuple(ACTION_CODE[action] for action in config.history.last_n),
        last_n_length=config.history.last_n_length if config.history.last_n else 0,
        with_action=config.history.with_action,
        with_age=config.history.with_age,
    )


def _last_n(config: FeaturesConfig, items: Sequence[Field], start: int) -> list[Field]:
    """The fields of the last entries of single actions, which begin at column `start` of the user's codes."""
    history, shared = config.history, {field.name: field for field in items}
    fields: list[Field] = []
    for action in history.last_n:
        for name in history.fields:
            of, width = shared[f"item.{name}"], history.last_n_length
            place = start + len(fields) * width
            fields.append(
                Field(name=f"history.{action}.{name}", start=place, width=width, offset=of.offset, size=of.size)
            )
    return fields


def is_code(feature: FeatureConfig) -> bool:
    """True for a categorical feature, False for one that gives numbers."""
    return not isinstance(feature, NUMERIC)


def missing(name: str) -> str:
    """The name of the number that says whether another one is missing."""
    return f"{name}.missing"


def _static(features: Mapping[str, FeatureConfig], vector_width: int = 0) -> tuple[str, ...]:
    """Names of the numbers that are no statistics, in the order of the encoder's."""
    names: list[str] = []
    for name, feature in features.items():
        if isinstance(feature, Number):
            names += [name, missing(name)]
        elif isinstance(feature, Vector):
            names += [f"{name}.{axis}" for axis in range(vector_width)]
    return tuple(names)


def _user_statistics(config: FeaturesConfig) -> tuple[str, ...]:
    """Those of the user's statistics that are the same for every candidate."""
    crossed = {name for group in groups_of(config).values() if group.candidate for name, _ in group.features}
    own = [name for name, feature in config.user.items() if isinstance(feature, Statistic)]
    return tuple(name for name in own if f"user.{name}" not in crossed)


def _item_dynamic(config: FeaturesConfig) -> list[str]:
    """Names of the candidate's changing numbers; statistics of the user with the candidate begin with "user."."""
    names: list[str] = []
    for name, feature in config.item.items():
        if isinstance(feature, Statistic | Age):
            names += [name, missing(name)] if isinstance(feature, Age) else [name]
    alone = _user_statistics(config)
    own = [name for name, feature in config.user.items() if isinstance(feature, Statistic) and name not in alone]
    return names + [f"user.{name}" for name in own]


def _crosses(config: FeaturesConfig, dynamic: Sequence[str], places: Mapping[str, int]) -> tuple[Cross, ...]:
    """What candidates are looked up in, and by what. places: item field → its column of the item's codes."""
    crosses = []
    for group in groups_of(config).values():
        if group.candidate and group.name != ITEM:
            columns = tuple(dynamic.index(name.removeprefix("item.")) for name, _ in group.features)
            crosses.append(Cross(table=group.name, columns=columns, field=places.get(group.candidate[0], -1)))
    return tuple(crosses)
