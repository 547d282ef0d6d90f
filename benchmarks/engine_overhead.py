"""What the engines cost beside the cells: `python -m benchmarks.engine_overhead`.

Cells that sleep stand for cells that compute, so that the workers do not compete for the cores. Times are from the
first result to the last, so that starting the workers, which is told apart, is not among them. `ideal` is seconds of
cells over workers; the overhead is what a cell takes beyond it.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import dask.config

from analyses import run
from analyses.engine import Asked, Failed, engine
from analyses.store import Store
from tests.analyses.pretend import MODULE, cells


@dataclass(frozen=True)
class Timed:
    """Seconds until the first result, from there to the last, and from the last to the end; the rest is counts."""

    start: float
    work: float
    end: float
    batches: int


def timed(asked: Asked, count: int, seconds: float) -> Timed:
    """Measure so many cells of so many seconds, each batch kept in a store as a run keeps it."""
    moments, batches = [time.perf_counter()], 0
    with TemporaryDirectory() as folder:
        store = Store(Path(folder) / "run.sqlite")
        store.begin({})
        with engine(asked, print) as measuring, store.opened() as kept:
            for results in measuring.results(cells(count, seconds=seconds), "auto"):
                kept.put_many([run.to_keep(result) for result in results if not isinstance(result, Failed)])
                batches += bool(results)
                if results:
                    moments = [moments[0], moments[1] if len(moments) > 1 else time.perf_counter(), time.perf_counter()]
            if len(kept.keys()) != count:
                raise SystemExit(f"expected {count} cells in the store, found {len(kept.keys())}")
        ended = time.perf_counter()
    return Timed(moments[1] - moments[0], moments[2] - moments[1], ended - moments[2], batches)


def main() -> None:
    """Three sweeps by each engine."""
    parser = argparse.ArgumentParser(description="what the engines cost beside the cells")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    workers, rounds = options.workers, options.rounds
    engines = {"inline": Asked(), f"local, {workers} workers": Asked(engine="local", workers=workers)}
    print("| cells | engine | seconds | ideal | of ideal | overhead a cell | tasks | start | end |")
    print("|---|---|---|---|---|---|---|---|---|")
    with dask.config.set({"distributed.worker.preload": [MODULE]}):
        for count, seconds in ((2_000, 0.01), (20_000, 0.0), (100, 0.2)):
            for _ in range(rounds):
                for name, asked in engines.items():
                    found = timed(asked, count, seconds)
                    ideal = count * seconds / (asked.workers or 1)
                    share = f"{ideal / found.work:.0%}" if ideal else ""
                    # Each worker's own overhead: several of them wait at the same time.
                    each = (found.work - ideal) * (asked.workers or 1) / count
                    print(
                        f"| {count} of {1e3 * seconds:g} ms | {name} | {found.work:.2f} | {ideal:.2f} | {share} | "
                        f"{1e3 * each:.2f} ms | {found.batches} | {found.start:.1f} s | {found.end:.1f} s |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
