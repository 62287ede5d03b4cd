"""What a net reads: the user side once per request, the item side once per candidate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.features.encode import history_codes, with_ages
from tamis.features.layout import Layout
from tamis.features.search import Found, Past, Search, find, last_n
from tamis.types import Candidates, History, Query, gather


@dataclass(frozen=True, slots=True)
class NetBatch:
    """r requests and n candidates; candidate j belongs to request row_of[j]. All dense values are finite.

    history_codes: newest first, an absent entry is all 0; an entry that is there never has 0 in column 0.
    labels: action name → [n] float32, "play" in seconds; empty when serving.   log_odds,
    keep_negatives, spared: see Samples.
    found: what candidates look at of the long history, for a net that searches in it.
    """

    user_codes: NDArray[np.int32]  # [r, Layout.user_codes]
    user_dense: NDArray[np.float32]  # [r, len(Layout.user_dense)]
    history_codes: NDArray[np.int32]  # [r, Layout.history_length, Layout.history_codes]
    item_codes: NDArray[np.int32]  # [n, Layout.item_codes]
    item_dense: NDArray[np.float32]  # [n, len(Layout.item_dense)]
    item_dynamic: NDArray[np.float32]  # [n, len(Layout.item_dynamic)]
    row_of: NDArray[np.int64]  # [n] ascending
    labels: Mapping[str, NDArray[np.float32]]
    log_odds: NDArray[np.float32] | None = None  # [n]
    keep_negatives: float = 1.0
    spared: NDArray[np.bool_] | None = None  # [n]
    found: Found | None = None


def net_batch(layout: Layout, query: Query, items: Candidates, search: Search | None = None) -> NetBatch:
    """The batch of one request (r = 1), the same bytes as the training batch of the same moment."""
    catalog, ids = query.catalog, items.ids
    features = catalog.features(ids)
    return NetBatch(
        **user_side(layout, query),
        item_codes=features.codes,
        item_dense=features.dense,
        item_dynamic=query_dynamic(layout, query, ids),
        row_of=np.zeros(len(ids), np.int64),
        labels={},
        found=query_found(layout, query, ids, search) if search else None,
    )


def user_side(layout: Layout, query: Query) -> dict[str, Any]:
    """What a net reads of the user, by the names of `NetBatch`: all that a user tower takes."""
    return {
        "user_codes": query_codes(layout, query),
        "user_dense": query.features.dense,
        "history_codes": query_history(layout, query)[None],
    }


def query_codes(layout: Layout, query: Query) -> NDArray[np.int32]:
    """[1, Layout.user_codes]: the codes of the query's features, and of its last entries of single actions."""
    codes = query.features.codes
    if not layout.last_n:
        return codes
    return np.concatenate([codes, last_n(layout, query.catalog, _past(query))], axis=1)


def query_found(layout: Layout, query: Query, items: NDArray[np.int64], search: Search) -> Found:
    """What each of the items finds in the query's history; items no longer there are left out of it."""
    past, catalog = _past(query, search.length), query.catalog
    base, fresh = catalog.columns["codes"]
    kinds = gather((base[:, search.column], fresh[:, search.column]), past.item)
    return find(search, layout, catalog, past, kinds, (items, np.array([0, len(items)])))


def _past(query: Query, most: int | None = None) -> Past:
    """The query's newest entries, as a search reads them."""
    newest = _known(query.history)
    count = len(newest) if most is None else min(len(newest), most)
    return Past(
        item=np.ascontiguousarray(newest.items[:count][::-1]),
        action=np.ascontiguousarray(newest.actions[:count][::-1]),
        time=np.ascontiguousarray(newest.times[:count][::-1]),
        start=np.zeros(1, np.int64),
        end=np.array([count]),
        now=np.array([query.now]),
    )


def _known(history: History) -> History:
    """Without items that are no longer there."""
    known = history.items >= 0
    if known.all():
        return history
    return History(history.items[known], history.actions[known], history.times[known])


def query_dynamic(layout: Layout, query: Query, items: NDArray[np.int64]) -> NDArray[np.float32]:
    """[n, len(Layout.item_dynamic)] of items at the query's time."""
    dynamic = np.array(query.catalog.column("dynamic", items))
    with_ages(layout, dynamic, {name: query.catalog.column(name, items) for name in layout.item_ages}, query.now)
    if layout.item_crosses:
        codes = query.catalog.column("codes", items)
        for cross in layout.item_crosses:
            keys = items if cross.field < 0 else codes[:, cross.field]
            dynamic[:, cross.columns] = query.features.lookups[cross.table].find(keys)
    return dynamic


def query_history(layout: Layout, query: Query) -> NDArray[np.int32]:
    """[Layout.history_length, Layout.history_codes] of the query's history; items no longer there are left out."""
    out = np.zeros((layout.history_length, layout.history_codes), np.int32)
    history = _known(query.history)
    count = min(len(history), layout.history_length)
    if count:
        codes = query.catalog.column("codes", history.items[:count])
        out[:count] = history_codes(layout, codes, history.actions[:count], query.now - history.times[:count])
    return out
