"""`python -m benchmarks.peers --help`; `make bench-peers` builds the environment first. See docs/speed.md."""

import argparse
import platform
import sys
import warnings
from pathlib import Path

import torch

from benchmarks.peers.contenders import LEFT_OUT, present
from benchmarks.peers.measure import Cell, Row, measure
from benchmarks.peers.rounds import CLOCKS
from benchmarks.peers.setting import WORKLOADS, Workload
from benchmarks.peers.tables import markdown, write


def cells(workload: Workload, method: str | None, quick: bool) -> list[Cell]:
    """The cells of a workload, of one method or of both."""
    every = {
        "unrolled": [Cell(workload, steps, None) for steps in workload.unrolled],
        "implicit": [Cell(workload, steps, iterations) for steps, iterations in workload.implicit],
    }
    return [cell for name in every if method in (None, name) for cell in every[name][: 1 if quick else None]]


def arguments() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="gradgauge beside its peers")
    parser.add_argument("--workload", choices=sorted(WORKLOADS), action="append", help="one of them; default: all")
    parser.add_argument("--method", choices=("unrolled", "implicit"), help="default: both")
    parser.add_argument("--quick", action="store_true", help="the first cell of each workload and method only")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default %(default)s)")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu: without what others use")
    parser.add_argument("--compile", action="store_true", help="also what torch.compile gives; compiles for minutes")
    parser.add_argument("--no-memory", action="store_true", help="leave the count of bytes out")
    parser.add_argument("--output", type=Path, default=Path("reports/peers"), help="folder of the CSV files")
    options = parser.parse_args()
    if options.rounds < 1 or options.threads < 1:
        parser.error("expected --rounds and --threads of at least 1")
    if options.clock == "cpu" and options.threads > 1:
        parser.error("expected --threads 1 with --clock cpu, which adds the threads up")
    return options


def main() -> None:
    """Measure, print the tables, write the CSV files."""
    options = arguments()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torchopt")  # its own use of functorch
    rows: list[Row] = []
    absent = dict(LEFT_OUT)
    for name in options.workload or sorted(WORKLOADS, reverse=True):
        for cell in cells(WORKLOADS[name], options.method, options.quick):
            contenders, missing = present(cell.method, options.compile)
            absent |= missing
            print(f"{name}, {cell.method}, {cell.label} ...", file=sys.stderr, flush=True)
            rows += measure(cell, contenders, options.rounds, clock=options.clock, memory=not options.no_memory)
            write(rows, absent, options.output)  # after every cell, so that a run that is stopped leaves what it has
    how = f"{options.threads} thread(s), {options.rounds} rounds, {options.clock} clock"
    print(f"torch {torch.__version__}, {platform.machine()}, {how}\n")
    print(markdown(rows))
    print("\nAbsent:\n" + "\n".join(f"- {name}: {reason}" for name, reason in absent.items()))


if __name__ == "__main__":
    main()
