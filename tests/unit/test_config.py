from pathlib import Path

import pytest

from tamis.config import Config, StepConfig, convert, digest, override, read
from tamis.errors import ConfigError


class One(StepConfig, frozen=True, tag="one"):
    weight: float = 1.0


class Two(StepConfig, frozen=True, tag="two"):
    weights: dict[str, float] = {}


class Tree(Config, frozen=True):
    name: str = ""
    steps: dict[str, One | Two] = {}


def tree(**steps: dict) -> Tree:
    return convert({"steps": steps}, Tree)


def test_a_misspelt_key_fails_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"wieght.*\$\.steps\.a`"):
        tree(b={"kind": "one"}, a={"kind": "one", "wieght": 2.0})


def test_a_wrong_value_of_a_mapping_in_a_mapping_fails_with_both_keys() -> None:
    with pytest.raises(ConfigError, match=r"`\$\.steps\.b\.weights\.like`"):
        tree(a={"kind": "one"}, b={"kind": "two", "weights": {"share": 1.0, "like": "much"}})


def test_an_unknown_kind_fails_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"Invalid value 'three'.*kind"):
        tree(a={"kind": "three"})


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tamis init"):
        read(tmp_path / "tamis.toml", Tree)


def test_broken_toml_names_the_file_and_the_line(tmp_path: Path) -> None:
    path = tmp_path / "tamis.toml"
    path.write_text("name = \n")
    with pytest.raises(ConfigError, match=r"tamis\.toml.*line 1"):
        read(path, Tree)


def test_text_that_is_not_utf8_is_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "tamis.toml"
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match="not valid TOML"):
        read(path, Tree)


def test_override_changes_a_copy_and_leaves_the_original() -> None:
    before = tree(a={"kind": "one"}, b={"kind": "two", "weights": {"like": 1.0}})
    after = override(before, {"steps.a.weight": 3.0, "steps.b.weights.share": 2.0})
    assert after.steps["a"].weight == 3.0
    assert after.steps["b"].weights == {"like": 1.0, "share": 2.0}
    assert before.steps["a"].weight == 1.0
    assert before.steps["b"].weights == {"like": 1.0}


def test_override_can_remove_and_add_a_step() -> None:
    after = override(tree(a={"kind": "one"}), {"steps.a": None, "steps.c": {"kind": "two"}})
    assert list(after.steps) == ["c"]


@pytest.mark.parametrize("path", ["steps.nowhere.weight", "steps.a.nothing", "name.deeper"])
def test_override_of_what_is_not_there_names_the_path(path: str) -> None:
    with pytest.raises(ConfigError):
        override(tree(a={"kind": "one"}), {path: 1.0})


def test_removing_what_is_not_there_is_a_misspelling() -> None:
    with pytest.raises(ConfigError, match=r"override steps\.b: there is no 'b' to remove"):
        override(tree(a={"kind": "one"}), {"steps.b": None})


def test_digest_follows_values_not_the_order_of_keys() -> None:
    one = convert({"steps": {"a": {"kind": "one"}, "b": {"kind": "two"}}}, Tree)
    other = convert({"steps": {"b": {"kind": "two"}, "a": {"kind": "one", "weight": 1.0}}}, Tree)
    assert digest(one) == digest(other)
    assert digest(one) != digest(override(one, {"steps.a.weight": 1.5}))
