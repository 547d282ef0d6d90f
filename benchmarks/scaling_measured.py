"""The overheads of `scaling_model` on this machine, and the model against sweeps on one and two workers here.

A bare dask `LocalCluster` and the run's own store, driven as the engine does it: two tasks ahead on each worker, each
answer committed as one transaction. The cells sleep, so that two workers on a busy machine do not slow each other.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analyses.analysis import Cell
from analyses.store import Opened, Store
from benchmarks.scaling_model import Costs, Sweep, ideal, simulate

ROWS = [{"problem": "quadratic", "task": task, "relative_error": 1.0 / (task + 3)} for task in range(20)]
CASES = tuple(
    (workers, seconds, group, 200) for workers in (1, 2) for seconds, group in ((0.01, 1), (0.01, 10), (0.05, 1))
)


def asleep(text: str) -> str:
    """What a worker does: read the cells, sleep for each, and answer with rows."""
    cells = json.loads(text)
    for cell in cells:
        time.sleep(cell["seconds"])
    return json.dumps([ROWS for _ in cells])


@contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """A client of so many worker processes on the loopback interface."""
    from distributed import Client, LocalCluster

    with LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None,  # pyright: ignore[reportArgumentType]
        silence_logs=50,
    ) as made, Client(made) as client:  # fmt: skip
        client.run(lambda: None)
        yield client


@contextmanager
def fresh_store() -> Iterator[Opened]:
    """A store of a run that has begun."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "run.sqlite")
        store.begin({"benchmark": "scaling"})
        with store.opened() as kept:
            yield kept


def sweep_here(client: Any, kept: Opened, cells: list[Cell], group: int) -> float:
    """Seconds of a sweep on the client's workers."""
    from distributed import as_completed

    tasks = [cells[first : first + group] for first in range(0, len(cells), group)]
    addresses = list(client.scheduler_info()["workers"])
    waiting, flying = iter(tasks), {}
    done = as_completed(with_results=True)  # asking for the result afterwards is another way there and back

    def send(address: str) -> None:
        task = next(waiting, None)
        if task is None:
            return
        text = json.dumps([dict(cell.spec) for cell in task])
        future = client.submit(asleep, text, workers=[address], key=f"{task[0].key}-{group}", pure=False)
        flying[future.key] = (task, address)
        done.add(future)

    begun = time.perf_counter()
    for _ in range(2):
        for address in addresses:
            send(address)
    for future, text in done:
        task, address = flying.pop(future.key)
        answer = json.loads(text)
        kept.put_many([(cell, rows, 0.0) for cell, rows in zip(task, answer, strict=True)])
        send(address)
    return time.perf_counter() - begun


def slept(count: int, seconds: float, name: str) -> list[Cell]:
    """Cells that differ."""
    return [Cell("sleep", {"seconds": seconds, "seed": seed, "name": name}) for seed in range(count)]


def commits() -> tuple[float, float]:
    """Seconds of a transaction, and more for each cell in it."""
    with fresh_store() as kept:
        times = {}
        for group in (1, 51):
            found = []
            for turn in range(30):
                cells = [(cell, ROWS, 0.0) for cell in slept(group, 0.0, f"{group} {turn}")]
                begun = time.perf_counter()
                kept.put_many(cells)
                found.append(time.perf_counter() - begun)
            times[group] = min(found)
    each = (times[51] - times[1]) / 50
    return times[1] - each, each


def measured(tasks: int = 300) -> Costs:
    """The overheads, of a sweep of empty tasks on one worker.

    Those of the driver, with the scheduler that is a thread of it, and of the worker are processor time, which other
    programs do not lengthen much; a commit, which waits for the disk, is the fastest of thirty. The driver's part and
    the scheduler's are taken to be equal.
    """
    commit, commit_cell = commits()
    begun = time.perf_counter()
    with cluster(1) as client, fresh_store() as kept:
        start = time.perf_counter() - begun
        sweep_here(client, kept, slept(100, 0.0, "warm"), 1)
        (there,) = client.run(time.process_time).values()
        here = time.process_time()
        sweep_here(client, kept, slept(tasks, 0.0, "empty"), 1)
        here = (time.process_time() - here) / tasks
        (after,) = client.run(time.process_time).values()
    ours = max(0.0, here - commit_cell - commit / 2)  # half of a commit is waiting for the disk, or about
    return Costs(start, 0.0, ours / 4, ours / 4, ours / 2, 0.0005, (after - there) / tasks, commit, commit_cell, True)


def report() -> None:
    """Print the overheads, and each case as it was and as the model has it."""
    costs = measured()
    print(costs)
    print("| workers | a cell | group | measured | model | model/measured | efficiency |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for workers, seconds, group, count in CASES:
        with cluster(workers) as client, fresh_store() as kept:
            sweep_here(client, kept, slept(40, 0.0, "warm"), 1)
            taken = sweep_here(client, kept, slept(count, seconds, "case"), group)
        one = Sweep(count, seconds, workers, group)
        told = simulate(one, costs).seconds - costs.start
        print(
            f"| {workers} | {seconds:g} s | {group} | {taken:.2f} s | {told:.2f} s | {told / taken:.2f} |"
            f" {ideal(one) / taken:.0%} |"
        )
