"""Timing in interleaved rounds: each round runs every contender once, so that a busy minute falls on all of them.

On a machine that others use, the clock `cpu` counts only the time that this process had: with one thread that is what
the wall's clock shows where nothing else runs.
"""

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

ENOUGH = 0.1  # seconds: a contender that is faster is called several times in a row, and the mean is taken

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Spread:
    """The median of a figure over rounds, and its extremes."""

    median: float
    least: float
    most: float


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int, clock: str) -> dict[str, list[float]]:
    """Seconds of each call in each round, one warm-up each aside; the order is rotated from round to round."""
    counts: dict[str, int] = {}
    for name, call in calls.items():
        call()
        counts[name] = max(1, min(20, math.ceil(ENOUGH / max(_seconds(call, 1, clock), 1e-6))))
    found: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for r in range(rounds):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            found[name].append(_seconds(calls[name], counts[name], clock))
    return found


def spread(values: list[float]) -> Spread:
    """Median, least and most of values."""
    return Spread(median(values), min(values), max(values))


def ratios(of: list[float], to: list[float]) -> Spread:
    """The ratio within each round, over the rounds."""
    return spread([a / b for a, b in zip(of, to, strict=True)])


def _seconds(call: Callable[[], object], count: int, clock: str) -> float:
    gc.collect()  # a graph that dies in a cycle is its owner's garbage, not the next contender's
    now = CLOCKS[clock]
    start = now()
    for _ in range(count):
        call()
    return (now() - start) / count
