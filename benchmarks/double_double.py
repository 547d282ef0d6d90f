"""How much slower double-words are than float64: `python benchmarks/double_double.py`.

One thread. The two are timed in turn, so that what else the machine does falls on both; the times are medians.
The first line is the floor: double-word addition is 20 such passes, multiplication 19, exp about 150. Where a tensor is
small, the cost is that of the calls, one a pass.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from diagnostics.arithmetic import blocks, elementary
from diagnostics.arithmetic import double_word as dw
from diagnostics.arithmetic.double_word import Pair
from diagnostics.arithmetic.precision import enter_rows, precision
from diagnostics.estimators.implicit import Implicit
from diagnostics.estimators.unrolled import Unrolled
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import run_inner
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.optimizers.gd import GradientDescent
from diagnostics.problem_names import build

SHAPES = ((1,), (25, 10, 40), (25, 1761), (1000, 1000))


@dataclass(frozen=True)
class Row:
    """An operation in the two arithmetics, and how many times slower the second may be (None: as it comes)."""

    operation: str
    size: str
    native: Callable[[], object]
    extended: Callable[[], object]
    bound: float | None = None


def pair(shape: tuple[int, ...], seed: int, positive: bool = False) -> Pair:
    """Normal numbers with low words, or their absolute values."""
    generator = torch.Generator().manual_seed(seed)
    high, low = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return dw.fast_two_sum(high.abs() if positive else high, low * 2.0**-58 * high)


def elementwise_rows() -> Iterator[Row]:
    """Arithmetic, sums and elementary functions, at the sizes of a small network and at a million."""
    for shape in SHAPES:
        size, million = "x".join(map(str, shape)), shape == SHAPES[-1]
        x, y, positive = pair(shape, 0), pair(shape, 1), pair(shape, 2, positive=True)

        def row(
            name: str,
            native: Callable[..., Tensor],
            extended: Callable[..., Pair],
            *numbers: Pair,
            bound: float | None = None,
            size: str = size,
            million: bool = million,
        ) -> Row:
            highs = [number[0] for number in numbers]
            return Row(name, size, lambda: native(*highs), lambda: extended(*numbers), bound if million else None)

        yield row("add", torch.add, dw.add, x, y, bound=40)
        yield row("multiply", torch.mul, dw.multiply, x, y, bound=40)
        yield row("divide", torch.div, dw.divide, x, y)
        yield row("square root", torch.sqrt, dw.square_root, positive)
        yield row("total", torch.sum, lambda x: dw.total(x, tuple(range(x[0].ndim)), False), x)
        yield row("exp", torch.exp, elementary.exp, x, bound=200)
        yield row("tanh", torch.tanh, elementary.tanh, x, bound=200)
        yield row("log", torch.log, elementary.log, positive)
        yield row("sigmoid", torch.sigmoid, elementary.sigmoid, x)
        yield row("softplus", torch.nn.functional.softplus, elementary.softplus, x)


def gradient_rows() -> Iterator[Row]:
    """Whole gradients of the sinusoid, 25 tasks: 20 inner steps unrolled, and 5 iterations of CG at their end."""
    problem = build("sinusoid")
    theta, data = problem.draw(25, 0)
    loops = [
        run_inner(problem, GradientDescent(problem.learning_rate), arithmetic.enter(theta), held, 20)
        for arithmetic in map(precision, ("float64", "extended"))
        for held in (enter_rows(arithmetic, data),)
    ]
    for name, estimator, bound in (
        ("unrolled", Unrolled(), 60),
        ("adjoint", UnrolledAdjoint(), None),
        ("implicit", Implicit(ConjugateGradients(5)), None),
    ):
        native, extended = (partial(estimator, problem, loop) for loop in loops)
        yield Row(name, "25 tasks", native, extended, bound)


def medians(row: Row, seconds: float = 1.0, least: int = 7) -> tuple[float, float]:
    """Median times of the two, in seconds, run in turn for about as long as asked."""
    times: tuple[list[float], list[float]] = ([], [])
    for function in (row.native, row.extended):
        function()
    end = time.perf_counter() + seconds
    while len(times[0]) < least or (time.perf_counter() < end and len(times[0]) < 1000):
        for function, taken in zip((row.native, row.extended), times, strict=True):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def seconds_of_a_pass() -> float:
    """One float64 addition of blocks that are in the cache, in seconds an element."""
    a = torch.ones(blocks.BLOCK, dtype=torch.float64)
    b, c = a.clone(), a.clone()
    taken, _ = medians(Row("", "", lambda: torch.add(a, b, out=c), lambda: None), 0.2)
    return taken / blocks.BLOCK


def report(rows: Iterator[Row]) -> None:
    """Time the rows and print them as a table."""
    print(f"{'operation':12} {'size':>10} {'float64':>12} {'double-word':>12} {'ratio':>7} {'bound':>6}")
    for row in rows:
        native, extended = medians(row)
        bound = "" if row.bound is None else f"{row.bound:.0f}"
        verdict = " exceeded" if row.bound is not None and extended > row.bound * native else ""
        print(
            f"{row.operation:12} {row.size:>10} {native * 1e6:9.1f} us {extended * 1e6:9.1f} us "
            f"{extended / native:7.1f} {bound:>6}{verdict}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"one float64 addition in the cache: {seconds_of_a_pass() * 1e9:.3f} ns an element")
    report(chain(elementwise_rows(), gradient_rows()))
