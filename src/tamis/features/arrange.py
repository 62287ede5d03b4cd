"""Gives every feature its place: the one function that decides the layout of the encoded arrays."""

from collections.abc import Mapping

from tamis.features.fields import Learned, size
from tamis.features.layout import Field, Layout
from tamis.features.spec import NUMERIC, Age, Count, FeatureConfig, FeaturesConfig, Id, Number, Rate, Tags, Vector
from tamis.types import ACTIONS

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
    ages = {name: feature for name, feature in config.item.items() if isinstance(feature, Age)}
    dynamic = [name for name, feature in config.item.items() if isinstance(feature, Rate | Count | Age)]
    return Layout(
        table_size=table + action.size + age.size,
        user_fields=(*fields["user"], *fields["context"]),
        item_fields=tuple(fields["item"]),
        user_dense=_user_dense(config),
        item_dense=_item_dense(config.item, vector_width),
        item_dynamic=tuple(dynamic),
        item_ages={feature.column: dynamic.index(name) for name, feature in ages.items()},
        history_columns=tuple(places[f"item.{name}"] for name in config.history.fields),
        history_action=action,
        history_age=age,
        history_length=config.history.length,
    )


def is_code(feature: FeatureConfig) -> bool:
    """True for a categorical feature, False for one that gives numbers."""
    return not isinstance(feature, NUMERIC)


def _user_dense(config: FeaturesConfig) -> tuple[str, ...]:
    """Static numbers, then rates and counts, then the context's numbers: the order of `Encoder.user_side`."""
    static = [name for name, feature in config.user.items() if isinstance(feature, Number)]
    dynamic = [name for name, feature in config.user.items() if isinstance(feature, Rate | Count)]
    context = [name for name, feature in config.context.items() if isinstance(feature, Number)]
    return (*static, *dynamic, *context)


def _item_dense(features: Mapping[str, FeatureConfig], vector_width: int) -> tuple[str, ...]:
    names: list[str] = []
    for name, feature in features.items():
        if isinstance(feature, Number):
            names.append(name)
        elif isinstance(feature, Vector):
            names += [f"{name}.{axis}" for axis in range(vector_width)]
    return tuple(names)
