"""The fine ranker with crosses, personal gates and PLE: fitted, saved, loaded and served."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from test_rank_multitask import saved
from toy_world import Toy

from tamis.config import convert
from tamis.errors import ConfigError
from tamis.metrics import auc
from tamis.rank.multitask import Multitask, MultitaskConfig
from tamis.types import Candidates

QUICK: dict[str, Any] = {
    "kind": "multitask",
    "heads": ["click", "like"],
    "epochs": 1,
    "batch_size": 256,
    "threads": 1,
    "learning_rate": 3e-3,
    "embedding_learning_rate": 3e-2,
    "experts": 2,
    "expert_hidden": [16, 8],
    "tower_hidden": [8],
    "embedding_size": 8,
    "attention": "mean",
}
BLOCKS: dict[str, dict[str, Any]] = {
    "fm": {"crosses": ["fm"]},
    "dcn": {"crosses": ["dcn"]},
    "dcn_v2 and senet_bilinear": {"crosses": ["dcn_v2", "senet_bilinear"]},
    "dcn_v2 of mixed low ranks": {"crosses": ["dcn_v2"], "cross_rank": 4, "cross_experts": 2},
    "gdcn": {"crosses": ["gdcn"], "cross_rank": 8},
    "senet": {"crosses": ["senet"], "attention": "din"},
    "bilinear": {"crosses": ["bilinear"], "bilinear_weights": "interaction", "bilinear_form": "hadamard"},
    "final_mlp": {"crosses": ["final_mlp"], "stream_hidden": [16, 8], "stream_heads": 2},
    "lhuc": {"personal_gates": "lhuc"},
    "ppnet": {"personal_gates": "ppnet"},
    "ple": {"mixture": "ple", "experts": 1, "extraction_levels": 2},
    "normalised": {"normalization": "batch", "dropout": 0.1},
    "normalised ple": {"normalization": "batch", "mixture": "ple", "experts": 1, "extraction_levels": 2},
    "all at once": {"crosses": ["fm", "dcn"], "personal_gates": "lhuc", "mixture": "ple", "extraction_levels": 1},
}
EVERYTHING = Candidates(np.arange(240))


@pytest.mark.parametrize("block", BLOCKS)
def test_each_block_is_learnt_saved_and_served_alike(toy: Toy, tmp_path: Path, block: str) -> None:
    config = convert({**QUICK, **BLOCKS[block]}, MultitaskConfig)
    part = Multitask.fit(config, toy.inputs, 1)
    query = toy.query(1, [int(item) for item in toy.likes(1)[:4]])
    columns = part.score(query, EVERYTHING)
    assert auc(toy.item_cluster == 1, columns["p_click"]) > 0.6
    part.save(tmp_path)
    again = Multitask.load(config, tmp_path)
    turned = part.score(query, Candidates(np.arange(240)[::-1].copy()))
    for name, column in columns.items():
        assert again.score(query, EVERYTHING)[name].tobytes() == column.tobytes()
        np.testing.assert_allclose(turned[name][::-1], column, rtol=1e-5, atol=2e-6)
        for item in (0, 239):
            alone = part.score(query, Candidates(np.array([item])))
            np.testing.assert_allclose(alone[name], column[item : item + 1], rtol=1e-5, atol=2e-6)
    catalog = toy.with_fresh([0, 3])
    for stranger in (toy.query(-1, [], catalog), toy.query(-1, [240, -1], catalog)):
        for column in part.score(stranger, Candidates(np.array([240, 241, 5]))).values():
            assert np.isfinite(column).all()
    assert set(part.facts.gate_largest) == {"click", "like"}


def test_the_same_seed_gives_the_same_files_with_blocks_too(toy: Toy, tmp_path: Path) -> None:
    config = convert({**QUICK, **BLOCKS["all at once"], "crosses": ["gdcn", "senet_bilinear"]}, MultitaskConfig)
    assert saved(config, toy, tmp_path / "one") == saved(config, toy, tmp_path / "two")


def test_blocks_change_what_is_learnt(toy: Toy) -> None:
    query = toy.query(1, [int(item) for item in toy.likes(1)[:4]])
    plain = convert(QUICK, MultitaskConfig)
    want = Multitask.fit(plain, toy.inputs, 1).score(query, EVERYTHING)["p_click"]
    for changes in ({"crosses": ("fm",)}, {"personal_gates": "ppnet"}, {"mixture": "ple"}):
        other = Multitask.fit(msgspec.structs.replace(plain, **changes), toy.inputs, 1)
        assert not np.allclose(other.score(query, EVERYTHING)["p_click"], want)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"crosses": ["dcn_v3"]}, "crosses"),
        ({"crosses": ["fm", "fm"]}, "crosses"),
        ({"cross_depth": 0}, "cross_depth"),
        ({"cross_rank": -1}, "cross_rank"),
        ({"cross_experts": 2}, "cross_experts"),
        ({"senet_reduction": 0}, "senet_reduction"),
        ({"bilinear_weights": "some"}, "bilinear_weights"),
        ({"stream_heads": 5}, "stream_heads"),
        ({"stream_hidden": []}, "stream_hidden"),
        ({"mixture": "moe"}, "mixture"),
        ({"head_experts": 0}, "head_experts"),
        ({"extraction_levels": 0}, "extraction_levels"),
        ({"personal_gates": "always"}, "personal_gates"),
    ],
)
def test_an_impossible_block_names_its_key(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        convert({"kind": "multitask", **wrong}, MultitaskConfig)
