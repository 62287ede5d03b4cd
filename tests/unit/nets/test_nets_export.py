"""Every net that is exported says what it says in torch, for any number of rows and in any company.

Deep Retrieval's is the user's tower of "two towers"; its paths are served by NumPy and tested beside it.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_nets_multitask_blocks as blocks
import test_nets_sequential as sequential
import test_nets_three_towers as three_towers
import test_nets_youtube as youtube
import torch
from toy_world import Toy

import tamis.nets
from tamis.nets.export import export
from tamis.nets.multitask import export_multitask
from tamis.nets.plans import TrainingPlan
from tamis.nets.rating import RatingPlan, fit_rating
from tamis.nets.sequential import fit_sequential
from tamis.nets.session import Session
from tamis.nets.three_towers import ThreeTowers, export_three_towers
from tamis.nets.tower import Towers, export_towers, numbers_of
from tamis.nets.youtube import fit_youtube

ONE = TrainingPlan(epochs=1, batch_size=512, threads=1, patience=0)
RATING = RatingPlan((0.0, 1.0), "squared", 0.5, 8, 0.5, (8,), ONE)


def silent(name: str, done: int, total: int) -> None:
    """No progress bar."""


@dataclass
class Exported:
    """One call of `export`: the net, an example of its inputs, and where it went."""

    net: torch.nn.Module
    example: Mapping[str, torch.Tensor]
    outputs: Sequence[str]
    path: Path
    dynamic: Mapping[str, Mapping[int, str]]


def multitask(block: str) -> Callable[[Toy, Path], Any]:
    return lambda toy, folder: export_multitask(blocks.net_for(toy, block), toy.inputs.layout, folder / "net.onnx")


def rating(toy: Toy, folder: Path) -> None:
    parts = [toy.inputs.train, toy.inputs.valid]
    rated = [replace(part, labels={**part.labels, "rate": part.labels["click"]}) for part in parts]
    fit_rating(toy.inputs.with_samples(*rated), RATING, 1, folder / "net.onnx")


def two_towers(toy: Toy, folder: Path) -> None:
    towers = Towers(toy.inputs.layout, three_towers.TOWERS, numbers_of(toy.inputs), 3)
    with torch.no_grad():
        towers.table.weight.mul_(20)
    export_towers(towers, toy.inputs.layout, folder)


NETS: dict[str, Callable[[Toy, Path], Any]] = {
    "multitask": multitask(""),
    **{f"multitask, {block}": multitask(block) for block in blocks.BLOCKS},
    "three towers": lambda toy, folder: export_three_towers(
        ThreeTowers(toy.inputs, three_towers.PLAN, 2), toy.inputs, folder
    ),
    "two towers": two_towers,
    "youtube": lambda toy, folder: fit_youtube(toy.inputs, youtube.PLAN, 1, folder),
    "sequential": lambda toy, folder: fit_sequential(sequential.circle(), sequential.PLAN, 1, folder, silent),
    "rating": rating,
}
MODULES = {"multitask", "rating", "sequential", "three_towers", "tower", "youtube"}


def exporters() -> set[str]:
    """The modules of the nets that export."""
    names = {module.name for module in pkgutil.iter_modules(tamis.nets.__path__)}
    return {
        name for name in names if getattr(importlib.import_module(f"tamis.nets.{name}"), "export", None) is export
    } - {"export"}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Exported]:
    """What `export` was called with."""
    calls: list[Exported] = []

    def noted(net: torch.nn.Module, example: Any, outputs: Any, path: Path, dynamic: Any) -> None:
        export(net, example, outputs, path, dynamic)
        calls.append(Exported(net, example, outputs, path, dynamic))

    for name in exporters():
        monkeypatch.setattr(f"tamis.nets.{name}.export", noted)
    return calls


def test_no_net_that_is_exported_is_missing_here() -> None:
    assert exporters() == MODULES


def drawn(made: Exported, rows: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Inputs of the exported net with `rows` where lengths may differ: small codes, numbers and vectors."""
    arrays = {}
    for name, value in made.example.items():
        shape = [rows if axis in made.dynamic.get(name, {}) else size for axis, size in enumerate(value.shape)]
        whole = not value.dtype.is_floating_point
        array = random.integers(0, 9, shape) if whole else random.normal(size=shape)
        arrays[name] = array.astype(value.numpy().dtype)
    return arrays


def in_torch(made: Exported, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    with torch.no_grad():
        out = made.net(*(torch.from_numpy(array) for array in arrays.values()))
    return [each.numpy() for each in (out if isinstance(out, tuple) else (out,))]


@pytest.mark.parametrize("name", NETS)
def test_the_exported_net_says_what_torch_says_alone_and_in_any_company(
    toy: Toy, tmp_path: Path, written: list[Exported], name: str
) -> None:
    NETS[name](toy, tmp_path)
    assert written
    for made in written:
        session, random = Session.open(made.path), np.random.default_rng(1)
        most = sequential.PLAN.length if name == "sequential" else 17
        for rows in (1, most):
            arrays = drawn(made, rows, random)
            said = session.run(**arrays)
            for output, want in zip(made.outputs, in_torch(made, arrays), strict=True):
                np.testing.assert_allclose(said[output], want, rtol=1e-5, atol=1e-5)
        if not all(0 in made.dynamic.get(output, {}) for output in made.outputs):
            assert name == "sequential"  # its rows are one user's past: they are meant to meet
            continue
        for row in (0, most - 1):
            few = {n: array[row : row + 1] if 0 in made.dynamic.get(n, {}) else array for n, array in arrays.items()}
            alone = session.run(**few)
            for output in made.outputs:
                np.testing.assert_allclose(alone[output][0], said[output][row], rtol=1e-5, atol=1e-5)
