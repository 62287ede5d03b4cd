"""Search in a user's long history, so that attention reads few entries of thousands.

Hard search keeps the newest entries of a candidate's own kind (its category, say): one walk back over the history finds
those of all candidates of a request together, and candidates of one kind share what was found. Soft search keeps the
entries whose items' content vectors have the largest inner product with the candidate's.
(Pi et al., "Search-based user interest modeling with lifelong sequential behavior data for click-through rate
prediction", 2020.)

Training and serving call the same functions, on entries that lie oldest first.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tamis.config import Config
from tamis.errors import ConfigError
from tamis.features.encode import history_codes
from tamis.features.layout import Layout
from tamis.types import ACTIONS, Catalog

_SUMS: Final = {"reassoc", "contract", "nsz"}  # the order of a sum is the compiler's, the same at every call


class Search(Config, frozen=True):
    """What is looked for, and where.

    column: of the item's codes, kinds are the codes `offset` + 1 … `offset` + `size` − 1 in it; what is below is
    missing or unknown, and no kind.   length: newest entries of a history that are searched.   entries: most of them
    that are kept for a candidate, k.   soft: by content vectors instead.
    """

    column: int
    offset: int
    size: int
    length: int
    entries: int
    soft: bool = False

    @staticmethod
    def of(layout: Layout, how: str, field: str, entries: int) -> "Search | None":
        """The search of that kind ("none", "hard", "soft") by an item feature of that name; None without one.

        Raises ConfigError for a feature that is none or has more than one code, or when no long history is kept.
        """
        if how == "none":
            return None
        if not layout.long_length:
            raise ConfigError(f'search = "{how}" wants a features.history.long_length above 0')
        names = {found.name.removeprefix("item."): found for found in layout.item_fields if found.width == 1}
        if how == "hard" and field not in names:
            raise ConfigError(f"search_field {field!r}: wanted an item feature with one code, of {sorted(names)}")
        place = names.get(field, layout.history_action)
        return Search(
            column=place.start,
            offset=place.offset,
            size=place.size,
            length=layout.long_length,
            entries=entries,
            soft=how == "soft",
        )


class Past(NamedTuple):
    """Entries of histories, oldest first; those of request j are start[j] : end[j], seen from the moment now[j]."""

    item: NDArray[Any]  # [t]
    action: NDArray[np.uint8]  # [t]
    time: NDArray[np.float64]  # [t]
    start: NDArray[np.int64]  # [r]
    end: NDArray[np.int64]  # [r]
    now: NDArray[np.float64]  # [r]


class Found(NamedTuple):
    """What candidates look at instead of the whole history.

    codes: [m, k, Layout.history_codes] newest first, an absent entry is all 0.
    row_of: [n] each candidate's row of them. Rows of one request stand together, in the order of the requests.
    """

    codes: NDArray[np.int32]
    row_of: NDArray[np.int64]


def find(
    search: Search,
    layout: Layout,
    catalog: Catalog,
    past: Past,
    kinds: NDArray[np.int32],
    asked: tuple[NDArray[Any], NDArray[np.int64]],
) -> Found:
    """What each candidate finds in its user's past; nothing for one without a kind, or without a content vector.

    kinds: [t] the code of each entry in `search.column`; soft search does not look at it.
    asked: (items [n], first [r + 1]), the rows of request j are first[j] : first[j + 1].
    """
    items, first = asked
    start = np.maximum(past.start, past.end - search.length)
    if search.soft:
        at, row_of = _alike(catalog, past, start, asked, search.entries), np.arange(len(items))
        owner = np.repeat(np.arange(len(first) - 1), np.diff(first))
    else:
        wanted = np.ascontiguousarray(catalog.column("codes", items)[:, search.column])
        at, row_of, owner = of_kinds(
            wanted, first, (kinds, start, past.end), (search.offset, search.size), search.entries
        )
    there = at >= 0
    rows = at[there]
    codes = np.zeros((*at.shape, layout.history_codes), np.int32)
    age = np.broadcast_to(past.now[owner, None], at.shape)[there] - past.time[rows]
    codes[there] = history_codes(layout, catalog.column("codes", past.item[rows]), past.action[rows], age)
    return Found(codes, row_of)


def last_n(layout: Layout, catalog: Catalog, past: Past) -> NDArray[np.int32]:
    """[r, …] codes of the fields of single actions' last entries (`Layout.user_fields` ends with them), newest first.

    An action that the user did less often than `Layout.last_n_length` times has fewer entries, the rest is padding.
    """
    requests, actions, most = len(past.end), layout.last_n, layout.last_n_length
    wanted = np.tile(np.array(actions, np.int32), requests)
    first = np.arange(requests + 1) * len(actions)
    at, _, _ = of_kinds(wanted, first, (past.action, past.start, past.end), (-1, len(ACTIONS) + 1), most)
    there = at >= 0
    codes = np.zeros((*at.shape, len(layout.history_columns)), np.int32)
    codes[there] = catalog.column("codes", past.item[at[there]])[:, list(layout.history_columns)]
    return codes.transpose(0, 2, 1).reshape(requests, -1)


def of_kinds(
    wanted: NDArray[Any],
    first: NDArray[np.int64],
    past: tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]],
    place: tuple[int, int],
    most: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The newest entries of each kind that each request wants: (entries [m, most], row_of [n], request [m]).

    wanted: [n] kinds, by request as `first` [r + 1] says; equal ones of a request share a row of entries.
    past: (kind of each entry [t], start [r], end [r]).   place: (offset, size), kinds are offset + 1 … offset + size −
    1, and nothing is found for any other number.   entries: positions in the past, newest first, −1 = no more of them.
    """
    kinds, start, end = past
    row_of = np.empty(len(wanted), np.int64)
    at = np.full((len(wanted), most), -1, np.int64)
    request = np.empty(len(wanted), np.int64)
    marks = np.zeros(place[1], np.int64)  # row + 1 of each kind that the request at hand wants
    count = _walk_back(wanted, first, (kinds, start, end), place[0], (row_of, at, request, marks))
    return at[:count], row_of, request[:count]


@njit(cache=True, nogil=True)
def _walk_back(
    wanted: NDArray[Any], first: NDArray[np.int64], past: tuple[Any, Any, Any], offset: int, filled: tuple[Any, ...]
) -> int:
    """Fills (row_of [n], at [n, most] of −1, request [n], marks [size] of 0); how many rows of `at` it used."""
    kinds, start, end = past
    row_of, at, request, marks = filled
    count = 0
    have = np.zeros(len(at), np.int64)
    for r in range(len(first) - 1):
        begin = count
        for n in range(first[r], first[r + 1]):
            kind = _kind(wanted[n], offset, len(marks))
            if marks[kind] == 0:
                request[count] = r
                count += 1
                marks[kind] = count
                have[count - 1] = 0 if kind else at.shape[1]  # nothing is looked for
            row_of[n] = marks[kind] - 1
        _collect(kinds, (start[r], end[r], offset), (at, have, marks), (have[begin:count] < at.shape[1]).sum())
        for n in range(first[r], first[r + 1]):
            marks[_kind(wanted[n], offset, len(marks))] = 0
    return count


@njit(cache=True, nogil=True)
def _kind(code: int, offset: int, size: int) -> int:
    """1 … size − 1, or 0 for what is no kind."""
    kind: int = np.int64(code) - offset  # type: ignore[assignment]
    return kind if 0 < kind < size else 0


@njit(cache=True, nogil=True)
def _collect(kinds: NDArray[Any], span: tuple[int, int, int], rows: tuple[Any, Any, Any], wanting: int) -> None:
    """One request's walk, newest entry first, into the rows that `marks` names; it ends when none of them wants more.

    span: (start, end, offset).   wanting: rows that are not full.
    """
    start, end, offset = span
    at, have, marks = rows
    p = end - 1
    while wanting and p >= start:
        row = marks[_kind(kinds[p], offset, len(marks))] - 1
        if row >= 0 and have[row] < at.shape[1]:
            at[row, have[row]] = p
            have[row] += 1
            wanting -= have[row] == at.shape[1]
        p -= 1


def _alike(
    catalog: Catalog,
    past: Past,
    start: NDArray[np.int64],
    asked: tuple[NDArray[Any], NDArray[np.int64]],
    most: int,
) -> NDArray[np.int64]:
    """[n, most] for each candidate the entries of largest inner product, in the order of time, newest first."""
    items, first = asked
    at = np.full((len(items), most), -1, np.int64)
    for r in np.flatnonzero(np.diff(first)).tolist():
        rows, span = slice(first[r], first[r + 1]), slice(start[r], past.end[r])
        entries, queries = catalog.column("vector", past.item[span]), catalog.column("vector", items[rows])
        _nearest(np.ascontiguousarray(entries), np.ascontiguousarray(queries), int(start[r]), at[rows])
    return at


@njit(cache=True, nogil=True, fastmath=_SUMS)
def _nearest(entries: NDArray[Any], queries: NDArray[Any], base: int, at: NDArray[np.int64]) -> None:
    """Fills at [n, most] for vectors [h, d] and [n, d]; of equal products the newer one stays. No vector is all 0."""
    most = at.shape[1]
    product, place = np.empty(most, np.float32), np.empty(most, np.int64)
    there = np.zeros(len(entries), np.bool_)
    for e in range(len(entries)):
        there[e] = entries[e].any()
    for n in range(len(queries)):
        have, last = 0, 0
        for e in range(len(entries) - 1, -1, -1):
            if not there[e]:
                continue
            total = np.float32(0)
            for d in range(queries.shape[1]):
                total += entries[e, d] * queries[n, d]
            if have < most or total > product[last]:
                row = have if have < most else last
                product[row], place[row] = total, e
                have = min(have + 1, most)
                last = _last(product, place, have)
        if queries[n].any():
            ordered = np.sort(place[:have])
            for i in range(have):
                at[n, i] = base + ordered[have - 1 - i]


@njit(cache=True, nogil=True)
def _last(product: NDArray[np.float32], place: NDArray[np.int64], have: int) -> int:
    """Which of the kept goes next: that of the smallest product, of equal ones the oldest."""
    last = 0
    for i in range(1, have):
        if product[i] < product[last] or (product[i] == product[last] and place[i] < place[last]):
            last = i
    return last
