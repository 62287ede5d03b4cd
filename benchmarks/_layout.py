"""Layouts of fields that are nothing but a number of values."""

from collections.abc import Mapping

from tamis.features.layout import Field, Layout


def plain_layout(
    user: Mapping[str, int],
    item: Mapping[str, int],
    *,
    numbers: tuple[str, ...] = (),
    history: int = 0,
    columns: tuple[int, ...] = (),
    past: tuple[int, int] = (1, 1),
    marks: bool = True,
) -> Layout:
    """user, item: name → values of each field, one column each.   numbers: of the user.

    history: its length.   columns: of the item's codes that make up an entry.   past: codes of its actions and ages.
    marks: whether an entry holds them.
    """
    offset, sides = 1, []
    for sizes in (user, item, {"action": past[0], "age": past[1]}):
        fields = []
        for at, (name, size) in enumerate(sizes.items()):
            fields.append(Field(name=name, start=at, width=1, offset=offset, size=size))
            offset += size
        sides.append(tuple(fields))
    return Layout(
        table_size=offset,
        user_fields=sides[0],
        item_fields=sides[1],
        user_dense=numbers,
        item_dense=(),
        item_dynamic=(),
        item_ages={},
        history_columns=columns,
        history_action=sides[2][0],
        history_age=sides[2][1],
        history_length=history,
        with_action=marks,
        with_age=marks,
    )
