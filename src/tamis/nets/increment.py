"""Incremental training of two towers: the embeddings of user ids move, and nothing else.

The layers and the items' vectors stay those of the last full training, so that the index stays true. The log since then
is read once, in the order of time. It is biased by its hour, which is why the next full training begins with the last
full one and not with this. A user without an id of his own in the encoder stays unknown until then.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from tamis.errors import ConfigError
from tamis.features.inputs import Inputs
from tamis.nets.contrast import learn
from tamis.nets.tower import Towers, export_user_tower, id_fields, numbers_of
from tamis.nets.tower_plan import ContrastPlan
from tamis.nets.weights import read_weights, restore


def move_user_ids(inputs: Inputs, plan: ContrastPlan, seed: int, nets: tuple[Path, Path]) -> None:
    """Learns from the positives of `inputs.train`, once. nets: folder of the served nets, new folder.

    Raises ConfigError when no user feature is an id.
    """
    old, new = nets
    fields, _ = id_fields(inputs)
    if not fields:
        raise ConfigError("features.user: no feature of kind 'id', the only thing that two towers learn incrementally")
    towers = Towers(inputs.layout, plan.towers, numbers_of(inputs), seed)
    restore(towers, read_weights(old), old)
    towers.requires_grad_(requires_grad=False)
    moving = np.zeros(inputs.layout.table_size, np.bool_)
    for field in fields:
        moving[field.offset + 1 : field.offset + field.size] = True  # the first one means "unknown"
    towers.table.moving = moving
    once = replace(plan.training, epochs=1, patience=0, unknown_share=0.0, in_order=True)
    learn(towers, inputs, replace(plan, training=once, views=replace(plan.views, weight=0.0)), seed)
    export_user_tower(towers, inputs.layout, new)
    for file in sorted(old.glob("item.*")):
        shutil.copyfile(file, new / file.name)
