"""What sharing saves on the surface of inner steps and CG iterations: `python benchmarks/surface_grid.py`.

A grid of 7 step counts and 20 iteration counts on the sinusoid, 16 tasks, float32. `shared` is what the analyses do:
one loop of the longest count, and all ends solved as one batch, CG keeping every iterate. Against it, in interleaved
rounds: (a) the same loop and its 7 solves one by one, of 20 iterations each; (b) every one of the 140 cells by itself,
a loop and a solve. First the gradients of all three are compared, at strength 50, where CG is well posed.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from diagnostics.estimators.implicit import Implicit
from diagnostics.inner import Trajectory, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.metrics import distance
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.sweep import implicit_at_ends

STEPS = (1, 5, 10, 20, 50, 100, 200)
ITERATIONS = tuple(range(1, 21))
TASKS = 16

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

Grid = Callable[[Problem], Tensor]  # gradients (steps, iterations, B, P)


def loop(problem: Problem, steps: int) -> Trajectory:
    """The inner loop in float32."""
    theta, data = problem.draw(TASKS, 0)
    data = {key: x.float() for key, x in data.items()}
    return run_inner(problem, GradientDescent(problem.learning_rate), theta.float(), data, steps)


def keeping(iterations: int, keep: tuple[int, ...] = ()) -> ConjugateGradients:
    """CG that makes all its iterations, whatever the curvature."""
    return ConjugateGradients(iterations, keep=keep, past_negative_curvature=True)


def shared(problem: Problem) -> Tensor:
    """The whole grid from one loop and one batch of solves."""
    grid = implicit_at_ends(keeping(max(ITERATIONS), ITERATIONS), problem, loop(problem, max(STEPS)), STEPS)
    return torch.stack([solution.value for solution in grid], dim=1)


def one_loop(problem: Problem) -> Tensor:
    """The last column of the grid: one loop, and a full solve at each of its ends."""
    longest, estimator = loop(problem, max(STEPS)), Implicit(keeping(max(ITERATIONS)))
    return torch.stack([estimator(problem, longest.prefix(steps)).value for steps in STEPS]).unsqueeze(1)


def cell_by_cell(problem: Problem) -> Tensor:
    """Every cell from a loop and a solve of its own."""
    return torch.stack(
        [
            torch.stack([Implicit(keeping(count))(problem, loop(problem, steps)).value for count in ITERATIONS])
            for steps in STEPS
        ]
    )


def furthest(grid: Tensor, other: Tensor) -> float:
    """The greatest relative difference between two grids' gradients."""
    return float(distance(grid.flatten(0, -2), other.flatten(0, -2)).relative_error.max())


def seconds(grid: Grid, problem: Problem, clock: str) -> float:
    """The seconds of one call."""
    now = CLOCKS[clock]
    start = now()
    grid(problem)
    return now() - start


def main() -> None:
    """Compare the gradients, then the times."""
    parser = argparse.ArgumentParser(description="the shared grid against its parts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu: without what others use")
    parser.add_argument("--problem", default="sinusoid", help="whose grid is timed")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("expected --rounds of at least 1")
    torch.set_num_threads(1)

    posed = build("sinusoid", strength=50.0)
    grid = shared(posed)
    print(f"greatest relative difference of shared from (a): {furthest(grid[:, -1:], one_loop(posed)):.1e}")
    print(f"greatest relative difference of shared from (b): {furthest(grid, cell_by_cell(posed)):.1e}")

    problem = build(options.problem)
    grids: dict[str, Grid] = {"shared": shared, "(a) one loop, 7 solves": one_loop, "(b) 140 cells": cell_by_cell}
    found: dict[str, list[float]] = {name: [] for name in grids}
    for turn in range(options.rounds):
        names = list(grids)
        for name in names[turn % 3 :] + names[: turn % 3]:
            found[name].append(seconds(grids[name], problem, options.clock))
    print(f"\n| {options.problem}, {options.rounds} rounds | {options.clock} seconds | over shared (least to most) |")
    print("|---|---|---|")
    for name, values in found.items():
        over = [value / base for value, base in zip(values, found["shared"], strict=True)]
        print(f"| {name} | {median(values):.3g} | {median(over):.3g} ({min(over):.3g} to {max(over):.3g}) |")


if __name__ == "__main__":
    main()
