import shutil
from typing import Any

from tamis.artifact import open_bundle
from tamis.assemble import load_model
from tamis.serving.engine import Engine
from tamis.serving.wire import RecommendRequest
from tamis.state.memory import Memory


def test_a_model_goes_on_when_its_bundle_is_deleted(tiny: Any, tmp_path: Any) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(open_bundle(tiny.project.bundles).path, copy)
    engine = Engine(load_model(open_bundle(copy)), Memory())
    shutil.rmtree(copy)
    item = engine.recommend(RecommendRequest(user_id="1", size=5)).items[0].item_id
    assert engine.item(item).item_id == item
    assert engine.similar(item, 3).items
