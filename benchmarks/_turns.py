"""Rows per second of several sides, one after the other by turns, so that a slow moment hits all of them."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any


def rate(work: Callable[[], int], clock: Callable[[], float] = time.perf_counter) -> float:
    """Rows per second."""
    began = clock()
    return work() / (clock() - began)


def steps_by_turns(rounds: int, *sides: tuple[Callable[[Any], int], list[Any]]) -> list[float]:
    """Median rows per second of each side, one step each in turn; the first three rounds warm up."""
    rates: list[list[float]] = [[] for _ in sides]
    for turn in range(rounds + 3):
        for own, (step, batches) in zip(rates, sides, strict=True):
            own.append(rate(partial(step, batches[turn % len(batches)])))
    return [median(own[3:]) for own in rates]


def epochs_by_turns(rounds: int, works: Sequence[Callable[[], int]]) -> list[float]:
    """Median rows per second of each, one epoch each in turn."""
    turns = [[rate(work) for work in works] for _ in range(rounds)]
    return [median(own) for own in zip(*turns, strict=True)]
