"""The heads of the ranker on logged impressions: every number a user of the predictions would ask for."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from tamis import metrics
from tamis.data.split import Split
from tamis.evaluate.queries import Past
from tamis.evaluate.report import Curve, Row, known
from tamis.nets.labels import AMOUNTS, PLAY


def _amount(truth: Any, predicted: Any, unit: str) -> Row:
    """Mean absolute error and rank correlation, over all rows that have the label."""
    if len(truth) < 2:
        return {}
    return {
        f"mae{unit}": float(np.abs(truth - predicted).mean()),
        "rank_correlation": float(spearmanr(truth, predicted).statistic),
        f"mean{unit}": float(truth.mean()),
        "predicted": float(predicted.mean()),
        "rows": float(len(truth)),
    }
