"""What a sweep takes on more workers than there are here: a simulation from measured overheads.

    python -m benchmarks.scaling_model            the tables of docs/scaling.md
    python -m benchmarks.scaling_model --measure  the overheads on this machine, and the model against 1 and 2 workers

The driver hands out groups of cells, `ahead` of them to a worker at once, takes the answers one by one, commits each as
one transaction, and sends the next. It is one server; the scheduler, through which messages go, is another; a worker
works on its groups in order. The simulation follows every group through the three:

    sent      = max(driver free, worker's answer kept) + send
    arrives   = max(scheduler free, sent) + schedule + latency
    ends      = max(worker free, arrives) + task + the cells' durations
    kept      = max(driver free, ends + latency) + receive + commit + cells * commit_cell

Durations are lognormal, with the spread of the cells of the preset `quick`.
"""

import argparse
import heapq
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Costs:
    """Seconds of overhead, and bytes. Those of the driver and the scheduler are processor time, one thing at a time."""

    start: float = 5.0  # until the first worker is ready: processes, and the libraries that each loads
    start_each: float = 0.02  # more for each further worker
    send: float = 0.0011
    receive: float = 0.0011
    schedule: float = 0.0022
    latency: float = 0.0005
    task: float = 0.004
    commit: float = 0.0035
    commit_cell: float = 0.0003
    shared: bool = False  # whether the scheduler is a thread of the driver's process, as with the engine `local`


@dataclass(frozen=True)
class Sweep:
    """What is to be done: so many cells of so many seconds on the mean, handed out in groups of `group`."""

    cells: int
    seconds: float
    workers: int
    group: int = 1
    ahead: int = 2
    spread: float = 0.0  # standard deviation of the logarithm of a cell's seconds
    longest_first: bool = False
    known_within: float = 0.0  # the same of the estimates by which the longest are found
    seed: int = 0


@dataclass(frozen=True)
class Simulated:
    """What came of it: the whole time, and for which part of it driver, scheduler and workers were busy."""

    seconds: float
    driver: float
    scheduler: float
    workers: float
    longest: float
    start: float

    @property
    def bound(self) -> str:
        """What the time is made of: the busiest of the three, a last long cell, the start, or the way of each task."""
        if self.workers > 0.8:
            return "workers"
        busiest = max(("driver", self.driver), ("scheduler", self.scheduler), key=lambda one: one[1])
        if busiest[1] > 0.8:
            return busiest[0]
        if self.longest > 0.5 * self.seconds:
            return "longest cell"
        return "start" if self.start > 0.3 * self.seconds else "a task's way"


def durations(sweep: Sweep) -> list[float]:
    """Seconds of each cell, of the mean asked for, in the order in which they are handed out."""
    draw = random.Random(sweep.seed)
    mean = math.log(sweep.seconds) - sweep.spread**2 / 2 if sweep.seconds > 0 else 0.0
    found = [draw.lognormvariate(mean, sweep.spread) if sweep.seconds > 0 else 0.0 for _ in range(sweep.cells)]
    if sweep.longest_first:
        guessed = [(seconds * draw.lognormvariate(0.0, sweep.known_within), seconds) for seconds in found]
        found = [seconds for _, seconds in sorted(guessed, reverse=True)]
    return found


def simulate(sweep: Sweep, costs: Costs) -> Simulated:
    """Follow every group of cells through the driver, the scheduler and a worker."""
    cells = durations(sweep)
    groups = [cells[first : first + sweep.group] for first in range(0, len(cells), sweep.group)]
    begun = costs.start + costs.start_each * (sweep.workers - 1)
    free = [begun] * sweep.workers
    driver = scheduler = begun
    driver_busy = scheduler_busy = 0.0
    answers: list[tuple[float, int, int]] = []  # when each answer is with the driver, from which worker, of how many
    following = iter(groups)

    def send(worker: int) -> None:
        nonlocal driver, scheduler, driver_busy, scheduler_busy
        group = next(following, None)
        if group is None:
            return
        driver += costs.send
        driver_busy += costs.send
        scheduler = max(scheduler, driver) + costs.schedule
        scheduler_busy += costs.schedule
        if costs.shared:
            driver = scheduler
            driver_busy += costs.schedule
        free[worker] = max(free[worker], scheduler + costs.latency) + costs.task + sum(group)
        heapq.heappush(answers, (free[worker] + costs.latency, worker, len(group)))

    for _ in range(sweep.ahead):
        for worker in range(sweep.workers):
            send(worker)
    while answers:
        arrived, worker, count = heapq.heappop(answers)
        keep = costs.receive + costs.commit + count * costs.commit_cell
        driver = max(driver, arrived) + keep
        driver_busy += keep
        send(worker)
    busy = max(driver, scheduler) - begun
    whole = sum(cells) / (sweep.workers * busy) if busy else 0.0
    return Simulated(
        max(driver, *free), driver_busy / busy, scheduler_busy / busy, whole, max(cells, default=0.0), begun
    )


def ideal(sweep: Sweep) -> float:
    """The seconds of the cells alone, shared out evenly."""
    return sum(durations(sweep)) / sweep.workers


def most_workers(seconds: float, group: int, costs: Costs) -> float:
    """How many workers the driver can keep busy: the seconds of a group, over what one takes of the driver's time."""
    return group * seconds / (costs.send + costs.receive + costs.commit + group * costs.commit_cell)


def grouped(sweep: Sweep) -> int:
    """The cells that the engine puts into one task: half a second of small ones, and two tasks for each worker."""
    if sweep.seconds >= SMALL:
        return 1
    return max(1, min(int(FULL / max(sweep.seconds, 1e-9)), sweep.cells // (2 * sweep.workers)))


# ---- the tables of the note

SMALL, FULL = 0.05, 0.5  # of analyses/workers/grouping.py
SPREAD = 1.3  # of the logarithm of the seconds of the cells of `quick`: half a second to half a minute


def tables(costs: Costs) -> list[str]:
    """Time and efficiency over cells and workers."""
    found = ["| cells | of | workers | group | time | ideal | efficiency | driver busy | what it waits for |"]
    found.append("|---:|---:|---:|---:|---:|---:|---:|---:|---|")
    for cells, seconds in ((100, 7.0), (10_000, 7.0), (100_000, 1.0), (20_000, 0.01), (1_000_000, 0.01)):
        for workers in (1, 2, 10, 100, 1000):
            sweep = Sweep(cells, seconds, workers, spread=SPREAD)
            for group in sorted({1, grouped(sweep)} if cells < 1_000_000 else {grouped(sweep)}):
                one = replace(sweep, group=group)
                result, best = simulate(one, costs), ideal(one)
                found.append(
                    f"| {cells:,} | {seconds:g} s | {workers:,} | {group} | {_time(result.seconds)} | {_time(best)} |"
                    f" {best / result.seconds:.0%} | {result.driver:.0%} | {result.bound} |"
                )
    return found


def orders(costs: Costs, seeds: int = 20) -> list[str]:
    """What the order of few and unequal cells is worth, and what it costs to send a worker its next cell ahead."""
    heads = ("two sent ahead", "one at a time", "longest first, known within a factor of 2", "known exactly", "no less")
    found = [f"| workers | {' | '.join(heads)} |", "|---:" * (1 + len(heads)) + "|"]
    for workers in (2, 10, 50):
        plain = Sweep(200, 7.0, workers, spread=SPREAD)
        single = replace(plain, ahead=1)
        sorted_ = replace(single, longest_first=True)
        kinds = (plain, single, replace(sorted_, known_within=math.log(2)), sorted_)
        times = [[simulate(replace(kind, seed=seed), costs) for seed in range(seeds)] for kind in kinds]
        mean = [sum(one.seconds for one in some) / len(some) for some in times]
        least = [max(ideal(replace(plain, seed=seed)), times[0][seed].longest) for seed in range(seeds)]
        found.append(f"| {workers} | {' | '.join(f'{one:.0f} s' for one in [*mean, sum(least) / len(least)])} |")
    return found


def feeding(costs: Costs) -> list[str]:
    """How many workers one driver keeps busy, by the seconds of a cell and the cells of a task."""
    groups = (1, 10, 50)
    found = [f"| a cell takes | {' | '.join(f'{group} a task' for group in groups)} |"]
    found.append("|---:" * (1 + len(groups)) + "|")
    for seconds in (0.001, 0.01, 0.1, 1.0, 10.0):
        counts = (f"{most_workers(seconds, group, costs):,.0f}" for group in groups)
        found.append(f"| {seconds:g} s | {' | '.join(counts)} |")
    return found


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the overheads here, and compare")
    options = parser.parse_args(arguments)
    if options.measure:
        from benchmarks.scaling_measured import report

        report()
        return
    begun = time.perf_counter()
    print("\n".join([*tables(Costs()), "", *orders(Costs()), "", *feeding(Costs())]))
    print(f"\nsimulated in {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
