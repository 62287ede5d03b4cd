"""What an entry of a history is made of: item features, and unless declared without them what was done and when."""

import msgspec
import numpy as np
import pytest
from toy_world import FEATURES, Rules, toy_world

from tamis.config import override
from tamis.features.batch import query_history
from tamis.features.spec import HistoryConfig

MARKS = [(True, True), (True, False), (False, True), (False, False)]


@pytest.mark.parametrize(("action", "age"), MARKS)
def test_an_entry_holds_what_the_history_declares_and_nothing_else(action: bool, age: bool) -> None:
    history = override(FEATURES.history, {"with_action": action, "with_age": age})
    kept = toy_world(
        users=20, items=30, requests=4, rules=Rules(features=msgspec.structs.replace(FEATURES, history=history))
    )
    whole = toy_world(users=20, items=30, requests=4)
    every = np.arange(len(whole.inputs.train))
    wanted = whole.inputs.batch(whole.inputs.train, every).history_codes[..., [True, True, action, age]]
    assert wanted.any()
    np.testing.assert_array_equal(kept.inputs.batch(kept.inputs.train, every).history_codes, wanted)

    asked = [query_history(toy.inputs.layout, toy.query(3, [7, 5])) for toy in (whole, kept)]
    np.testing.assert_array_equal(asked[1], asked[0][:, [True, True, action, age]])


def test_an_entry_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"history\.fields.*makes up an entry"):
        HistoryConfig(fields=(), with_action=False, with_age=False)
    assert HistoryConfig(fields=(), with_action=False).with_age
