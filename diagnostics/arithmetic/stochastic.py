"""Stochastic arithmetic: how many digits of a result are significant, from samples of it under random rounding.

After each operation every number of its result is moved by one unit in the last place, up or down, with probability
1/8 each. That is the law of Monte Carlo arithmetic's random rounding (Parker 1997) as far as the rounded result tells:
with the exact result at y + f ulp, f uniform in [-1/2, 1/2] about the rounded y, random rounding keeps y with
probability 1 - |f| and takes its neighbour towards the exact result otherwise, which is 1/8 to each side on average.
Noise of relative size 2^-24 added to a float32 result and rounded again would change nothing.

The random numbers are a hash of the number's bits, its place in its tensor and a seed. So the same operation on the
same numbers is rounded the same way (synchronous rounding, as in Jezequel and Chesneaux 2008): a loop that is rerun
meets its recorded states again, which estimators insist on, while the copies of a task, in other rows, are
independent samples.

Significance from n samples X of a gradient (Sohier, de Oliveira Castro, Fevotte, Lathuiliere, Petit and Jamond 2021,
arXiv 1807.09655), with sigma the standard deviation |X - mean| / |mean|, normwise:

    value            -log10 sigma                                                       (Parker 1997)
    centred normal   -log10 sigma - log10 sqrt((n-1)/chi2) - log10 PhiInv((p+1)/2)      chi2: lower alpha/2 quantile
    general          -log10 max |X - mean| / |mean|,  which holds with p = alpha^(1/n)

Of what happens inside a kernel nothing is seen: a long sum is one operation. See docs/arithmetic.md.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import log10

import torch
from torch import Tensor

from diagnostics.arithmetic.after_each import after_each_operation
from diagnostics.inner import Optimizer, run_inner
from diagnostics.meta_gradient import Estimator
from diagnostics.problem import Problem
from diagnostics.rows import Data, repeat_rows, row_norms

_BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}  # whole numbers as wide as the format's


@dataclass(frozen=True)
class Digits:
    """Significant decimal digits of a gradient, each `(B,)`, from 0 to those of the arithmetic.

    `value` is the estimate. With the confidence asked for, a further sample agrees with the mean to `normal` digits
    with the `probability` asked for, if the samples are normal; and to `general` digits, whatever their law, with
    `general_probability`. NaN where a sample is not finite.
    """

    value: Tensor
    normal: Tensor
    general: Tensor
    general_probability: float


def random_rounding(seed: int = 0) -> AbstractContextManager[object]:
    """A context in which each operation's result is moved by one unit in the last place at random; see the module.

    Zeros, infinities and NaN stay. Exact operations, which cannot be told from others by their result, are moved too.
    """
    return after_each_operation(lambda x, kind: _moved(x, seed))


def significant_digits(samples: Tensor, confidence: float = 0.95, probability: float = 0.99) -> Digits:
    """The significant digits of `samples (n, B, P)` of B gradients, as vectors: errors are relative to the mean's norm.

    The bound for normal samples takes the error for a multiple of one normal variable, which has the heaviest tail of
    all quadratic forms of a variance (Szekely and Bakirov 2003, for probabilities above 0.79). `ValueError` for fewer
    than two samples and for confidence or probability that are none.
    """
    count = len(samples)
    if count < 2:
        raise ValueError(f"significant digits: expected at least 2 samples, found {count}")
    for name, share, least in (("confidence", confidence, 0.0), ("probability", probability, 0.79)):
        if not least < share < 1:
            raise ValueError(f"significant digits: expected a {name} between {least:g} and 1, found {share}")
    most = -log10(torch.finfo(samples.dtype).eps / 2)
    samples = samples.double()
    mean = samples.mean(0)
    away = torch.stack([row_norms(sample - mean) for sample in samples])
    size = row_norms(mean)
    alpha = 1 - confidence
    spread = torch.tensor(chi2_quantile(alpha / 2, count - 1) / (count - 1), dtype=torch.float64).sqrt()
    width = torch.special.ndtri(torch.tensor((probability + 1) / 2, dtype=torch.float64))

    def digits(error: Tensor) -> Tensor:
        return torch.where(error == 0, most, (size / error).log10()).clamp(0, most)

    sigma = ((away**2).sum(0) / (count - 1)).sqrt()
    return Digits(digits(sigma), digits(sigma * width / spread), digits(away.amax(0)), alpha ** (1 / count))


def stochastic_digits(
    estimator: Estimator,
    problem: Problem,
    optimizer: Optimizer,
    theta: Tensor,
    data: Data,
    steps: int,
    *,
    samples: int = 30,
    confidence: float = 0.95,
    seed: int = 0,
) -> Digits:
    """The significant digits `(B,)` of an estimator's meta-gradient after `steps` inner steps, random rounding in both.

    The samples are copies of the tasks in one batch of `samples * B` rows, in the arithmetic of `theta (B, P)`.
    """
    with random_rounding(seed):
        loop = run_inner(problem, optimizer, theta.repeat(samples, 1), repeat_rows(data, samples), steps)
        gradient = estimator(problem, loop)
    return significant_digits(gradient.value.reshape(samples, *theta.shape), confidence)


def chi2_quantile(probability: float, freedom: int) -> float:
    """The number that a chi-squared variable of `freedom` degrees is below with `probability`.

    By bisection of its distribution function, the regularised incomplete gamma function at (freedom/2, x/2).
    """
    half = torch.tensor(freedom / 2, dtype=torch.float64)
    low, high = 0.0, 1.0

    def below(x: float) -> bool:
        return bool(torch.special.gammainc(half, torch.tensor(x / 2, dtype=torch.float64)) < probability)

    while below(high):
        high *= 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if below(middle) else (low, middle)
    return high


def _moved(x: Tensor, seed: int) -> Tensor:
    """Each number of `x`, or a neighbour of it, by the hash of its bits, place and seed."""
    bits = x.contiguous().view(_BITS[x.element_size()])
    place = torch.arange(x.numel(), device=x.device).view(x.shape)
    draw = _mixed(place.mul_(_ODD).add_(seed).mul_(_ODD).add_(bits)) & 7  # one of eight
    step = (draw == 0).to(bits.dtype) - (draw == 1).to(bits.dtype)
    movable = x.isfinite() & (x != 0)
    return torch.where(movable, (bits + step).view(x.dtype), x)


_ODD = -0x61C8864680B583EB  # 2^64 over the golden ratio, as a signed number: products with it spread over all bits


def _mixed(x: Tensor) -> Tensor:
    """Whole numbers mixed, in place, until each bit depends on all: SplitMix64's end (Steele, Lea, Flood 2014)."""
    x.bitwise_xor_(_shifted(x, 30)).mul_(-0x40A7B892E31B1A47)
    x.bitwise_xor_(_shifted(x, 27)).mul_(-0x6B2FB644ECCEEE15)
    return x.bitwise_xor_(_shifted(x, 31))


def _shifted(x: Tensor, by: int) -> Tensor:
    """The bits moved right and filled up with zeros; torch's shift repeats the sign."""
    return (x >> by).bitwise_and_((1 << (64 - by)) - 1)
