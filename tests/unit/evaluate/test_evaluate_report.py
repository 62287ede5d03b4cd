import math
from pathlib import Path

import pytest
from msgspec.structs import replace

from tamis.artifact import BundleWriter, publish
from tamis.errors import DataError
from tamis.evaluate.report import Report, known
from tamis.train import _gate


def report(ndcg: float) -> Report:
    page = {"ndcg@10": ndcg}
    return Report("b", 1, 1, 0.0, 1.0, {}, {}, {}, page, {"itemcf alone": known({"diversity": math.nan})}, {})


def serve(root: Path, served: bytes) -> None:
    bundle = BundleWriter(root).finish({"code_version": "0", "config_digest": "d", "seed": 1, "trained_to": 0.0})
    publish(bundle)
    (root / f"{bundle.name}.report.json").write_bytes(served)


def test_a_number_that_is_not_finite_is_left_out_and_the_rest_stays() -> None:
    assert known({"a": 1.0, "b": math.nan, "c": math.inf, "d": 0.0}) == {"a": 1.0, "d": 0.0}


def test_a_report_comes_back_as_it_was_written() -> None:
    assert Report.from_json(report(0.5).to_json()) == report(0.5)


def test_a_report_with_a_hole_is_refused() -> None:
    holed = replace(report(0.5), page={"ndcg@10": math.nan})
    with pytest.raises(DataError, match="null"):
        Report.from_json(holed.to_json())


def test_the_report_of_a_real_evaluation_comes_back_as_it_was_written(tiny) -> None:
    assert Report.from_json(tiny.trained.report.to_json()) == tiny.trained.report


@pytest.mark.parametrize(("new", "published"), [(0.51, True), (0.41, True), (0.39, False)])
def test_the_gate_holds_back_a_page_that_is_clearly_worse_than_the_served_one(
    tiny, tmp_path: Path, new: float, published: bool
) -> None:
    serve(tmp_path, report(0.5).to_json())
    assert _gate(tiny.project.config.train, tmp_path, report(new)) is published


def test_a_page_that_nobody_could_be_judged_on_is_published_with_a_warning(tiny, tmp_path: Path, capsys) -> None:
    serve(tmp_path, report(0.5).to_json())
    assert _gate(tiny.project.config.train, tmp_path, replace(report(0.0), users=0))
    assert "no held-out user could be judged" in capsys.readouterr().out
