"""Products of double-words beside float64's: time, ratio and error. Run with `python benchmarks/extended_matmul.py`.

The two are timed in turns on one thread, in processor time, which other processes disturb least, and medians are
compared. The error is that of some entries, computed exactly,
in units of `|A||B|`, the product of the absolute values; double-words are good to about 2^-104. "saturated" numbers are
either of order 1 or 1e-12, so that many entries are computed a second time.
"""

from collections.abc import Callable
from fractions import Fraction
from math import log2
from statistics import median
from time import process_time

import torch
from torch import Tensor

from diagnostics.arithmetic.double_word import Pair
from diagnostics.arithmetic.ozaki import matmul, slice_count, slice_width

SHAPES = (
    (25, 10, 40, 40), (25, 40, 10, 40), (25, 20, 20, 1), (25, 10, 40, 1), (25, 1, 40, 40), (25, 10, 1, 40),
    (1, 64, 64, 64), (1, 256, 256, 256), (1, 512, 512, 512),
)  # fmt: skip


def drawn(*shape: int, seed: int, saturated: bool) -> Pair:
    """Normal numbers with random low words."""
    generator = torch.Generator().manual_seed(seed)
    high = torch.randn(*shape, generator=generator, dtype=torch.float64)
    if saturated:
        high = torch.where(high > 1, high, high * 1e-12)
    return high, high * 2.0**-55 * torch.rand(*shape, generator=generator, dtype=torch.float64)


def seconds(functions: tuple[Callable[[], object], ...], turns: int) -> list[float]:
    """The median time of each function, called in turns."""
    times = [[] for _ in functions]
    for _ in range(turns):
        for function, taken in zip(functions, times, strict=True):
            start = process_time()
            function()
            taken.append(process_time() - start)
    return [median(taken) for taken in times]


def error(found: Pair, x: Pair, y: Pair, samples: int = 20) -> float:
    """The largest `|error| / |x||y|` of entries along the diagonal of the first matrix."""

    def exact(word: Pair, index: tuple[slice | int, ...]) -> list[Fraction]:
        high, low = (w[index].reshape(-1).tolist() for w in word)
        return [Fraction(h) + Fraction(rest) for h, rest in zip(high, low, strict=True)]

    worst = 0.0
    for i in range(min(samples, *found[0].shape[1:])):
        terms = [a * b for a, b in zip(exact(x, (0, i)), exact(y, (0, slice(None), i)), strict=True)]
        wrong = abs(exact(found, (0, i, i))[0] - sum(terms))
        worst = max(worst, float(wrong / sum(map(abs, terms))))
    return worst


def row(shape: tuple[int, int, int, int], saturated: bool) -> str:
    """One line of the table."""
    b, m, k, n = shape
    x, y = drawn(b, m, k, seed=0, saturated=saturated), drawn(b, k, n, seed=1, saturated=saturated)
    high: Tensor = x[0]
    plain, extended = seconds((lambda: torch.bmm(high, y[0]), lambda: matmul(x, y)), 7 if m > 64 else 51)
    worst = error(matmul(x, y), x, y)
    return "  ".join(
        (
            f"{'x'.join(map(str, shape)):>15}",
            f"{'saturated' if saturated else 'normal':>9}",
            f"{slice_count(k)} x {slice_width(k)}",
            f"{plain * 1e6:11.0f}",
            f"{extended * 1e6:12.0f}",
            f"{extended / plain:7.1f}",
            f"{f'2^{log2(worst):.1f}' if worst else '0':>8}",
        )
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.ones(3 * 2**20, dtype=torch.float64)  # freed at once: from then on the allocator keeps memory of that size
    print("    batch,m,k,n    numbers  slices   float64 us   extended us    ratio     error")
    for shape in SHAPES:
        print(row(shape, False))
    for shape in ((25, 10, 40, 40), (1, 256, 256, 256)):
        print(row(shape, True))
