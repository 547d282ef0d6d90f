"""Wall time of several calls, measured in turns.

A machine's speed drifts: other programs come and go, clocks change. Calls that are timed one after the other meet
different machines; calls that take turns, in an order that changes each round, meet the same.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import torch

from diagnostics.checks import whole_number

Name = TypeVar("Name")


@dataclass(frozen=True)
class Seconds:
    """The median of a call's wall times, and two of the times themselves, `low` and `high`, that enclose half of them.

    They are the (r+1)-th smallest and the (r+1)-th largest of n, `r = (n - 1) // 4`: the extremes for n up to 4.
    """

    median: float
    low: float
    high: float

    @staticmethod
    def of(times: list[float]) -> "Seconds":
        """What becomes of the times of one call's rounds."""
        ordered, rank = sorted(times), (len(times) - 1) // 4
        return Seconds(median(ordered), ordered[rank], ordered[-1 - rank])


def in_turns(
    calls: Mapping[Name, Callable[[], object]],
    repeats: int,
    warm_up: int = 1,
    device: str | torch.device | None = None,
) -> dict[Name, Seconds]:
    """Wall times of the calls: `repeats` rounds in which each is made once, after `warm_up` rounds that do not count.

    Each round begins with another call, so that none always follows the same one's caches. A call's result is dropped
    after its clock has stopped. The garbage collector waits meanwhile. A GPU is waited for before and after: the
    `device`, or else the current one where it is in use. Raises `ValueError` for repeats below 1.
    """
    whole_number("repeats", repeats, 1)
    whole_number("warm-up rounds", warm_up, 0)
    names = list(calls)
    times: dict[Name, list[float]] = {name: [] for name in names}
    for turn in range(-warm_up, repeats):
        first = turn * max(1, len(names) // repeats) % max(1, len(names))
        for name in names[first:] + names[:first]:
            taken = seconds_of(calls[name], device)
            if turn >= 0:
                times[name].append(taken)
    return {name: Seconds.of(found) for name, found in times.items()}


def seconds_of(call: Callable[[], object], device: str | torch.device | None = None) -> float:
    """The wall time of one call, with that of the work that it leaves to the GPU `device` of `in_turns`."""
    with _garbage_left_alone():
        _wait_for_gpu(device)
        begun = time.perf_counter()
        result = call()
        _wait_for_gpu(device)
        taken = time.perf_counter() - begun
    del result
    return taken


@contextmanager
def _garbage_left_alone() -> Iterator[None]:
    """The garbage collector switched off, and on again afterwards where it was on."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _wait_for_gpu(device: str | torch.device | None) -> None:
    if device is None:
        if torch.cuda.is_initialized():  # asking a GPU that nobody uses would start it
            torch.cuda.synchronize()
    elif torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
