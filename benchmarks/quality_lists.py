"""Do places and friends help? Channels of the real parts on sets that know where items are, or who knows whom.

    python benchmarks/quality_lists.py [foursquare-nyc] [hetrec-lastfm]

foursquare-nyc: the last `TEST_SHARE` of the check-ins by time are held out; a user's question is which venues new to
him he visits then, asked at the end of training. hetrec-lastfm has no times: a fifth of its rows is drawn by a seed.
Alone, and added to ItemCF: each channel's list is given reciprocal ranks (1 / (10 + place)), which are summed.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from _results import data, result
from tamis import metrics
from tamis.data.dataset import Events
from tamis.data.sources import read_source
from tamis.data.tables import RawTables, check
from tamis.features.encode import Encoder
from tamis.features.inputs import Inputs
from tamis.features.spec import FeaturesConfig, HistoryConfig
from tamis.features.statistics import Statistics
from tamis.recall.friends import Friends, FriendsConfig
from tamis.recall.geo import Geo, GeoConfig
from tamis.recall.itemcf import ItemCF, ItemCFConfig
from tamis.recall.lists import OrderConfig
from tamis.recall.popular import Popular, PopularConfig
from tamis.types import ACTION_CODE, Action, Catalog, Features, History, Query, item_keys

TEST_SHARE = 0.2
K = 20
DEEP = 300
STEADY = OrderConfig(half_life_days=36_500.0, prior=1.0)  # venues do not age
Channel = Any
Question = tuple[int, NDArray[np.int64]]


def main(names: Sequence[str]) -> None:
    for name in names or ["foursquare-nyc", "hetrec-lastfm"]:
        raw = check(read_source(name, data(name)))
        inputs, questions, profiles = prepared(raw, by_time=name == "foursquare-nyc")
        print(f"\n{name}: {len(questions)} users ask, {len(inputs.catalog)} items, {len(inputs.events)} events")
        ours = SETS[name](inputs)
        channels = {"popular": Popular.fit(PopularConfig(limit=DEEP, half_life_days=0), inputs, 0), **ours}
        channels["ItemCF"] = ItemCF.fit(ItemCFConfig(limit=DEEP, neighbours=100), inputs, 0)
        lists = {kind: asked(kind, channel, inputs, questions, profiles) for kind, channel in channels.items()}
        for kind in list(ours):
            lists[f"ItemCF + {kind}"] = merged(lists["ItemCF"], lists[kind])
        figures = {kind: judged(kind, found, questions) for kind, found in lists.items()}
        best = max(ours, key=lambda kind: figures[f"ItemCF + {kind}"])
        result(
            f"{name} recall@{K}, ItemCF with {best} over ItemCF alone", figures[f"ItemCF + {best}"], figures["ItemCF"]
        )


def prepared(raw: RawTables, *, by_time: bool) -> tuple[Inputs, list[Question], list[dict[str, Any]]]:
    """Training inputs, the questions (user, items that are new to him), and the users' profiles."""
    events = raw.events.filter(pl.col("action") == "click").sort("time", maintain_order=True)
    user_ids = sorted({*events["user_id"], *raw.users["user_id"]})
    item_ids = sorted({*events["item_id"], *raw.items["item_id"]})
    user, item = (np.searchsorted(ids, events[name].to_numpy().astype(str)) for ids, name in
                  ((np.array(user_ids), "user_id"), (np.array(item_ids), "item_id")))  # fmt: skip
    time, place = events["time"].to_numpy(), np.arange(len(user))
    late = place >= len(user) * (1 - TEST_SHARE) if by_time else np.random.default_rng(1).random(len(user)) < TEST_SHARE
    known = np.unique(user[~late].astype(np.int64) * len(item_ids) + item[~late])
    new = np.setdiff1d(user[late].astype(np.int64) * len(item_ids) + item[late], known)
    asking, wanted = np.divmod(new, len(item_ids))
    there = np.isin(wanted, item[~late]) & np.isin(asking, user[~late])
    owners, starts = np.unique(asking[there], return_index=True)
    questions = list(zip(owners.tolist(), np.split(wanted[there], starts[1:]), strict=True))
    train = Events(
        user=user[~late].astype(np.int32), item=item[~late].astype(np.int32),
        action=np.full(int((~late).sum()), Action.CLICK, np.uint8), value=np.zeros(int((~late).sum()), np.float32),
        time=time[~late], request=np.full(int((~late).sum()), -1), position=np.zeros(int((~late).sum()), np.int16),
    )  # fmt: skip
    profiles = {row["user_id"]: row for row in raw.users.drop("_row").to_dicts()}
    inputs = inputs_of(train, (user_ids, item_ids), raw, float(time[~late].max()) + 1)
    return inputs, questions, [profiles.get(user_id, {}) for user_id in user_ids]


def inputs_of(events: Events, ids: tuple[list[str], list[str]], raw: RawTables, until: float) -> Inputs:
    user_ids, item_ids = ids
    statistics = [
        Statistics.of(entity, events.action, events.time, len(names))
        for entity, names in ((events.user, user_ids), (events.item, item_ids))
    ]
    frame = pl.DataFrame({"item_id": item_ids}).join(raw.items, on="item_id", how="left", maintain_order="left")
    columns = frame.to_dict(as_series=False)
    config = FeaturesConfig(item={}, history=HistoryConfig(fields=()))
    encoder = Encoder.fit(config, {"user": {}, "item": columns, "context": {}}, statistics[0], statistics[1])
    numbers = np.arange(len(item_ids))
    return Inputs(
        encoder=encoder,
        catalog=Catalog.of(item_keys(item_ids), encoder.items(numbers, columns)),
        users=Features(np.zeros((len(user_ids), 0), np.int32), np.zeros((len(user_ids), 0), np.float32)),
        events=events, until=until, train=None, valid=None,  # type: ignore[arg-type]
        user_statistics=statistics[0], item_statistics=statistics[1], user_keys=item_keys(user_ids),
    )  # fmt: skip


def places(inputs: Inputs) -> Mapping[str, Channel]:
    """Where a user was stands in for where he is: check-ins have no request that says it."""
    made = {}
    for length, around in ((5, False), (6, True), (6, False)):
        config = GeoConfig(limit=DEEP, length=length, around=around, history=100, order=STEADY)
        made[f"geo {length}{' and around' if around else ''}"] = Geo.fit(config, inputs, 0)
    return made


def people(inputs: Inputs) -> Mapping[str, Channel]:
    return {"friends": Friends.fit(FriendsConfig(limit=DEEP), inputs, 0)}


SETS: dict[str, Callable[[Inputs], Mapping[str, Channel]]] = {"foursquare-nyc": places, "hetrec-lastfm": people}


def asked(
    kind: str, channel: Channel, inputs: Inputs, questions: list[Question], profiles: list[dict[str, Any]]
) -> NDArray[np.int64]:
    """[q, DEEP] what the channel finds for each question, without what the user has already; −1 where it is less."""
    events = inputs.events
    order = np.lexsort((-events.time, events.user))
    starts = np.searchsorted(events.user[order], np.arange(len(profiles) + 1))
    none = Features(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32))
    found, took = np.full((len(questions), DEEP), -1, np.int64), []
    for row, (user, _) in enumerate(questions):
        mine = order[starts[user] : starts[user + 1]]
        history = History(events.item[mine].astype(np.int64), np.full(len(mine), ACTION_CODE["click"], np.uint8),
                          events.time[mine])  # fmt: skip
        query = Query(user, inputs.until, K, "", 1, history, none, inputs.catalog, profile=profiles[user])
        began = perf_counter()
        ids = channel.recall(query).ids
        took.append(perf_counter() - began)
        ids = ids[~np.isin(ids, history.items)]
        found[row, : len(ids)] = ids
    print(f"{kind:24} {np.percentile(took, 50) * 1e3:6.3f} ms p50 {np.percentile(took, 99) * 1e3:6.3f} ms p99")
    return found


def merged(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sums of reciprocal ranks of two lists, best first."""
    out = np.full_like(one, -1)
    ranks = 1 / (10.0 + np.arange(one.shape[1]))
    for row in range(len(one)):
        ids, at = np.unique(np.concatenate([one[row], other[row]]), return_inverse=True)
        score = np.bincount(at, np.concatenate([ranks, ranks]))
        best = np.argsort(-np.where(ids < 0, -1, score), kind="stable")
        best = best[ids[best] >= 0][: one.shape[1]]
        out[row, : len(best)] = ids[best]
    return out


def judged(kind: str, found: NDArray[np.int64], questions: list[Question]) -> float:
    right = metrics.Relevant.of([items for _, items in questions])
    recall, deep = (metrics.recall_at_k(found, right, k) for k in (K, DEEP))
    ndcg = metrics.ndcg_at_k(found, right, K)
    print(f"{kind:24} recall@{K} {recall:.4f}  ndcg@{K} {ndcg:.4f}  recall@{DEEP} {deep:.4f}", flush=True)
    return recall


if __name__ == "__main__":
    main(sys.argv[1:])
