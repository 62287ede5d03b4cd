"""Peak memory of a training under `train.memory_gib`, on a log four times as large, in a limited address space.

    python benchmarks/train_memory.py [--gib G] [--times N]

A log is drawn day by day and written as the part files of a data set. Each training runs in a process of its own. The
first one, on a log of a hundredth of that size, says what libraries, catalogue, nets and evaluation take; it has the
same bound and the same users and items. The second one gets the large log and an address space (RLIMIT_AS) of what the
first one had at most, and the bound: were more mapped or allocated, it would fail.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from _results import result
from tamis.assemble import ProjectConfig
from tamis.data.dataset import DAY_SECONDS, MANIFEST, Manifest, Part
from tamis.train import train
from tamis.types import ACTION_CODE

USERS, ITEMS, AUTHORS, DAYS, PAGE = 20_000, 5_000, 500, 16, 20
EVENT_BYTES = 31  # of one in memory: user, item, action, value, time, request, position
START = 20_000 * DAY_SECONDS
SHARES = {"click": 0.06, "like": 0.012, "long_view": 0.02}
# Allocators keep address space that nobody uses any more: an arena for every thread, what Polars (jemalloc) gave back.
ALLOCATORS = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
    "POLARS_MAX_THREADS": "1",
    "_RJEM_MALLOC_CONF": "retain:false,dirty_decay_ms:1000,muzzy_decay_ms:0",
}
CONFIG: dict[str, Any] = {
    "features": {
        "user": {
            "user_id": {"kind": "id", "min_count": 5},
            "clicks": {"kind": "count", "action": "click", "as_of": "now"},
            "click_rate": {"kind": "rate", "action": "click"},
        },
        "context": {"hour": {"kind": "hour"}, "scene": {"kind": "scene"}},
        "item": {
            "item_id": {"kind": "id", "min_count": 5},
            "author": {"kind": "category", "column": "author"},
            "shown": {"kind": "count", "action": "impression"},
            "click_rate": {"kind": "rate", "action": "click"},
            "click_rate_day": {"kind": "rate", "action": "click", "window_hours": 24},
        },
        "history": {"actions": ["click", "like", "long_view"], "length": 20, "fields": ["item_id", "author"]},
    },
    "train": {"log_steps": 1000},
    "evaluate": {"most_users": 100, "most_requests": 500},
    "funnel": {
        "recall": {
            "limit": 500,
            "steps": {
                "two_tower": {"kind": "two_tower", "epochs": 1, "threads": 1},
                "itemcf": {"kind": "itemcf", "user_limit": 50},
                "popular": {"kind": "popular"},
                "newest": {"kind": "newest"},
                "seen": {"kind": "seen"},
            },
        },
        "prerank": {
            "limit": 200,
            "steps": {"three_tower": {"kind": "three_tower", "heads": ["click", "like"], "epochs": 1, "threads": 1}},
        },
        "rank": {
            "steps": {
                "heads": {
                    "kind": "multitask",
                    "heads": ["click", "like", "long_view"],
                    "embedding_size": 8,
                    "attention": "mean",
                    "experts": 2,
                    "expert_hidden": [32, 16],
                    "tower_hidden": [],
                    "epochs": 1,
                    "threads": 1,
                },
                "fuse": {"kind": "fuse", "formula": "click_times_sum", "weights": {"like": 1.0}},
            }
        },
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=0.25)
    parser.add_argument("--times", type=float, default=4.0)
    parser.add_argument("--child", nargs=2, metavar=("DATA", "ADDRESS_SPACE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        trained(Path(arguments.child[0]), int(arguments.child[1]), arguments.gib)
        return
    events = int(arguments.gib * arguments.times * 2**30 / EVENT_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        rows = write_log(Path(folder) / "small", events // 100)
        child(Path(folder) / "small", 0, arguments.gib)  # where kernels were never compiled, that takes memory too
        base = child(Path(folder) / "small", 0, arguments.gib)
        print(f"{rows:,} events: peak {base['resident'] / 2**30:.3f} GiB resident, {base['seconds']:.0f} s")
        rows = write_log(Path(folder) / "large", events)
        size = rows * EVENT_BYTES / 2**30
        space = base["address_space"] + int(arguments.gib * 2**30)
        large = child(Path(folder) / "large", space, arguments.gib)
    print(f"{rows:,} events ({size:.2f} GiB): peak {large['resident'] / 2**30:.3f} GiB, {large['seconds']:.0f} s")
    more = (large["resident"] - base["resident"]) / 2**30
    result("memory of the log in training", more, arguments.gib, "GiB", "≤ 1")
    more = (large["address_space"] - base["address_space"]) / 2**30
    result("address space of the log in training", more, arguments.gib, "GiB", "≤ 1")


def child(data: Path, space: int, gib: float) -> dict[str, float]:
    """A training in a process of its own: seconds, peak of resident memory and of address space in bytes."""
    command = [sys.executable, __file__, "--gib", str(gib), "--child", str(data), str(space)]
    environment = {**os.environ, **ALLOCATORS}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"the training failed: {done.stdout[-2000:]}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def trained(data: Path, space: int, gib: float) -> None:
    if space:
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
    config = msgspec.convert({**CONFIG, "train": {**CONFIG["train"], "memory_gib": gib}}, ProjectConfig)
    began = time.perf_counter()
    train(config, data, data.with_name(f"{data.name}-bundles"))
    seconds = time.perf_counter() - began
    peaks = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    resident, mapped = (int(peaks[name].split()[0]) * 1024 for name in ("VmHWM", "VmPeak"))
    print(json.dumps({"resident": resident, "address_space": mapped, "seconds": seconds}), flush=True)
    os._exit(0)


def write_log(folder: Path, events: int) -> int:
    """Writes a data set of about so many events; → how many it has."""
    random = np.random.default_rng(events)
    folder.mkdir()
    taste, worth = random.integers(0, 10, USERS), random.normal(0, 0.7, ITEMS)
    topic = random.integers(0, 10, ITEMS)
    users = pl.DataFrame({"number": np.arange(USERS, dtype=np.int32), "user_id": [f"u{i}" for i in range(USERS)]})
    authors = [f"a{author}" for author in random.integers(0, AUTHORS, ITEMS)]
    items = pl.DataFrame(
        {
            "number": np.arange(ITEMS, dtype=np.int32),
            "item_id": [f"i{i}" for i in range(ITEMS)],
            "author": authors,
            "publish_time": START - random.uniform(0, 30 * DAY_SECONDS, ITEMS),
        }
    )
    parts: dict[str, list[Part]] = {"users": [], "items": [], "requests": [], "events": []}
    for table, frame in (("users", users), ("items", items)):
        parts[table].append(_part(folder, f"{table}/part-000001.parquet", frame))
    a_day = int(events / DAYS / PAGE / (1 + sum(SHARES.values())))
    actions = dict.fromkeys(["impression", *SHARES], 0)
    for day in range(DAYS):
        begin = START + day * DAY_SECONDS
        times = np.sort(random.uniform(begin, begin + DAY_SECONDS, a_day))
        number, who = day * a_day + np.arange(a_day), random.integers(0, USERS, a_day).astype(np.int32)
        pages = {"request": number, "request_id": [f"r{at}" for at in number], "user": who, "time": times}
        request = pl.DataFrame(pages).with_columns(scene=pl.lit("feed"))
        owner, item = np.repeat(np.arange(a_day), PAGE), random.integers(0, ITEMS, a_day * PAGE).astype(np.int32)
        odds = np.exp(worth[item] + 1.5 * (taste[who[owner]] == topic[item]))
        shown = {"row": np.arange(len(item)), "action": "impression", "delay": 0.0}
        kinds = [shown]
        for place, (action, share) in enumerate(SHARES.items()):
            did = np.flatnonzero(random.random(len(item)) < share * odds / odds.mean())
            kinds.append({"row": did, "action": action, "delay": 5.0 + 20.0 * place})
        frames = [_events(kind, (owner, item, who, times, number)) for kind in kinds]
        for kind, frame in zip(kinds, frames, strict=True):
            actions[str(kind["action"])] += frame.height
        every = pl.concat(frames).filter(pl.col("time") < begin + DAY_SECONDS).sort("time", maintain_order=True)
        path = f"day={np.datetime64(int(begin // DAY_SECONDS), 'D')}/part-000001.parquet"
        parts["requests"].append(_part(folder, f"requests/{path}", request))
        parts["events"].append(_part(folder, f"events/{path}", every))
    counts = {table: sum(part.rows for part in own) for table, own in parts.items()}
    columns: dict[str, dict[str, str]] = {table: {} for table in parts}
    listed = {table: tuple(own) for table, own in parts.items()}
    manifest = Manifest(imports=1, counts=counts, actions=actions, columns=columns, parts=listed)
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return counts["events"]


def _events(kind: dict[str, Any], page: tuple[Any, ...]) -> pl.DataFrame:
    owner, item, who, times, number = page
    row, count = kind["row"], len(kind["row"])
    return pl.DataFrame(
        {
            "user": who[owner[row]],
            "item": item[row],
            "action": np.full(count, ACTION_CODE[kind["action"]], np.uint8),
            "value": np.zeros(count, np.float32),
            "time": times[owner[row]] + kind["delay"],
            "request": number[owner[row]],
            "position": (row % PAGE).astype(np.int16),
            "event_id": pl.Series([None], dtype=pl.String).new_from_index(0, count),
        }
    )


def _part(folder: Path, path: str, frame: pl.DataFrame) -> Part:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(folder / path)
    span = (frame["time"][0], frame["time"][-1]) if "time" in frame.columns else (0.0, 0.0)
    return Part(path, frame.height, *span)


if __name__ == "__main__":
    main()
