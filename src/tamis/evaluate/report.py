"""The report of an evaluation: plain numbers by name, as JSON for machines and as rows for people."""

import math
from collections.abc import Iterator
from typing import Final

import msgspec

from tamis.config import Config
from tamis.errors import DataError
from tamis.metrics import Reliability

Row = dict[str, float]
MUCH_HELD_OUT: Final = 1 / 3  # a larger share of the events leaves too little to learn from


def known(row: Row) -> Row:
    """A row without the numbers that are not finite: JSON has no place for them, so nobody could read them back."""
    return {name: value for name, value in row.items() if math.isfinite(value)}


class Curve(Config, frozen=True):
    """Predictions against what happened, in at most ten bins of equally many rows, lowest predictions first. All [b].

    rows: of each bin.   predicted: mean prediction.   observed: share of positives.
    """

    rows: tuple[int, ...]
    predicted: tuple[float, ...]
    observed: tuple[float, ...]

    @staticmethod
    def of(curve: Reliability) -> "Curve":
        """The curve of the metrics as plain numbers."""
        return Curve(
            rows=tuple(curve.count.tolist()),
            predicted=tuple(curve.predicted.tolist()),
            observed=tuple(curve.observed.tolist()),
        )


class Report(Config, frozen=True):
    """What the assembled funnel did on the held-out days. Every number is a mean over users or requests.

    channels: channel → recall@k of the channel alone, of what was published by then; gain@k, what the union's recall@k
    would lose without it, its places going to the others; share of the relevant items that only it found, mean rows;
    where it searches vectors, index_recall, the share of the exact answer that its index found when it was built.
    stages: stage → survival (share of the reachable relevant items still there), rows; in a simulated world, the mean
    true click rate of the best ten items still there. "prerank" has how it agrees with the ranker on all candidates:
    overlap@k, kept@50 and rank_correlation, see evaluate.agreement.
    heads: head → auc, gauc, log_loss, calibration_error, rate, rows; for "play" and "rate" (stars): mean absolute
    error, rank correlation.
    page, baselines: ndcg@10, recall@10, hit@10, coverage, diversity (share of the pairs of a page that differ in
    category), authors (different ones per place), new_share of our page and of others', each only where the catalogue
    has what it is counted from; in a simulated world the true
    click rate of the first ten, which logged clicks cannot tell: they know what was shown. "popular" ranks by the
    positive actions (`evaluate.positive`) before the bundle's training ended.
    latency: stage or step → p50 and p99 in milliseconds, one request at a time.
    features: feature → coverage and distinct values in the training rows; see features.coverage.
    reliability: head that predicts probabilities → how far they can be believed.
    interval: of the page's ndcg@10, 95 %, by bootstrap over the users; () with fewer than two of them.
    learnt_from, held_out: events before test_since and from it on.
    """

    bundle: str
    users: int
    requests: int
    test_since: float
    test_until: float
    channels: dict[str, Row]
    stages: dict[str, Row]
    heads: dict[str, Row]
    page: Row
    baselines: dict[str, Row]
    latency: dict[str, Row]
    features: dict[str, Row] = {}
    reliability: dict[str, Curve] = {}
    interval: tuple[float, ...] = ()
    learnt_from: int = 0
    held_out: int = 0

    def to_json(self) -> bytes:
        """Indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    @staticmethod
    def from_json(raw: bytes) -> "Report":
        """The report that `to_json` wrote. Raises DataError."""
        try:
            return msgspec.json.decode(raw, type=Report)
        except msgspec.DecodeError as error:
            raise DataError(f"report: {error}") from None

    def tables(self) -> Iterator[tuple[str, dict[str, Row]]]:
        """(title, row name → numbers) of each part, in reading order."""
        yield "Recall channels", self.channels
        yield "Stages", self.stages
        yield "Heads", self.heads
        yield "Page", {"tamis": self.page, **self.baselines}
        yield "Milliseconds per request", self.latency
        yield "Features in the training rows", self.features
