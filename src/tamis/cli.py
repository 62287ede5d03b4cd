"""The command line. Every command is thin: it calls one function and prints what it gives."""

import json
import math
import os
import signal
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import msgspec
import structlog
import typer
from polars.exceptions import PolarsError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tamis import __version__, demo, types, views
from tamis.artifact import open_bundle
from tamis.config import read_toml
from tamis.data.sources import SOURCES, read_source
from tamis.errors import ConfigError, TamisError
from tamis.project import TEMPLATES, create, open_project
from tamis.serving.load import LoadPlan, run_load
from tamis.serving.rest import serve as serve_rest
from tamis.train import Choice

app: Final = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="The whole recommender funnel: from interaction logs to a served, explained feed.",
)  # fmt: skip
WIDE: Final = 150  # columns, where the output is no terminal
out: Final = Console(width=None if sys.stdout.isatty() else WIDE)
err: Final = Console(stderr=True)

Folder = Annotated[Path, typer.Argument(help="The project's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]


@contextmanager
def bars(quiet: bool = False) -> Iterator[types.Progress]:
    """A progress function that draws one bar per kind of work."""
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=quiet or not err.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
                if not err.is_terminal and not quiet:
                    err.print(f"{what} …", highlight=False)
            progress.update(tasks[what], completed=done, total=total)

        yield report


def print_version(asked: bool) -> None:
    """Prints the version and stops, before a command is looked for."""
    if asked:
        out.print(f"tamis {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """The whole recommender funnel: from interaction logs to a served, explained feed."""
    if debug:
        os.environ["TAMIS_DEBUG"] = "1"


@app.command("init")
def init_(folder: Folder, template: Annotated[str, typer.Option("--from", help=", ".join(TEMPLATES))] = "demo") -> None:
    """Write a commented project folder.

    Example: tamis init my-feed --from movielens
    """
    for path in create(folder, template):
        out.print(f"wrote {path}", highlight=False)


@app.command("import")
def import_(  # noqa: PLR0913 - the options of a command are its parameters
    source: Annotated[str, typer.Argument(help="One of: " + ", ".join(sorted(SOURCES)))],
    path: Annotated[Path, typer.Argument(help="The file or folder of the data set, or the mapping TOML of `table`.")],
    into: Annotated[Path, typer.Option("--into", help="The project's folder.")],
    mapping: Annotated[Path | None, typer.Option(help="TOML that says which column is what (source `table`).")] = None,
    option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of the source; may be repeated.")] = None,
    most_rejected: Annotated[float, typer.Option(min=0, max=1, help="Fail above this share of bad rows.")] = 0.01,
    as_json: AsJson = False,
) -> None:
    """Read a known data set, or any CSV or Parquet by a mapping, into the four tables.

    Example: tamis import movielens ml-1m --into my-feed --option positive_rating=3.5
    """
    options = {**(read_toml(mapping) if mapping else {}), **dict(map(setting, option or ()))}
    project = open_project(into)  # a wrong folder should fail before the work, not after it
    with bars(as_json) as progress:
        progress(f"read {source}", 0, 1)
        tables = read_source(source, path, options)
        progress(f"read {source}", 1, 1)
        report = project.bring(tables, most_rejected, progress)
    show(report, as_json, views.imported)


@app.command()
def train(
    folder: Folder,
    since: Annotated[datetime | None, typer.Option(help="Learn from what happened from then on (UTC).")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Train this step and keep the others; may be repeated.")
    ] = None,
    warm: Annotated[bool, typer.Option("--warm", help="Begin with the weights of the last full bundle.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with such a run that was stopped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build every part, evaluate the whole funnel on the held-out days, publish a bundle.

    Example: tamis train my-feed --only itemcf
    """
    project = open_project(folder)
    moment = since.replace(tzinfo=UTC).timestamp() if since else -math.inf
    with bars(as_json) as progress:
        trained = project.train(progress, Choice(moment, tuple(only or ()), warm, resume))
    show(trained.report, as_json, views.report)
    if not as_json:
        out.print(views.trained(trained))
    if not trained.published:
        raise typer.Exit(1)


@app.command("update")
def update_(folder: Folder, as_json: AsJson = False) -> None:
    """Learn from the log since the last bundle what can be learnt between two trainings, publish a bundle.

    Example: tamis update my-feed
    """
    project = open_project(folder)
    with bars(as_json) as progress:
        updated = project.update(progress)
    facts = {
        "bundle": updated.bundle.name,
        "events": updated.events,
        "parts": updated.parts,
        "seconds": updated.seconds,
    }
    show(facts, as_json, lambda _: views.updated(updated))


@app.command()
def evaluate(
    folder: Folder,
    file: Annotated[Path | None, typer.Option("--json", help="Also write the report to this file.")] = None,
    bundle: Annotated[str, typer.Option(help="The bundle's name; the published one when left out.")] = "",
) -> None:
    """Judge a bundle on the held-out days, or on what came after its training: channels, stages, heads, page, latency.

    Example: tamis evaluate my-feed --json report.json
    """
    project = open_project(folder)
    if file is not None and not file.parent.is_dir():
        raise ConfigError(f"{file}: there is no folder {file.parent}")  # before the work, not after it
    with bars() as progress:
        report = project.evaluate(progress, bundle)
    if file is not None:
        file.write_bytes(report.to_json())
    out.print(views.report(report))


@app.command("tune")
def tune_(
    folder: Folder,
    trials: Annotated[int, typer.Option(min=1, max=10_000, help="Sets of weights to try.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of what is drawn.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Search better weights for the fusion on the validation days, print them to paste; changes nothing.

    Example: tamis tune my-feed --trials 200
    """
    project = open_project(folder)
    with bars(as_json) as progress:
        tuned = project.tune(trials, seed, progress)
    show(tuned, as_json, views.tuned)


@app.command()
def recommend(
    folder: Folder,
    user: Annotated[str, typer.Option(help="The user's id.")],
    size: Annotated[int, typer.Option(min=1, help="Items wanted.")] = 20,
    explain: Annotated[bool, typer.Option(help="Show what each step did.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print one page, with the channel and the score of each item.

    Example: tamis recommend my-feed --user 42 --explain
    """
    answer = open_project(folder).recommend(user, size, explain)
    show(answer.reply, as_json, lambda _: views.page(answer))


@app.command()
def serve(
    folder: Folder,
    rest: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the REST server.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes.")] = None,
) -> None:
    """Serve the published bundle over REST; a newer bundle is taken up without a restart.

    Example: tamis serve my-feed --rest 8080 --workers 2
    """
    project = open_project(folder)
    config = msgspec.structs.replace(
        project.config.serving,
        rest_port=rest or project.config.serving.rest_port,
        workers=workers or project.config.serving.workers,
    )
    open_bundle(project.bundles)  # a missing bundle should fail here, with one line, not in every worker
    serve_rest(folder, config)


@app.command()
def load(
    url: Annotated[str, typer.Argument(help="Where the server is, for instance http://127.0.0.1:8080")],
    rate: Annotated[float, typer.Option(help="Requests per second.")] = 100.0,
    seconds: Annotated[float, typer.Option(help="How long.")] = 30.0,
    users: Annotated[Path | None, typer.Option(help="A file with one user id per line.")] = None,
    as_json: AsJson = False,
) -> None:
    """Load a server at an open-loop rate and report the latencies, errors and degraded share.

    Example: tamis load http://127.0.0.1:8080 --rate 100 --seconds 30
    """
    report = run_load(LoadPlan(url=url, rate=rate, seconds=seconds, users=views.lines(users)))
    show(report, as_json, views.load)
    if not report.rate_answered:
        raise typer.Exit(1)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="One benchmark; all when left out.")] = "", as_json: AsJson = False
) -> None:
    """Run the benchmarks of the source tree and print a table of ratios.

    Example: tamis bench speed_itemcf
    """
    results: list[dict[str, Any]] = []
    scripts = demo.benchmarks(name)
    for script in scripts:  # before the first one begins: all of them take long
        if missing := demo.lacking(script):
            need = "`make bench` installs what it needs, or: pip install 'tamis[train,bench]'"
            raise ConfigError(f"{script.stem} needs {', '.join(missing)}; {need}")
    for script in scripts:
        err.print(f"running {script.stem} …", highlight=False)
        done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, check=False)
        results += [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if done.returncode:
            raise typer.Exit(1)
    show(results, as_json, views.ratios)


@app.command("demo")
def demo_(
    folder: Annotated[Path, typer.Argument(help="Where the demo project is built.")] = Path("demo-feed"),
    once: Annotated[bool, typer.Option("--once", help="Stop after the first page.")] = False,
    rest: Annotated[int, typer.Option(min=1, max=65535, help="Port of the REST server.")] = 8080,
) -> None:
    """All of it on the embedded world: build, report, first page, serve.

    Example: tamis demo --once
    """
    with bars() as progress:
        trained = demo.build(folder, progress)
    project = open_project(folder)
    if trained is not None:
        out.print(views.report(trained.report))
        out.print(views.trained(trained))
    user = demo.first_user(project)
    demo.serve_and_show(project, user, rest, once, out)


def setting(text: str) -> tuple[str, Any]:
    """NAME=VALUE as a name and a TOML value; what is no TOML value is text. Raises ConfigError without a name."""
    name, equals, value = text.partition("=")
    if not (name.strip() and equals):
        raise ConfigError(f"--option {text}: wanted NAME=VALUE")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value


def show(result: Any, as_json: bool, view: Callable[[Any], Any]) -> None:
    """Prints a result for machines or for people."""
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n")
    else:
        out.print(view(result))


def one_line(error: Exception) -> str:
    """An error as a person reads it; those of the system and of libraries say what they are."""
    if isinstance(error, TamisError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    first = (str(error).strip() or "no reason given").splitlines()[0]
    return f"{type(error).__name__}: {first}"


_INTERRUPTED: Final = 130  # typer's exit after Ctrl-C


def main() -> None:
    """The entry point: one line per error, exit 1 for a failure, 2 for wrong usage, ended by SIGINT after Ctrl-C."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        app()
    except (TamisError, OSError, PolarsError, httpx.HTTPError) as error:
        if os.environ.get("TAMIS_DEBUG"):
            traceback.print_exc()
        err.print(f"tamis: {one_line(error)}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)
    except SystemExit as ended:
        if ended.code != _INTERRUPTED:
            raise
        err.print("tamis: stopped")
    # As shells expect it, and without waiting for threads: one that was just being started then would never end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)
