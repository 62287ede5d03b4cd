from pathlib import Path

import numpy as np
import pytest
import torch
from toy_world import Toy

from tamis.errors import ConfigError
from tamis.nets.plans import TrainingPlan
from tamis.nets.session import Session
from tamis.nets.tower import Towers, export_towers, numbers_of
from tamis.nets.tower_plan import LightPlan, TowerPlan

PLAN = TowerPlan(embedding_size=4, user_layers=(16,), item_layers=(8, 8), vector_size=6)


@pytest.fixture(scope="module")
def towers(toy: Toy) -> Towers:
    towers = Towers(toy.inputs.layout, PLAN, numbers_of(toy.inputs), 5)
    with torch.no_grad():
        towers.table.weight.mul_(20)  # as large as after training, so that differences show
    return towers.eval()


def sides(toy: Toy, count: int = 12) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    batch = toy.inputs.batch(toy.inputs.train, np.arange(len(toy.inputs.train) - count, len(toy.inputs.train)))
    user = [torch.from_numpy(a) for a in (batch.user_codes, batch.user_dense, batch.history_codes)]
    return user, [torch.from_numpy(a) for a in (batch.item_codes, batch.item_dense)]


def test_vectors_have_length_one_and_cosines_lie_between_minus_one_and_one(toy: Toy, towers: Towers) -> None:
    user, item = sides(toy)
    a, b = towers.users(*user), towers.items(*item)
    torch.testing.assert_close(a.norm(dim=1), torch.ones(len(a)))
    assert (a @ b.T).abs().max() <= 1 + 1e-6


def test_a_zero_vector_stays_finite(toy: Toy) -> None:
    towers = Towers(toy.inputs.layout, PLAN, numbers_of(toy.inputs), 5).eval()
    with torch.no_grad():
        for weight in towers.item.layers.parameters():
            weight.zero_()
    assert torch.isfinite(towers.items(*sides(toy)[1])).all()


def test_one_side_never_reads_the_other(toy: Toy, towers: Towers) -> None:
    user, item = sides(toy)
    a, b = towers.users(*user), towers.items(*item)
    changed_user = [user[0].flip(0), user[1] + 1, user[2].flip(0)]
    torch.testing.assert_close(towers.items(*item), b, rtol=0, atol=0)
    assert not torch.allclose(towers.users(*changed_user), a)
    assert not torch.allclose(towers.items(item[0].flip(0), item[1]), b)
    torch.testing.assert_close(towers.users(*user), a, rtol=0, atol=0)


def test_equal_items_get_equal_vectors(toy: Toy, towers: Towers) -> None:
    item = [side[:1].repeat(2, 1) for side in sides(toy)[1]]
    vectors = towers.items(*item)
    torch.testing.assert_close(
        vectors[0], vectors[1], rtol=0, atol=1e-6
    )  # a matrix product's rows may differ in the last bit


def test_the_order_of_the_history_does_not_matter_and_absent_entries_count_nothing(toy: Toy, towers: Towers) -> None:
    user, _ = sides(toy, 3)
    history = torch.zeros_like(user[2])
    history[:, :3] = user[2].amax() - torch.arange(3)[:, None]
    shuffled = torch.zeros_like(history)
    shuffled[:, [6, 1, 4]] = history[:, :3]
    vectors = towers.users(user[0], user[1], history)
    torch.testing.assert_close(towers.users(user[0], user[1], shuffled), vectors, atol=1e-6, rtol=0)
    assert torch.isfinite(towers.users(user[0], user[1], torch.zeros_like(history))).all()


def test_exported_towers_agree_with_torch_for_any_number_of_rows(toy: Toy, towers: Towers, tmp_path: Path) -> None:
    export_towers(towers, toy.inputs.layout, tmp_path)
    user, item = sides(toy)
    for name, inputs, wanted in (("user", user, towers.users(*user)), ("item", item, towers.items(*item))):
        session = Session.open(tmp_path / f"{name}.onnx")
        for rows in (1, len(wanted)):
            fed = {key: each[:rows].numpy() for key, each in zip(session.inputs, inputs, strict=True)}
            np.testing.assert_allclose(session.run(**fed)["vector"], wanted[:rows].detach().numpy(), atol=1e-5)


def test_the_item_tower_is_wired_to_static_features_only(toy: Toy, towers: Towers, tmp_path: Path) -> None:
    export_towers(towers, toy.inputs.layout, tmp_path)
    assert Session.open(tmp_path / "item.onnx").inputs == ("item_codes", "item_dense")
    static = set(toy.inputs.layout.item_dense) | {field.name for field in toy.inputs.layout.item_fields}
    assert not static & set(toy.inputs.layout.item_dynamic)
    assert not any(name.startswith(("user.", "context.")) for name in static)


def test_attention_over_the_history_is_refused() -> None:
    with pytest.raises(ConfigError, match="attention"):
        TowerPlan(pooling="attention")
    with pytest.raises(ConfigError, match="at least 1"):
        TowerPlan(user_layers=(0,))
    with pytest.raises(ConfigError, match="head"):
        LightPlan(PLAN, TrainingPlan(), (), (), (4,), 8, 0, 0.0)


def test_the_same_seed_gives_the_same_weights(toy: Toy) -> None:
    one, two = (Towers(toy.inputs.layout, PLAN, numbers_of(toy.inputs), 5) for _ in range(2))
    for mine, theirs in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(mine, theirs)
