"""Errors in float32 over many tasks: `python -m benchmarks.peers.errors --tasks 48`.

Behind ReLU and max-pool a rounding that falls the other way is another path, and a task's error jumps from 1e-5 to 1e-2
or 1, in every library. A few tasks tell nothing then; the quartiles of many do. The truth is `plain` in float64.
"""

import argparse
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.peers.adapters import gradgauge, plain
from benchmarks.peers.setting import WORKLOADS


def main() -> None:
    """Print a line a number of steps and contender."""
    parser = argparse.ArgumentParser(description="errors in float32 over many tasks")
    parser.add_argument("--workload", choices=tuple(WORKLOADS), default="conv4")
    parser.add_argument("--tasks", type=int, default=48)
    options = parser.parse_args()
    torch.set_num_threads(1)
    workload = replace(WORKLOADS[options.workload], tasks=options.tasks)
    print("| steps | | lower quartile | median | upper quartile | above 1e-2 |\n|---|---|---|---|---|---|")
    for steps in workload.unrolled:
        truth = plain.unrolled(workload.setting(torch.float64, steps))
        setting = workload.setting(torch.float32, steps)
        for name, unrolled in (("gradgauge", gradgauge.unrolled), ("plain", plain.unrolled)):
            errors = relative(unrolled(setting), truth)
            quartiles = torch.quantile(errors, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
            cells = " | ".join(f"{value:.1e}" for value in quartiles)
            print(f"| {steps} | {name} | {cells} | {int((errors > 1e-2).sum())} of {options.tasks} |", flush=True)


def relative(found: Tensor, truth: Tensor) -> Tensor:
    """Each task's distance over the truth's length."""
    return (found.double() - truth).norm(dim=-1) / truth.norm(dim=-1)


if __name__ == "__main__":
    main()
