"""What a search of the long history costs: training step and serving of the fine ranker's net with it and without.

    python benchmarks/speed_sim.py [--rounds N] [--threads T]

The net with DIN over 50 and a hard search of 5,000 actions in 30 categories for 32 of each, against the same with DIN
over 100 alone. Every user has actions of every category, so every search finds all it may. A training step holds
everything but the reading of a batch's plain features: the search and its gather are in it. Serving is one request.
"""

import argparse
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import torch

from _logs import layout
from _results import result
from _turns import rate
from tamis.features.encode import history_codes
from tamis.features.layout import Layout
from tamis.features.search import Past, find
from tamis.nets.batch import tensor
from tamis.nets.heads import HeadPlan, Targets, loss
from tamis.nets.multitask import INPUTS, MultitaskNet, Scales, export_multitask
from tamis.nets.optimizer import Optimizer
from tamis.nets.plans import MultitaskShape, TrainingPlan
from tamis.nets.session import Session
from tamis.nets.tiles import SEARCH_INPUTS, Tiles
from tamis.types import Catalog

BATCH = 2048
SIM_HEADS = ("click", "like", "share", "follow")
Pages = tuple[Past, np.ndarray, np.ndarray, np.ndarray]
"""Histories, the code of each entry's category, candidates [n], first candidate of each request [r + 1]."""


@dataclass
class Side:
    """DIN over the newest actions, or SIM: a net, in training and exported."""

    layout: Layout
    catalog: Catalog
    net: MultitaskNet
    session: Session
    optimizer: Optimizer

    @staticmethod
    def of(layout: Layout, shape: MultitaskShape, catalog: Catalog) -> "Side":
        nothing = np.zeros((1, 0), np.float32)
        scales = Scales(nothing, nothing, nothing)
        net = MultitaskNet(shape, layout, SIM_HEADS, scales, torch.Generator().manual_seed(1))
        with tempfile.TemporaryDirectory() as folder:
            export_multitask(net, layout, Path(folder) / "net.onnx")
            session = Session.open(Path(folder) / "net.onnx", threads=1)
        return Side(layout, catalog, net, session, Optimizer(net, TrainingPlan()))

    def read(self, pages: Pages) -> tuple[list[np.ndarray], Any]:
        """The net's inputs, and what was found."""
        past, kinds, shown, first = pages
        at = past.end[:, None] - 1 - np.arange(self.layout.history_length)
        age = past.now[:, None] - past.time[at]
        history = history_codes(self.layout, self.catalog.column("codes", past.item[at]), past.action[at], age)
        users = np.stack([np.full(len(past.end), f.offset + 1) for f in self.layout.user_fields], 1).astype(np.int32)
        none = np.zeros((len(shown), 0), np.float32)
        arrays = [users, none[: len(users)], history, self.catalog.column("codes", shown), none, none]
        search = self.net.search
        return arrays, search and find(search, self.layout, self.catalog, past, kinds, (shown, first))

    def step(self, pages: Pages, targets: Targets) -> int:
        arrays, found = self.read(pages)
        row_of = np.repeat(np.arange(len(pages[3]) - 1), np.diff(pages[3]))
        self.net.train()
        self.optimizer.clear()
        logits = self.net([tensor(array) for array in (*arrays, *(found or ()))], tensor(row_of))
        loss(logits, targets).backward()
        self.optimizer.step()
        return 1

    def serve(self, pages: Pages) -> int:
        arrays, found = self.read(pages)
        searched = (found.codes, *Tiles.of(found.row_of, len(found.codes))) if found else ()
        names = (*INPUTS, *SEARCH_INPUTS)[: len(arrays) + len(searched)]
        self.session.run(**dict(zip(names, (*arrays, *searched), strict=True)))
        return 1


def sim_pages(random: np.random.Generator, codes: np.ndarray, requests: int, rows: int, long: int) -> Pages:
    """Each of `requests` users did `long` things with random items; the candidates are random too."""
    item = random.integers(0, len(codes), requests * long).astype(np.int32)
    moment = np.tile(np.sort(random.uniform(0, 3e7, long)), requests)
    start = np.arange(requests) * long
    past = Past(item, np.ones(len(item), np.uint8), moment, start, start + long, np.full(requests, 3e7))
    row_of = np.sort(random.integers(0, requests, rows))
    shown = random.integers(0, len(codes), rows)
    return past, codes[item, 2], shown, np.searchsorted(row_of, np.arange(requests + 1))


def sim(rounds: int, threads: int, long: int = 5_000, categories: int = 30, requests: int = 160) -> None:
    random, items = np.random.default_rng(4), [50_000, 10_000, categories, 50_000, 50_000, 50_000]
    shapes = (100, MultitaskShape()), (50, MultitaskShape(search="hard", search_field="item_2"))
    layouts = [
        msgspec.structs.replace(layout([50_000] * 8, items, length, (0, 1, 2)), long_length=long)
        for length, _ in shapes
    ]
    fields = layouts[0].item_fields
    codes = np.stack([random.integers(f.offset + 1, f.offset + f.size, 50_000) for f in fields], 1).astype(np.int32)
    catalog = Catalog.of(np.arange(len(codes), dtype=np.uint64), {"codes": codes}, np.arange(0))
    sides = [Side.of(own, shape, catalog) for own, (_, shape) in zip(layouts, shapes, strict=True)]
    labels = {name: torch.from_numpy((random.random(BATCH) < 0.2).astype(np.float32)) for name in SIM_HEADS}
    targets = HeadPlan(SIM_HEADS, frozenset(), {}, "ratio").targets(labels)
    pages, one = sim_pages(random, codes, requests, BATCH, long), sim_pages(random, codes, 1, 500, long)
    for title, work in (
        (f"SIM training step, {threads} threads", lambda side: side.step(pages, targets)),
        ("SIM serving of 500 candidates, 1 thread", lambda side: side.serve(one)),
    ):
        turns = [[1000 / rate(partial(work, side)) for side in sides] for _ in range(rounds + 3)]
        din, searched = (median(own) for own in zip(*turns[3:], strict=True))
        print(f"{title}: DIN over 100 {din:.2f} ms, SIM over {long:,} {searched:.2f} ms: {searched / din:.2f} x")
        result(title, searched, din, "ms", "≤ 2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    sim(given.rounds, given.threads)


if __name__ == "__main__":
    main()
