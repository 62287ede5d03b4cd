"""The commands as a person types them, over a copy of the tiny project."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
import structlog
from typer.testing import CliRunner, Result

from tamis import __version__, cli, demo
from tamis.cli import app, main, setting
from tamis.data.dataset import Dataset
from tamis.errors import ConfigError, DataError
from tamis.project import TEMPLATES
from tamis.serving.load import LoadReport

MAPPING = """
[[events]]
file = "log.csv"
columns = { user_id = "uid", item_id = "vid" }
times = { time = { column = "at" } }
emit = [{ action = "click" }]
"""


@pytest.fixture(autouse=True)
def log_apart() -> Iterator[None]:
    """The log on standard error, as the entry point has it."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def feed(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny project."""
    folder = tmp_path_factory.mktemp("cli") / "feed"
    shutil.copytree(tiny.project.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("state"))
    config = (folder / "tamis.toml").read_text().replace("epochs = 2 }", "epochs = 2, threads = 1 }")
    (folder / "tamis.toml").write_text(config)  # as the tiny project was trained
    return folder


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def good(*words: str | Path) -> str:
    done = run(*words)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the entry point with some words, gives its exit code."""

    def call(*words: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["tamis", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return call


def test_the_version_is_printed() -> None:
    assert good("--version") == f"tamis {__version__}\n"


@pytest.mark.parametrize("template", TEMPLATES)
def test_init_writes_a_folder_once(tmp_path: Path, template: str) -> None:
    assert "tamis.toml" in good("init", tmp_path / "feed", "--from", template)
    done = run("init", tmp_path / "feed", "--from", template)
    assert isinstance(done.exception, ConfigError)
    assert isinstance(run("init", tmp_path / "x", "--from", "nothing").exception, ConfigError)
    assert not (tmp_path / "x").exists()


def test_import_reads_a_folder_by_a_mapping_and_says_what_it_did(tmp_path: Path) -> None:
    good("init", tmp_path / "feed")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/log.csv").write_text("uid,vid,at\nu,a,1700000000\nv,a,1700000001\nv,b,soon\n")
    (tmp_path / "map.toml").write_text(MAPPING)
    words = ["import", "table", tmp_path / "logs", "--into", tmp_path / "feed", "--mapping", tmp_path / "map.toml"]
    refused = run(*words)
    assert isinstance(refused.exception, DataError)
    assert "33.3%" in str(refused.exception)
    report = json.loads(good(*words, "--most-rejected", "0.5", "--json"))
    assert report["added"] == {"users": 2, "items": 1, "requests": 0, "events": 2}
    shown = good(*words, "--most-rejected", "0.5")
    assert "no new events" in shown
    assert "rejected: 1 rows" in shown


def test_options_of_a_source_are_reached_from_the_command_line(tmp_path: Path) -> None:
    good("init", tmp_path / "feed")
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml/ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,10,3.5,1000000000\n1,11,2,1000000001\n"
    )
    (tmp_path / "ml/movies.csv").write_text("movieId,title,genres\n10,A (1990),Drama\n11,B (1991),Comedy\n")
    words = ["import", "movielens", tmp_path / "ml", "--into", tmp_path / "feed"]
    wrong = run(*words, "--option", "positive=3")
    assert isinstance(wrong.exception, ConfigError)
    assert "positive" in str(wrong.exception)
    report = json.loads(good(*words, "--option", "positive_rating=3.5", "--json"))
    assert report["actions"] == {"click": 1, "rate": 2}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("a=1", ("a", 1)), ("a=false", ("a", False)), ("a = [1]", ("a", [1])), ("a=x y", ("a", "x y")), ("a=", ("a", ""))],
)
def test_a_setting_is_a_toml_value_or_else_text(text: str, wanted: tuple[str, Any]) -> None:
    assert setting(text) == wanted


@pytest.mark.parametrize("text", ["a", "=1", ""])
def test_a_setting_without_a_name_or_a_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="wanted NAME=VALUE"):
        setting(text)


def test_an_import_into_a_served_project_reaches_its_state(feed: Path, tiny: Any, tmp_path: Path) -> None:
    user, item = tiny.dataset.user_ids.external(5), tiny.dataset.item_ids.external(5)
    folder = tmp_path / "feed"
    shutil.copytree(feed, folder, symlinks=True)
    good("recommend", folder, "--user", user)
    row = {"user_id": [user], "item_id": [item], "action": ["like"], "time": [tiny.dataset.span()[1] + 5.0]}
    (tmp_path / "raw").mkdir()
    pl.DataFrame(row).write_parquet(tmp_path / "raw/events.parquet")
    good("import", "tamis", tmp_path / "raw", "--into", folder)
    assert Dataset.open(folder / "data").manifest.imports == 2


def test_tune_prints_numbers_to_paste_and_changes_nothing(feed: Path) -> None:
    pytest.importorskip("optuna", reason="the extra `tune` is not installed")
    before = (feed / "tamis.toml").read_text(), sorted(file.name for file in (feed / "bundles").iterdir())
    shown = good("tune", feed, "--trials", "2")
    assert "95 % interval" in shown
    found = json.loads(good("tune", feed, "--trials", "2", "--json"))
    wanted = found["toml"] or "no better setting found; keep what is configured"
    assert wanted in shown.splitlines()  # however long: an inline table is one line
    assert run("tune", feed, "--trials", "0").exit_code == 2
    assert ((feed / "tamis.toml").read_text(), sorted(file.name for file in (feed / "bundles").iterdir())) == before


def test_train_publishes_and_prints_what_it_did(feed: Path) -> None:
    shown = good("train", feed, "--only", "popular", "--only", "itemcf", "--since", "2020-01-01")
    assert "published" in shown
    assert "recall.itemcf" in shown
    assert "recall.two_tower" not in shown.split("Seconds")[1]
    assert json.loads(good("train", feed, "--only", "popular", "--json"))["page"]


def test_a_training_that_the_gate_holds_back_fails(feed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tamis.train._gate", lambda *_: False)
    done = run("train", feed, "--only", "popular")
    assert done.exit_code == 1
    assert "held back" in done.stdout


def test_evaluate_prints_the_report_and_writes_it(feed: Path, tmp_path: Path) -> None:
    shown = good("evaluate", feed, "--json", tmp_path / "report.json")
    assert "users and" in shown
    assert json.loads((tmp_path / "report.json").read_bytes())["page"]["ndcg@10"] >= 0


def test_recommend_prints_a_page_and_what_each_step_did(feed: Path, tiny: Any) -> None:
    user = tiny.dataset.user_ids.external(0)
    page = json.loads(good("recommend", feed, "--user", user, "--size", "5", "--json"))
    assert len(page["items"]) == 5
    assert "trace" not in page
    shown = good("recommend", feed, "--user", "nobody", "--explain")
    assert "two_tower" in shown
    assert "status" in shown


def test_wrong_usage_is_exit_code_2(failing: Callable[..., int], feed: Path) -> None:
    for words in (["no-such-command"], ["recommend", feed], ["recommend", feed, "--user", "1", "--size", "0"]):
        assert failing(*words) == 2
    assert failing("serve", feed, "--rest", "70000") == 2
    assert failing("import", "table", feed, "--into", feed, "--most-rejected", "2") == 2


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("wrong key"), "tamis: wrong key"),
        (PermissionError(13, "Permission denied", "x.json"), "tamis: x.json: Permission denied"),
        (OSError("odd"), "tamis: OSError: odd"),
        (pl.exceptions.ComputeError("bad cast\nand a long story"), "tamis: ComputeError: bad cast"),
        (httpx.ConnectError("refused\nmore"), "tamis: ConnectError: refused"),
        (httpx.ReadTimeout(""), "tamis: ReadTimeout: no reason given"),
    ],
)
def test_a_failure_is_one_line_and_exit_code_1(
    failing: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    line: str,
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert failing() == 1
    assert capsys.readouterr().err == line + "\n"
    monkeypatch.setenv("TAMIS_DEBUG", "1")
    assert failing() == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "app", bug)
    with pytest.raises(ZeroDivisionError):
        main()


def test_a_report_that_cannot_be_written_fails_before_the_work(
    failing: Callable[..., int], feed: Path, capfd: Any
) -> None:
    report = feed / "none" / "report.json"
    assert failing("evaluate", feed, "--json", report) == 1
    assert capfd.readouterr().err == f"tamis: {report}: there is no folder {report.parent}\n"


def test_a_project_wants_a_folder_and_no_file(failing: Callable[..., int], tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "taken").write_text("x")
    assert failing("init", tmp_path / "taken") == 1
    assert capfd.readouterr().err == f"tamis: {tmp_path / 'taken'} is a file; wanted a folder\n"


def test_ctrl_c_while_the_command_line_is_imported_is_no_traceback() -> None:
    code = "import runpy, sys\nsys.modules['tamis.cli'] = Stopped()\nrunpy.run_module('tamis', run_name='__main__')"
    stopped = "class Stopped:\n    def __getattr__(self, name): raise KeyboardInterrupt\n"
    done = subprocess.run([sys.executable, "-c", stopped + code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


def test_serve_without_a_bundle_fails_before_any_worker_starts(failing: Callable[..., int], tmp_path: Path) -> None:
    good("init", tmp_path / "feed")
    assert failing("serve", tmp_path / "feed") == 1


def test_load_wants_an_address_and_users(failing: Callable[..., int], tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    assert failing("load", "ftp://nowhere") == 1
    assert failing("load", "http://127.0.0.1:1", "--users", tmp_path / "empty") == 1
    assert failing("load", "http://127.0.0.1:1", "--rate", "0") == 1
    assert failing("load", "http://127.0.0.1:1", "--seconds", "1") == 1


def test_a_load_run_in_which_nothing_was_answered_fails(
    failing: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = LoadReport(**dict.fromkeys(LoadReport.__struct_fields__, 0.0) | {"errors": {"503": 9}})
    monkeypatch.setattr(cli, "run_load", lambda plan: report)
    assert failing("load", "http://127.0.0.1:1", "--json") == 1


def test_bench_runs_the_scripts_of_the_source_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="none; run it in a checkout"):
        demo.benchmarks("")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/_shared.py").write_text("raise SystemExit(3)")
    (tmp_path / "benchmarks/one.py").write_text("""print('RESULT {"name": "x", "ours": 2.0, "peer": 1.0}')""")
    assert json.loads(good("bench", "--json")) == [{"name": "x", "ours": 2.0, "peer": 1.0}]
    (tmp_path / "benchmarks/two.py").write_text("raise SystemExit(3)")
    assert run("bench", "two").exit_code == 1
    assert isinstance(run("bench", "three").exception, ConfigError)


def test_bench_names_the_packages_that_a_script_lacks_before_it_runs_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/_peer.py").write_text("import json\nfrom no_such_peer.nets import Net\n")
    (tmp_path / "benchmarks/one.py").write_text("from pathlib import Path\nPath('ran').touch()")
    (tmp_path / "benchmarks/two.py").write_text("import _peer\n\n\ndef other():\n    import never_asked_for\n")
    for words in (["bench"], ["bench", "two"]):
        said = str(run(*words).exception)
        assert said.startswith("two needs no_such_peer; ")
        assert "pip install 'tamis[train,bench]'" in said
    assert not (tmp_path / "ran").exists()
    assert good("bench", "one")
    assert (tmp_path / "ran").exists()
