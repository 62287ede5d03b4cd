"""How much pre-ranking and ranking agree on the same candidates: the former is a cheap forecast of the latter."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.stats import spearmanr

from tamis.evaluate.report import Row
from tamis.funnel import Funnel, Stage
from tamis.stages import Scorer
from tamis.types import Candidates, Query

FIRST: Final = (10, 50, 200)
REACHED: Final = 50  # of the ranker's best: how many of them does pre-ranking let through


@dataclass(frozen=True, slots=True)
class Agreement:
    """The two stages, each without a limit behind it.   limit: rows that really leave pre-ranking."""

    prerank: Funnel
    rank: Funnel
    limit: int

    @staticmethod
    def of(stages: tuple[Stage, ...]) -> "Agreement | None":
        """None where one of the two does not score."""
        found = {stage.name: stage for stage in stages}
        if not all(name in found and _scores(found[name]) for name in ("prerank", "rank")):
            return None
        prerank, rank = (Funnel([replace(found[name], limit=2**31)]) for name in ("prerank", "rank"))
        return Agreement(prerank, rank, found["prerank"].limit)

    def numbers(self, query: Query, items: Candidates) -> Row:
        """What the orders of the same candidates have in common; numbers that so few rows do not have are left out.

        overlap@k: share of the ranker's best k that are among the pre-ranker's best k, with more than k rows.
        kept@50: share of the ranker's best 50 that pre-ranking lets through, where it cuts at all.
        rank_correlation: Spearman's, of the places of all rows.
        """
        scored = self.prerank.run(query, items, "prerank").items
        light, full = scored.ids, self.rank.run(query, scored, "rank").items.ids
        light = light[np.isin(light, full)]
        out = {f"overlap@{k}": float(np.isin(full[:k], light[:k]).mean()) for k in FIRST if len(full) > k}
        limit = self.limit or query.size
        if len(full) > max(REACHED, limit):
            out[f"kept@{REACHED}"] = float(np.isin(full[:REACHED], light[:limit]).mean())
        if len(full) > 1:
            by_light, by_full = np.argsort(light), np.argsort(full)  # the places of the rows in the order of their ids
            out["rank_correlation"] = float(spearmanr(by_light, by_full).statistic)
        return out


def _scores(stage: Stage) -> bool:
    return any(isinstance(step, Scorer) for step in stage.main.values())
