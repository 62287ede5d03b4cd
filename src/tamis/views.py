"""What the command line shows to people: results as rich tables. No computing here.

Words that come from data (ids, reasons, errors) are escaped: "[b]" is an id, and no order to write bold.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tamis.data.write import ImportReport
from tamis.errors import ConfigError
from tamis.evaluate.legend import legend
from tamis.evaluate.report import MUCH_HELD_OUT, Curve, Report
from tamis.evaluate.tune import Tuned
from tamis.project import Answer
from tamis.serving.load import LoadReport
from tamis.train import Trained
from tamis.update import Updated

_BARS: Final = " ▁▂▃▄▅▆▇█"
_ROUGH_USERS: Final = 100  # below, a mean over users has one digit that means something, seldom two
_OF_USERS: Final = ("Recall channels", "Stages", "Page")  # tables of such means
_OF_THE_CATALOGUE: Final = ("diversity", "authors", "new_share")  # which may lack what they are counted from
_FEW_USERS: Final = 30  # below, the users drawn again and again for an interval are too much alike


def grid(
    title: str, rows: dict[str, dict[str, float]], digits: int = 4, always: tuple[str, ...] = ()
) -> RenderableType:
    """A title over a table of named rows of named numbers; a number that is not there is a dash.

    always: columns that are shown even if no row has them.
    """
    columns = list(dict.fromkeys([*(name for row in rows.values() for name in row), *always]))
    table = Table("", *columns, box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in rows.items():
        table.add_row(escape(name), *(number(row.get(column), digits) for column in columns))
    return Group(_title(title), table)  # a table's own title is broken to the width of its columns


def _title(words: str) -> Text:
    return Text(words, style="italic")


def number(value: float | None, digits: int = 4) -> str:
    """A number as a person reads it: whole ones without decimals, a dash for a missing one."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 10 else f"{value:.{digits}f}"


def report(report: Report) -> RenderableType:
    """The whole report of an evaluation, with what its words mean."""
    few = report.users < _ROUGH_USERS
    parts: list[RenderableType] = []
    for title, rows in report.tables():
        digits = 2 if few and title in _OF_USERS else 4
        parts += ["", grid(title, rows, digits, _OF_THE_CATALOGUE if title == "Page" else ())] if rows else []
    if report.reliability:
        parts += ["", reliability(report.reliability)]
    return Group(*_judged(report, few), *parts, "", _legend(report))


def _judged(report: Report, few: bool) -> Iterator[str]:
    """On what the report stands: whom, which days, how much of the log, how sure the first number is."""
    first, last = (time.strftime("%Y-%m-%d %H:%M", time.gmtime(at)) for at in (report.test_since, report.test_until))
    whom = f"{report.users:,} users and {report.requests:,} requests of the held-out days"
    yield f"{whom}, {first} to {last} UTC, bundle {report.bundle}"
    whole = report.learnt_from + report.held_out
    if whole:
        much = "; more than a third: more days of log, or a later split.test_since, leave more to learn from"
        share = f"{report.held_out:,} events are held out, {report.learnt_from:,} came before"
        yield share + (much if report.held_out > MUCH_HELD_OUT * whole else "")
    if report.interval:
        low, high = (number(end, 2 if few else 4) for end in report.interval)
        yield f"ndcg@10 of the page {number(report.page['ndcg@10'], 2 if few else 4)}, 95 % interval {low} … {high}"
    if not report.users:
        yield "nobody could be judged: no user did anything new and positive (evaluate.positive) in these days"
    elif few:
        yield f"{report.users:,} users are few: what channels, stages and pages differ by is often chance"


def _legend(report: Report) -> RenderableType:
    table = Table("", "", "", box=None, pad_edge=False, show_header=False)
    for title, words in legend(report):
        for place, (word, means) in enumerate(words):
            table.add_row("" if place else title, word, means)
    return Group(_title("What the words mean"), table)


def reliability(curves: dict[str, Curve]) -> RenderableType:
    """Two lines per head: what was predicted and what happened, bin by bin, as numbers and as bars of one scale."""
    most = max((len(curve.rows) for curve in curves.values()), default=0)
    table = Table("", *map(str, range(1, most + 1)), "", box=None, pad_edge=False)
    for column in table.columns[1:-1]:
        column.justify = "right"
    for head, curve in curves.items():
        top = max(*curve.predicted, *curve.observed)
        for name, rates in ((f"{head} predicted", curve.predicted), ("observed", curve.observed)):
            blank = [""] * (most - len(rates))
            bars = "".join(_BARS[round(rate / top * (len(_BARS) - 1))] for rate in rates)
            table.add_row(escape(name), *(number(rate) for rate in rates), *blank, bars)
    return Group(_title("Reliability by tenths of predictions"), table)


def trained(trained: Trained) -> RenderableType:
    """Where the time went, and whether the bundle is served now."""
    rows = {name: {"seconds": seconds} for name, seconds in trained.seconds.items()}
    fate = "published" if trained.published else "held back by the gate: its page is clearly worse than the served one"
    return Group("", grid("Seconds", rows, 2), "", f"bundle {trained.bundle.name}: {fate}")


def updated(updated: Updated) -> RenderableType:
    """What an increment learnt from, and that it is served now."""
    learnt = f"{', '.join(updated.parts)} learnt from {updated.events:,} events in {updated.seconds:.1f} s"
    return f"{learnt}\nbundle {updated.bundle.name}: published"


def tuned(tuned: Tuned) -> RenderableType:
    """What the best numbers are worth on users that the search did not see, and a line to paste if that is more."""
    rows = {"as configured": {"ndcg@10": tuned.before}, "best of the search": {"ndcg@10": tuned.after}}
    title = f"{tuned.judged:,} users of the validation days that the search did not see, bundle {tuned.bundle}"
    worth = f"difference {tuned.difference:+.4f}, 95 % interval {tuned.low:+.4f} … {tuned.high:+.4f}"
    sure = "" if tuned.low > 0 or not tuned.toml else "; it may be chance"
    sure = "; so few users say little" if tuned.judged < _FEW_USERS else sure
    searched = f"{tuned.trials:,} trials on {tuned.searched:,} other users"
    shown = grid(title, rows), f"{worth}{sure} ({searched})", ""
    if not tuned.toml:
        return Group(*shown, "no better setting found; keep what is configured")
    stage, _, name = tuned.step.partition(".")
    steps = f"[funnel.{stage}.steps]"
    where = f"In tamis.toml, in place of {name} below {steps} (or of the table {steps[:-1]}.{name}]):"
    line = Text(tuned.toml, no_wrap=True, overflow="ignore")  # one line, to be pasted; a second table would be an error
    return Group(*shown, Text(where), line)


def imported(report: ImportReport) -> RenderableType:
    """Counts, time span and rejected rows of an import."""
    rows = {name: {"new": float(new), "in all": float(report.totals[name])} for name, new in report.added.items()}
    first, last = (time.strftime("%Y-%m-%d %H:%M", time.gmtime(at)) for at in report.span)
    kinds = ", ".join(f"{name} {count:,}" for name, count in report.actions.items())
    refused = [f"rejected: {count:,} rows, {escape(reason)}" for reason, count in report.rejected.items()]
    span = f"events from {first} to {last} UTC: {kinds}" if kinds else "no new events"
    return Group(grid("Imported", rows, 0), span, *(refused or ["rejected: none"]))


def page(answer: Answer) -> RenderableType:
    """A page, and what each step did when it was asked for."""
    items = Table("", "item", "score", "channel", "reason", box=None, pad_edge=False)
    for place, item in enumerate(answer.items, 1):
        words = (escape(item[name]) for name in ("channel", "reason"))
        items.add_row(str(place), escape(item["item_id"]), f"{item['score']:.4f}", *words)
    if not answer.trace:
        return items
    steps = Table("stage", "step", "in", "out", "ms", "status", box=None, pad_edge=False)
    for step in answer.trace:
        took = f"{step['milliseconds']:.2f}"
        status = escape(" ".join(filter(None, (step["status"], step.get("error", "")))))
        steps.add_row(step["stage"], step["step"], str(step["rows_in"]), str(step["rows_out"]), took, status)
    return Group(items, "", steps)


def load(report: LoadReport) -> RenderableType:
    """The latencies of a load run."""
    rows = Table("", "", box=None, pad_edge=False, show_header=False)
    for name, value in msgspec.to_builtins(report).items():
        rows.add_row(name, number(value, 2) if isinstance(value, int | float) else escape(str(value)))
    return rows


def ratios(results: list[dict[str, Any]]) -> RenderableType:
    """The benchmarks as ratios to their peers."""
    table = Table("benchmark", "tamis", "peer", "unit", "ratio", "wanted", box=None, pad_edge=False)
    for row in results:
        cells = [number(row.get(name), 3) for name in ("ours", "peer")]
        table.add_row(
            escape(row["name"]), *cells, row.get("unit", ""), number(row.get("ratio"), 2), str(row.get("wanted", ""))
        )
    return table


def lines(path: Path | None) -> tuple[str, ...]:
    """The lines of a text file that are not empty; () without a file."""
    if path is None:
        return ()
    try:
        found = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8") from None
    if not found:
        raise ConfigError(f"{path}: no user ids in it, wanted one per line")
    return found
