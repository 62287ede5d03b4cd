"""What people are shown."""

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from tamis import views
from tamis.data.write import ImportReport
from tamis.errors import ConfigError
from tamis.evaluate.legend import legend
from tamis.evaluate.report import Curve
from tamis.evaluate.tune import Tuned
from tamis.project import Answer
from tamis.serving.load import LoadReport
from tamis.serving.wire import RecommendReply, ScoredItem, Step


def text(view: Any) -> list[str]:
    """The lines of a view on a wide terminal."""
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(view)
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (float("nan"), "–"), (0.0, "0.0000"), (12.0, "12"), (1234567.0, "1,234,567"), (0.12345, "0.1235")],
)
def test_numbers_are_as_a_person_reads_them(value: float | None, shown: str) -> None:
    assert views.number(value) == shown


def test_a_grid_has_a_dash_for_what_is_not_there_and_its_title_on_one_line() -> None:
    lines = text(views.grid("A title wider than its table", {"a": {"x": 1.0, "y": 20.0}, "b": {"y": 0.5}}))
    assert lines[0] == "A title wider than its table"
    assert [line.split() for line in lines[1:]] == [["x", "y"], ["a", "1.0000", "20"], ["b", "–", "0.5000"]]


def test_a_page_shows_its_items_and_its_steps_when_asked_for() -> None:
    items = [ScoredItem("i7", 0.51234, "newest", "just published"), ScoredItem("[b]", 0.1, "", "")]
    step = Step("recall", "away", "source", 0, 0, 1.234, "failed", "OSError: gone", {})
    plain = RecommendReply("r", "u", "b", True, {}, items)
    lines = text(views.page(Answer(plain)))
    assert lines[1].split() == ["1", "i7", "0.5123", "newest", "just", "published"]
    assert lines[2].split() == ["2", "[b]", "0.1000"]
    lines = text(views.page(Answer(msgspec.structs.replace(plain, trace=[step]))))
    assert lines[-1].split() == ["recall", "away", "0", "0", "1.23", "failed", "OSError:", "gone"]


def test_an_import_shows_counts_span_and_what_was_rejected() -> None:
    counts = {"users": 2, "events": 3}
    report = ImportReport(counts, {"users": 5, "events": 9}, {}, {}, {"bad time": 1}, {"click": 3}, (0.0, 86400.0), 0.1)
    lines = text(views.imported(report))
    assert "events from 1970-01-01 00:00 to 1970-01-02 00:00 UTC: click 3" in lines
    assert lines[-1] == "rejected: 1 rows, bad time"


def test_ratios_and_load_show_one_line_each() -> None:
    rows = [{"name": "speed [x]", "ours": 2.0, "peer": 1.0, "ratio": 2.0, "unit": "1/s", "wanted": "≥ 1"}]
    lines = text(views.ratios(rows))
    assert lines[1].split() == ["speed", "[x]", "2.000", "1.000", "1/s", "2.00", "≥", "1"]
    report = LoadReport(10, 1.0, 10, 10, 1, 2, 3, 4, 5, 0, 0, {"429": 2}, 0.5, 3, 0.1)
    assert "errors {'429': 2}" in [" ".join(line.split()) for line in text(views.load(report))]


def test_training_and_report_are_shown_whole(tiny: Any) -> None:
    shown = "\n".join(text(views.report(tiny.trained.report)))
    assert f"bundle {tiny.trained.report.bundle}" in shown
    for title, rows in tiny.trained.report.tables():
        assert not rows or title in shown
    assert "Features in the training rows" in shown
    assert "user.gender" in shown
    shown = "\n".join(text(views.trained(tiny.trained)))
    assert f"bundle {tiny.trained.bundle.name}: published" in shown
    assert "rank.heads" in shown


def test_every_word_of_a_report_is_explained(tiny: Any) -> None:
    words = dict(legend(tiny.trained.report))
    pages = {"tamis", "popular", "random", "oracle"}
    for title, rows in tiny.trained.report.tables():
        known = [word.rstrip("k") if word.endswith("@k") else word for word, _ in words[title]]
        names = {name for row in rows.values() for name in row} | (pages & set(rows) if title == "Page" else set())
        assert not {name for name in names if not any(name == word or name.startswith(word) for word in known)}
    shown = "\n".join(text(views.report(tiny.trained.report)))
    assert "survival" in shown.split("What the words mean")[1]
    assert "… alone" in shown
    assert "mae_seconds" in shown
    assert [word for word, _ in words["Stages"] if word.startswith("kept")] == ["kept@k"]


def test_a_report_says_on_how_few_users_it_stands_and_how_much_is_held_out(tiny: Any) -> None:
    few = msgspec.structs.replace(
        tiny.trained.report, users=10, learnt_from=100, held_out=60, interval=(0.0123, 0.4), test_since=0.0,
        page={"ndcg@10": 0.1234},
        baselines={},
    )  # fmt: skip
    lines = text(views.report(few))
    assert lines[0].startswith("10 users and ")
    assert "1970-01-01 00:00 to " in lines[0]
    assert lines[1].startswith("60 events are held out, 100 came before; more than a third")
    assert lines[2] == "ndcg@10 of the page 0.12, 95 % interval 0.01 … 0.40"
    assert lines[3].startswith("10 users are few")
    page = lines.index("Page")
    assert lines[page + 1].split() == ["ndcg@10", "diversity", "authors", "new_share"]
    assert lines[page + 2].split() == ["tamis", "0.12", "–", "–", "–"]
    many = "\n".join(text(views.report(msgspec.structs.replace(few, users=100, held_out=50))))
    assert "few" not in many
    assert "third" not in many
    assert "ndcg@10 of the page 0.1234, 95 % interval 0.0123 … 0.4000" in many
    nobody = text(views.report(msgspec.structs.replace(few, users=0, interval=())))
    assert nobody[2].startswith("nobody could be judged")


def test_what_a_search_found_is_shown_with_a_line_to_paste() -> None:
    numbers = {"weights": {"like": 2.5}}
    line = 'fuse = { kind = "fuse", weights = { like = 2.5 } }'
    found = Tuned(
        bundle="b", step="rank.fuse", trials=100, searched=20, judged=41, before=0.1, after=0.12, difference=0.02,
        low=-0.01, high=0.05, numbers=numbers, toml=line,
    )  # fmt: skip
    lines = text(views.tuned(found))
    where = "In tamis.toml, in place of fuse below [funnel.rank.steps] (or of the table [funnel.rank.steps.fuse]):"
    assert lines[-2:] == [where, line]
    assert (
        "difference +0.0200, 95 % interval -0.0100 … +0.0500; it may be chance (100 trials on 20 other users)" in lines
    )
    assert "chance" not in "".join(text(views.tuned(msgspec.structs.replace(found, low=0.01))))
    few = msgspec.structs.replace(found, low=0.01, judged=4)
    assert "so few users say little" in "".join(text(views.tuned(few)))
    worse = msgspec.structs.replace(found, after=0.09, difference=-0.01, toml="")
    assert text(views.tuned(worse))[-1] == "no better setting found; keep what is configured"
    assert "chance" not in "".join(text(views.tuned(worse)))


def test_reliability_is_two_lines_per_head_on_one_scale() -> None:
    curves = {
        "click": Curve(rows=(5, 5, 5), predicted=(0.0, 0.2, 0.4), observed=(0.1, 0.2, 0.8)),
        "like": Curve(rows=(15,), predicted=(0.01,), observed=(0.02,)),
    }
    lines = [line.split() for line in text(views.reliability(curves))[2:]]
    assert lines[0] == ["click", "predicted", "0.0000", "0.2000", "0.4000", "▂▄"]
    assert lines[1] == ["observed", "0.1000", "0.2000", "0.8000", "▁▂█"]
    assert lines[2:] == [["like", "predicted", "0.0100", "▄"], ["observed", "0.0200", "█"]]


def test_lines_of_a_file_are_its_ids(tmp_path: Path) -> None:
    assert views.lines(None) == ()
    (tmp_path / "users").write_text(" a \n\nb\n")
    assert views.lines(tmp_path / "users") == ("a", "b")
    wrong = (("none", None, "No such file"), ("empty", b"\n", "no user ids"), ("odd", b"\xff", "not UTF-8"))
    for name, content, words in wrong:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=f"{name}: {words}[^/]*$"):
            views.lines(tmp_path / name)
