"""What one worker does: measure the cells of a task, one after the other, on one thread.

A task is JSON text, its cells as `[measurement, spec]` and the folder for what is unfinished (see
`analyses.unfinished`), so that nothing travels to a worker but names and plain values. The same function measures the
cells of a run that has no workers, so that both give the same digits.
"""

import json
import multiprocessing
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from analyses import unfinished
from analyses.analysis import Cell, Rows, measurements
from diagnostics.recording import recording

THREADS = 1  # of torch, in every task: their number can change a digit

_one_at_a_time = threading.Lock()  # recorded programs and thread counts belong to the process


@dataclass(frozen=True)
class Answer:
    """One cell's rows, or the reason in one line why there are none; and the seconds that it took."""

    rows: Rows | None
    reason: str
    seconds: float


def as_text(cells: Sequence[Cell]) -> str:
    """The task of measuring these cells."""
    return json.dumps({"cells": [[cell.measurement, cell.spec] for cell in cells], "folder": unfinished.folder()})


def answers(text: str, mode: str) -> list[Answer]:
    """Measure a task's cells in order; `mode` is that of `recording`.

    A cell that raises has a reason in place of rows, and the others are measured all the same.
    """
    task = json.loads(text)
    with _one_at_a_time, one_thread(), _may_have_children(), unfinished.keeping(task["folder"]):
        return [answer(measurement, spec, mode) for measurement, spec in task["cells"]]


def answer(measurement: str, spec: Mapping[str, Any], mode: str) -> Answer:
    """Measure one cell."""
    begun = time.perf_counter()
    rows, reason = None, ""
    try:
        # The dictionary first: the registry looks for modules at every question, which takes a millisecond.
        measure = measurements.entries.get(measurement) or measurements[measurement]
        with recording(mode):
            rows = measure(spec)
    except (Exception, SystemExit) as error:  # one cell's failure must not end the others
        said = str(error).splitlines()
        reason = f"{type(error).__name__}: {said[0] if said else ''}"
    return Answer(rows, reason, time.perf_counter() - begun)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on `THREADS` threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _may_have_children() -> Iterator[None]:
    """Let a dask worker, which is a daemon, start processes: the analysis of cost measures the bytes of a fresh one."""
    settings: dict[str, Any] = multiprocessing.current_process()._config  # pyright: ignore[reportAttributeAccessIssue]
    before = settings.get("daemon")
    settings["daemon"] = False
    try:
        yield
    finally:
        settings["daemon"] = before
