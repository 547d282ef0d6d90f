"""How far a gradient is from what its products of matrices would take alone: `python benchmarks/floor.py`.

The floor is the number of floating-point operations over the rate of this machine's own large matrix product. One
thread, float32, recorded programs. What stands between is told by calling each of the gradient's operations by itself:
the products at their own sizes, the operations on elements, the views. What is left is the interpreter, and memory that
is no longer in the cache.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diagnostics.chunks import in_chunks, tasks_that_fit
from diagnostics.cost.flops import flops
from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.unrolled import Unrolled
from diagnostics.inner import Trajectory, run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.problem_names import build
from diagnostics.recording import recording
from diagnostics.rows import take_rows

PRODUCTS = ("mm", "convolution")  # within the names of torch's operations
CASES = {
    "sinusoid": ("sinusoid", 25, ((5, None), (20, None), (100, None), (5, 5), (20, 20))),
    "conv4": ("few_shot[queries=15]", 4, ((5, None), (5, 5))),
}


def seconds(call: Callable[[], object], rounds: int) -> float:
    """The median seconds of this thread over the rounds."""
    call()
    found = []
    for _ in range(rounds):
        start = time.thread_time()
        call()
        found.append(time.thread_time() - start)
    return median(found)


def large_product() -> float:
    """The operations a second of a product of two float32 matrices of 1,024 rows and columns."""
    a, b = torch.randn(2, 1024, 1024)
    return 2 * 1024**3 / seconds(lambda: a @ b, 9)


def gradient(problem: str, tasks: int, steps: int, iterations: int | None) -> Callable[[], object]:
    """The call that makes the gradient: the loop, and the way back or the solve."""
    found = build(problem)
    theta, data = found.draw(tasks, 0)
    theta, data = theta.float(), {key: x.float() if x.is_floating_point() else x for key, x in data.items()}
    size = tasks_that_fit(found, theta, data, copies=steps)
    optimizer = GradientDescent(found.learning_rate)

    def loop(rows: slice, keep: range | tuple[int, ...]) -> Trajectory:
        return run_inner(found, optimizer, theta[rows], take_rows(data, rows), steps, keep)

    if iterations is None:  # Unrolled runs the loop again: the one that is there is made beforehand
        loops = in_chunks(lambda rows: loop(rows, range(steps + 1)), tasks, size)
        return lambda: [Unrolled()(found, each) for each in loops]
    estimator = Implicit(ConjugateGradients(iterations, past_negative_curvature=True))
    return lambda: in_chunks(lambda rows: estimator(found, loop(rows, (steps,))), tasks, size)


class _Operations(TorchDispatchMode):
    """Each operation that is called, by its name and the layout of its tensors: how often, and how to call it."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Hashable] = Counter()
        self.calls: dict[Hashable, tuple[OpOverload, Callable[[], object]]] = {}

    def __torch_dispatch__(self, operation: OpOverload, types: object, args: Any = (), kwargs: Any = None) -> Any:
        layout = [
            (x.shape, x.stride()) if isinstance(x, torch.Tensor) else repr(x) for x in tree_leaves((args, kwargs))
        ]
        key = (str(operation), *layout)
        self.counts[key] += 1
        self.calls.setdefault(key, (operation, partial(operation, *args, **(kwargs or {}))))
        return operation(*args, **(kwargs or {}))


def alone(call: Callable[[], object]) -> dict[str, float]:
    """The seconds that its operations take one by one, without what lies between them, by what they do."""
    with _Operations() as seen:
        call()
    spent = {"products": 0.0, "elements": 0.0, "views": 0.0}
    for key, (operation, again) in seen.calls.items():
        product = any(word in str(operation) for word in PRODUCTS)
        many = max(1, int(2e-3 / max(seconds(again, 3), 1e-6)))  # for 2 ms at a time
        each = seconds(lambda again=again, many=many: [again() for _ in range(many)], 3) / many
        spent["products" if product else "views" if operation.is_view else "elements"] += each * seen.counts[key]
    return spent


def main() -> None:
    """Measure and print a line a case."""
    parser = argparse.ArgumentParser(description="How far the gradients are from their floor.")
    parser.add_argument("--workload", choices=sorted(CASES), action="append", help="default: both")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rate = large_product()
    print(f"large float32 product: {rate / 1e9:.0f} GFLOP/s, one thread\n")
    print("| gradient | ms | MFLOP | floor, ms | over the floor | products alone | elements alone | views alone |")
    print("|---|---|---|---|---|---|---|---|")
    for workload in options.workload or sorted(CASES, reverse=True):
        problem, tasks, settings = CASES[workload]
        for steps, iterations in settings:
            with recording("now"):
                call = gradient(problem, tasks, steps, iterations)
                taken, spent = seconds(call, options.rounds), alone(call)
            with recording("off"):
                count = flops(gradient(problem, tasks, steps, iterations))
            floor = count / rate
            what = f"{workload}, {steps} steps" + (f", {iterations} CG" if iterations else ", unrolled")
            of = " | ".join(f"{spent[kind] / taken:.0%}" for kind in ("products", "elements", "views"))
            print(
                f"| {what} | {1e3 * taken:.3g} | {count / 1e6:.3g} | {1e3 * floor:.3g} | {taken / floor:.3g} | {of} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
