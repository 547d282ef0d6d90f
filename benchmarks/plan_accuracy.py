"""How far off the estimates of a dry run are: each cell estimated, then measured, in seconds and in bytes.

python -m benchmarks.plan_accuracy smoke            every cell of the preset
python -m benchmarks.plan_accuracy quick --every 3  each third of them
python -m benchmarks.plan_accuracy smoke --bytes    the memory too, each cell in a fresh process once more
"""

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from analyses.analysis import Cell, measurements
from analyses.analysis import analyses as all_analyses
from analyses.estimate import estimate
from analyses.settings import resolve
from cli import ANALYSES
from diagnostics.cost.process_bytes import process_bytes
from diagnostics.recording import recording


def cells_of(preset: str, every: int) -> list[Cell]:
    """Every so-manieth cell of a preset, each once."""
    settings = resolve(ANALYSES, preset, {}, {})
    cells = {cell.key: cell for name in ANALYSES for cell in all_analyses[name].cells(settings)}
    return list(cells.values())[::every]


def again(cell: Cell) -> partial[object]:
    """The cell's measurement, for a fresh process; the libraries that a first gradient loads are loaded first."""
    small = dict(cell.spec) | {"tasks": 1, "steps": (1,), "iterations": (1,), "patience": 1, "traced": ()}
    known = {key: value for key, value in small.items() if key in cell.spec}
    measurements[cell.measurement](known)
    return partial(measurements[cell.measurement], cell.spec)


def compared(cells: Sequence[Cell], with_bytes: bool) -> Iterator[tuple[Cell, float, float, int, int | None]]:
    """Each cell with its seconds, as told and as taken, and its bytes."""
    for cell in cells:
        told = estimate(cell)
        assert told is not None
        begun = time.process_time()
        with recording("auto"):
            measurements[cell.measurement](cell.spec)
        taken = time.process_time() - begun
        yield cell, told.seconds, taken, told.bytes, process_bytes(partial(again, cell)) if with_bytes else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each cell, and how many are within which factor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--bytes", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cells = cells_of(options.preset, options.every)
    begun = time.perf_counter()
    for cell in cells:
        estimate(cell)
    print(f"{len(cells)} cells estimated in {time.perf_counter() - begun:.1f} s")
    off, off_bytes, told, taken = [], [], 0.0, 0.0
    for cell, expected, real, size, used in compared(cells, options.bytes):
        off.append(expected / real)
        told, taken = told + expected, taken + real
        memory = ""
        if used:
            off_bytes.append(size / used)
            memory = f"  {size / 2**20:.0f} of {used / 2**20:.0f} MiB = {size / used:.2f}"
        named = f"{cell.measurement} {cell.spec['problem']}, {cell.spec['inner_optimizer']}"
        print(f"{expected:7.2f} of {real:7.2f} s = {expected / real:5.2f}{memory}  {named}", flush=True)
    print(f"in all {told:.0f} s told, {taken:.0f} s taken")
    for what, ratios in (("seconds", off), ("bytes", off_bytes)):
        for factor in (1.5, 2, 3, 5) if ratios else ():
            within = sum(abs(math.log(ratio)) <= math.log(factor) for ratio in ratios)
            print(f"{what} within a factor of {factor}: {within} of {len(ratios)}")


if __name__ == "__main__":
    main()
