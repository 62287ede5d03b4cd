"""Settings that cannot work fail when they are read, with the path of the key, and not an hour later in a training."""

import re
import tomllib
from importlib import resources
from typing import Any

import pytest

from tamis.assemble import ProjectConfig, part_of
from tamis.config import convert, override
from tamis.errors import ConfigError
from tamis.serving.load import LoadPlan

DEMO = tomllib.loads((resources.files("tamis") / "configs/demo.toml").read_text(encoding="utf-8"))
STEPS = convert(DEMO, ProjectConfig).funnel.recall.steps
SOURCES = [name for name, step in STEPS.items() if hasattr(part_of(step), "recall")]
FUSE = "funnel.rank.steps.fuse"
TOWER, LIGHT, HEADS = "funnel.recall.steps.two_tower", "funnel.prerank.steps.three_tower", "funnel.rank.steps.heads"


def patched(path: str, value: Any) -> dict[str, Any]:
    """The demo's configuration with one key set; sections on the way are copied or made."""
    tree = node = dict(DEMO)
    *parents, last = path.split(".")
    for name in parents:
        node[name] = dict(node.get(name, {}))
        node = node[name]
    node[last] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.interest_actions", ["click", "stare"]),
        ("train.interest_actions", []),
        ("train.keep_bundles", -1),
        ("train.keep_bundles", 1),
        ("train.gate", 1.5),
        ("train.seed", -1),
        ("funnel.recall.quotas", {"two_tower": 500}),
        ("funnel.recall.quotas", dict.fromkeys(SOURCES, 0)),
        ("funnel.recall.quotas", dict.fromkeys([*SOURCES, "nobody"], 1)),
        ("funnel.prerank.quotas", {"three_tower": 5}),
        ("funnel.recall.source_budget_ms", {"itemcf": 5.0}),
        ("funnel.recall.source_budget_ms", {"unseen": 5.0}),
        ("funnel.rank.fallback", "nobody"),
        ("funnel.rank.fallback", "fuse"),
        ("funnel.recall.fallback", "seen"),
        ("funnel.prerank.fallback", "three_tower"),
        ("evaluate.positive", ["stare"]),
        ("evaluate.positive", []),
        ("evaluate.most_users", 0),
        ("samples.positives", ["impression"]),
        ("samples.labels", ["impression"]),
        ("samples.popularity_power", -1.0),
        ("split.offset_hours", 48.0),
        ("split.test_since", -1.0),
        ("serving.workers", 0),
        ("serving.threads", 0),
        ("serving.queue", -1),
        ("serving.deadline_ms", 0.0),
        ("serving.most_items", 0),
        ("serving.most_events", 0),
        ("serving.most_body_bytes", 0),
        ("serving.clock_tolerance_seconds", -1.0),
        ("serving.reload_seconds", 0.0),
        ("serving.rest_port", 0),
        ("serving.rest_port", 70_000),
        ("features.refresh_hours", 0.0),
        ("features.refresh_hours", float("nan")),
        ("features.item.click_rate.prior", 0.0),
        ("features.item.duration.count", 0),
        ("features.item.keywords.width", 0),
        ("features.user.user_id.min_count", -1),
        ("features.item.quality.lowest", 2e12),
        ("features.item.duration.edges", [3.0, 1.0]),
        ("features.history.length", 0),
        ("features.history.fields", ["item_id", "quality"]),
        ("features.history.fields", ["item_id", "item_id"]),
        ("funnel.recall.limit", -5),
        ("funnel.recall.budget_ms", -1.0),
        ("funnel.recall.steps.popular.limit", -5),
        ("funnel.rerank.steps.diverse.limit", -5),
        ("funnel.recall.steps.seen.limit", 5),
        ("funnel.prerank.steps.three_tower.limit", 5),
        (f"{TOWER}.positives", ["stare"]),
        (f"{TOWER}.epochs", 0),
        (f"{TOWER}.learning_rate", 0.0),
        (f"{TOWER}.index", {"exact_up_to": -1}),
        (f"{TOWER}.extra_negatives", -1),
        (f"{LIGHT}.heads", ["click", "stare"]),
        (f"{LIGHT}.unshown", -1),
        (f"{HEADS}.heads", ["stare"]),
        (f"{HEADS}.head_weights", {"comment": 2.0}),
        (f"{HEADS}.head_weights", {"click": -1.0}),
        (f"{HEADS}.embedding_spread", -0.1),
        (f"{FUSE}.weights", {"like": 2.0, "profile_enter": 1.0}),
        (f"{FUSE}.weights", {"vector": 2.0}),
        (f"{HEADS}.batch_size", 0),
        (f"{HEADS}.threads", 0),
        (f"{HEADS}.play_limit_seconds", 0.0),
        (f"{HEADS}.tower_hidden", [0]),
        ("funnel.rank.steps.fuse.weights.like", float("inf")),
    ],
)
def test_an_impossible_setting_fails_with_its_path(path: str, value: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        convert(patched(path, value), ProjectConfig)
    message = str(refused.value)
    assert "[...]" not in message
    section, key = path.split(".")[0], path.split(".")[-1]
    assert section in message
    assert re.search(rf"\b{key}\b", message), message


@pytest.mark.parametrize("name", ["../outside", "a/b", "a.b", ""])
def test_a_step_that_could_not_be_a_folder_is_refused(name: str) -> None:
    tree = patched("funnel.recall.steps", {name: {"kind": "seen"}})
    with pytest.raises(ConfigError, match=r"funnel\.recall\.steps"):
        convert(tree, ProjectConfig)


def test_two_sources_of_one_name_are_refused_before_anything_is_trained() -> None:
    with pytest.raises(ConfigError, match=r"funnel\.prerank\.steps\.popular: another source"):
        convert(patched("funnel.prerank.steps.popular", {"kind": "popular"}), ProjectConfig)


def test_a_fallback_is_a_scorer_of_an_optional_stage_whose_columns_no_fusion_may_read() -> None:
    config = convert(DEMO, ProjectConfig)
    light = {"funnel.rank.steps.light": {"kind": "light_rank"}, "funnel.rank.fallback": "light"}
    assert override(config, light).funnel.rank.fallback == "light"
    with pytest.raises(ConfigError, match=r"funnel\.rank\.fallback wants optional = true"):
        override(config, {**light, "funnel.rank.optional": False})
    tree = patched("funnel.rank.fallback", "light")
    fuse = {"kind": "fuse", "formula": "expression", "expression": "light_click"}
    steps = {"light": {"kind": "light_rank"}, "heads": {"kind": "multitask"}, "fuse": fuse}
    tree["funnel"]["rank"] = {**tree["funnel"]["rank"], "steps": steps}
    with pytest.raises(ConfigError, match="light_click"):
        convert(tree, ProjectConfig)
    del tree["funnel"]["rank"]["fallback"]
    assert convert(tree, ProjectConfig).funnel.rank.steps["fuse"].reads == ("light_click",)


def test_quotas_of_every_source_and_budgets_in_threads_are_fine_and_one_key_is_a_patch() -> None:
    quotas = dict.fromkeys(SOURCES, 50)
    config = convert(patched("funnel.recall.quotas", quotas), ProjectConfig)
    assert override(config, {"funnel.recall.quotas.newest": 400}).funnel.recall.quotas["newest"] == 400
    threads = {"funnel.recall.parallel": True, "funnel.recall.source_budget_ms": {"two_tower": 5.0}}
    assert override(config, threads).funnel.recall.source_budget_ms == {"two_tower": 5.0}


@pytest.mark.parametrize(
    "fuse",
    [
        {"kind": "fuse", "formula": "power_product", "weights": {"click": 1.0, "play": 0.1, "quality": 1.0}},
        {"kind": "fuse", "formula": "rank_sum", "weights": {"pre_click": 1.0, "pre_shown": 1.0, "score": 1.0}},
        {"kind": "fuse", "formula": "conversion_product", "exponents": {"like": 1.0, "publish_time": 0.1}},
    ],
)
def test_heads_of_a_fusion_may_be_what_an_earlier_step_writes_or_the_catalogue_has(fuse: dict[str, Any]) -> None:
    steps = convert(patched(FUSE, fuse), ProjectConfig).funnel.rank.steps
    assert steps["fuse"].formula == fuse["formula"]


def test_a_fusion_before_the_step_that_predicts_its_heads_is_refused() -> None:
    tree = patched("funnel.prerank.steps.early", {"kind": "fuse", "formula": "power_product", "weights": {"like": 1.0}})
    with pytest.raises(ConfigError, match=r"funnel\.prerank\.steps\.early\.weights: .*\['like'\]"):
        convert(tree, ProjectConfig)
    tree = patched(f"{HEADS}.heads", ["like", "collect", "share", "follow"])
    with pytest.raises(ConfigError, match=r"click_times_sum reads heads \['click'\]"):
        convert(tree, ProjectConfig)


def test_a_fusion_with_a_factor_that_nobody_writes_or_a_constant_that_hides_a_head_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"steps\.fuse\.factors names \['pre_shwon'\], columns that no step before it"
    ):
        convert(patched(f"{FUSE}.factors", {"pre_shwon": 1.0}), ProjectConfig)
    hiding = {"kind": "fuse", "formula": "expression", "expression": "click * quality * like"}
    convert(patched(FUSE, hiding), ProjectConfig)
    for name in ("click", "quality"):
        with pytest.raises(ConfigError, match=rf"steps\.fuse\.constants names \['{name}'\], which are heads"):
            convert(patched(FUSE, {**hiding, "constants": {name: 2.0}}), ProjectConfig)


def test_the_demo_itself_is_fine() -> None:
    assert convert(DEMO, ProjectConfig).serving.workers == 1


@pytest.mark.parametrize(("rate", "seconds"), [(0.0, 1.0), (1.0, 0.0), (float("inf"), 1.0)])
def test_a_load_that_cannot_be_sent_is_refused(rate: float, seconds: float) -> None:
    with pytest.raises(ConfigError, match="wanted both above 0"):
        LoadPlan(url="http://x", rate=rate, seconds=seconds)


@pytest.mark.parametrize("over", ["nobody", "popular", "cached", "like"])
def test_a_channel_made_of_another_one_wants_it_before_itself_and_able(over: str) -> None:
    made = {"kind": "similar_items", "over": over}
    with pytest.raises(ConfigError, match=rf"funnel\.recall\.steps\.like\.over: '{over}' .* \['two_tower', 'itemcf'"):
        convert(patched("funnel.recall.steps.like", made), ProjectConfig)
    assert convert(patched("funnel.recall.steps.like", made | {"over": "content"}), ProjectConfig)


def test_a_search_wants_a_long_history_that_the_state_keeps_and_a_feature_to_search_by() -> None:
    config = convert(DEMO, ProjectConfig)
    long, search = {"features.history.long_length": 3_000}, {f"{HEADS}.search": "hard"}
    kept = {"state.timeline_limit": 5_000}
    for patch, message in (
        (long, r"state\.timeline_limit is \d+: wanted at least features\.history\.long_length, 3000"),
        (search, r"funnel\.rank\.steps\.heads\.search = .hard. wants a features\.history\.long_length above 0"),
        ({**long, **kept, **search, f"{HEADS}.search_field": "vector"}, r"heads\.search_field: 'vector' .*'category'"),
        (
            {"features.history.long_length": 10},
            r"features\.history\.long_length is 10: wanted 0, or at least the length \d+",
        ),
        ({"features.history.last_n": ["hide"]}, r"last_n names \['hide'\]"),
        ({"features.history.last_n": ["click", "click"]}, "wanted each once"),
    ):
        with pytest.raises(ConfigError, match=message):
            override(config, patch)
    assert override(config, {**long, **kept, **search}).funnel.rank.steps["heads"].search == "hard"


def test_a_bound_of_memory_names_what_wants_the_whole_log() -> None:
    alone = {
        "funnel.recall.steps": {"popular": {"kind": "popular"}},
        "funnel.prerank.steps": {},
        FUSE: {"kind": "fuse", "weights": {"like": 1.0}},
        f"{HEADS}.heads": ["click", "like"],
        "features.history.long_length": 300,
        "state.timeline_limit": 300,
    }
    config = override(convert(DEMO, ProjectConfig), alone)
    bound = {"train.memory_gib": 1.0}
    assert override(config, bound).train.memory_gib == 1.0
    for patch, wanting in (
        ({"funnel.recall.steps.next": {"kind": "sequential"}}, r"funnel\.recall\.steps\.next \(sequential\) wants"),
        ({"funnel.recall.steps.towers": {"kind": "two_tower", "hard_share": 0.1}}, r"towers\.hard_share wants"),
        ({LIGHT: {"kind": "three_tower", "distill": 0.5}}, r"three_tower\.distill wants"),
        ({f"{HEADS}.search": "hard"}, r'heads\.search = "hard" wants'),
        ({"features.history.last_n": ["click"]}, r"features\.history\.last_n wants"),
    ):
        assert override(config, patch).train.memory_gib == 0
        with pytest.raises(ConfigError, match=rf"train\.memory_gib: .*{wanting} the whole log in memory"):
            override(config, {**patch, **bound})
