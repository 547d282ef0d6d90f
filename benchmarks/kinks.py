"""Where a Conv4's inner loop in float32 leaves that in float64: `python -m benchmarks.kinks --tasks 48`.

Each task of the benchmark's Conv4 (glyphs, 5 ways of 1 shot) is run in both from the same weights. At every state the
maxima are compared that the network chooses on the images of the inner loss: a choice is where a max-pool's greatest
sits, or that the ReLU behind it is shut. A step is a jump if the distance between the two states grows tenfold in it.
"""

import argparse
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from diagnostics.inner import Trajectory, run_inner
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.rows import take_rows

JUMP = 10.0


class _Choices(TorchDispatchMode):
    """What every max-pool chooses: the place of the greatest, -1 where it is not positive."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_dispatch__(self, operation: OpOverload, types: object, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        if operation is torch.ops.aten.max_pool2d_with_indices.default:
            self.found.append(torch.where(result[0] > 0, result[1], -1).flatten())
        return result


def choices(problem: Problem, trajectory: Trajectory, step: int) -> Tensor:
    """All of one task's network at a state of its loop."""
    with _Choices() as seen, torch.no_grad():
        problem.inner_loss(trajectory.states[step], trajectory.theta, trajectory.data)
    return torch.cat(seen.found)


def apart(problem: Problem, single: Trajectory, double: Trajectory) -> tuple[list[float], list[int]]:
    """At every state: the distance over the way that float64 went, and how many choices differ; 0 at the start."""
    distances, differ = [0.0], [0]
    for step in range(1, single.steps + 1):
        way = (double.states[step] - double.states[0]).norm()
        distances.append(float((single.states[step].double() - double.states[step]).norm() / way))
        differ.append(int((choices(problem, single, step) != choices(problem, double, step)).sum()))
    return distances, differ


def main() -> None:
    """Print a line a task that jumps, and the count of all."""
    parser = argparse.ArgumentParser(description="where a Conv4's loop in float32 leaves that in float64")
    parser.add_argument("--tasks", type=int, default=48)
    parser.add_argument("--steps", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    problem = build("few_shot[queries=15]")
    optimizer, every = GradientDescent(problem.learning_rate), range(options.steps + 1)
    theta, data = problem.draw(options.tasks, 0)
    theta, data = theta.float(), {key: x.float() if x.is_floating_point() else x for key, x in data.items()}
    jumps, with_choice, quiet, worst = 0, 0, 0, 0.0
    print("| task | distance after each step / choices that differ there |\n|---|---|")
    for task in range(options.tasks):
        row = slice(task, task + 1)
        start, images = theta[row], take_rows(data, row)
        wide = {key: x.double() if x.is_floating_point() else x for key, x in images.items()}
        single = run_inner(problem, optimizer, start, images, options.steps, every)
        double = run_inner(problem, optimizer, start.double(), wide, options.steps, every)
        distances, differ = apart(problem, single, double)
        at = [k for k in every[1:-1] if distances[k + 1] > JUMP * distances[k]]
        jumps, with_choice = jumps + len(at), with_choice + sum(differ[k] > 0 for k in at)
        if at:
            cells = ", ".join(f"{d:.0e}/{n}" for d, n in zip(distances[1:], differ[1:], strict=True))
            print(f"| {task} | {cells} |", flush=True)
        else:
            quiet, worst = quiet + 1, max(worst, max(distances))
    print(f"\n{jumps} jumps, {with_choice} of them from a state where a choice differs.")
    print(f"{quiet} of {options.tasks} tasks have none; the greatest distance in these is {worst:.1e}.")


if __name__ == "__main__":
    main()
