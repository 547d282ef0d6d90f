"""References that say how far they can be trusted.

A reference is computed in two settings: in full, and in a coarser setting of the same arithmetic (see
`arithmetic.cut`); or in extended precision and in float64, where what it judges is coarser than float64. An error that
is not `ACCEPTED` times larger than the difference of the two is not told by this reference.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.arithmetic.cut import cutting
from diagnostics.arithmetic.precision import Precision, precision
from diagnostics.chunks import saved_bytes
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.inner import Trajectory
from diagnostics.metrics import distance
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.reference import FLOAT64, at_minimiser, in_arithmetic, minimise
from diagnostics.rows import Data
from diagnostics.sweep import Sweep, along_the_path

ACCEPTED = 100.0
COARSER = {"extended": 2.0**-78, "float64": 2.0**-43}  # epsilon once results are cut short

# What a step of a loop and of its reverse sweep takes in extended precision on one core: some hundreds of operations,
# whatever their size, and then so much for each number that autograd keeps. It is an estimate, and not a clock, so that
# a run comes out alike everywhere; convolutions take three times as long.
SECONDS_A_STEP = 0.02
SECONDS_A_NUMBER = 2.5e-6


@dataclass(frozen=True)
class Certified:
    """A reference `(E, B, P)`, the arithmetic it is in, and the relative difference `(E, B)` of its two settings."""

    sweep: Sweep
    arithmetic: str
    uncertainty: Tensor

    def cannot_tell(self, relative_error: Tensor) -> Tensor:
        """Which errors, of the uncertainty's shape or flat, are too small for this reference; NaN is neither."""
        return relative_error < ACCEPTED * self.uncertainty.view(relative_error.shape)


def certified(
    compute: Callable[[Precision], dict[str, Sweep]], arithmetic: Precision, finest: Precision
) -> dict[str, Certified]:
    """What `compute` gives in the arithmetic, and by how much a second setting differs.

    `finest` is the finest arithmetic that is to be judged by it.
    """
    by_float64 = arithmetic.eps < FLOAT64.eps < finest.eps
    full, short = compute(arithmetic), compute(FLOAT64 if by_float64 else coarser(arithmetic))

    def apart(name: str) -> Tensor:
        found = distance(short[name].value.flatten(0, 1), full[name].value.flatten(0, 1))
        # Where the full setting has a number and the coarser one has none, nothing vouches for it.
        alone = full[name].value.isfinite().all(-1).flatten() & found.relative_error.isnan()
        return torch.where(alone, torch.inf, found.relative_error).view(full[name].outcome.shape)

    return {name: Certified(full[name], arithmetic.name, apart(name)) for name in full}


def coarser(arithmetic: Precision) -> Precision:
    """The arithmetic with every result cut short; `extended` and `float64` have such a setting."""
    name = arithmetic.name
    return replace(arithmetic, name=f"{name}, cut short", eps=COARSER[name], running=cutting)


def certified_unrolled(
    problem: Problem, trajectory: Trajectory, steps: Sequence[int], arithmetic: Precision, finest: Precision
) -> Certified:
    """The unrolled reference at the ends of several loop lengths, in one sweep a setting."""

    def compute(setting: Precision) -> dict[str, Sweep]:
        loop = in_arithmetic(problem, trajectory, setting)
        with setting.running():
            return {"unrolled": along_the_path(UnrolledAdjoint(), problem, loop, steps)}

    return certified(compute, arithmetic, finest)["unrolled"]


def certified_stationary(
    problem: Problem, trajectory: Trajectory, ends: Sweep, patience: int, arithmetic: Precision, finest: Precision
) -> Certified:
    """The stationary reference, repeated for all of `ends`: every loop length has the same minimiser."""
    loop = in_arithmetic(problem, trajectory, FLOAT64)
    found = minimise(problem, loop, patience)
    shape = ends.outcome.shape

    def compute(setting: Precision) -> dict[str, Sweep]:
        gradient = at_minimiser(problem, loop, trajectory, found, setting)
        # A loop that diverges later has no minimiser to compare its earlier ends with.
        codes = outcome.where(gradient.outcome != Outcome.OK.code, Outcome.NOT_STATIONARY)
        return {"stationary": replace(ends, value=gradient.value.expand(*shape, -1), outcome=codes.expand(shape))}

    return certified(compute, arithmetic, finest)["stationary"]


def affordable(problem: Problem, theta: Tensor, data: Data, steps: int, seconds: float) -> Precision:
    """`extended` where an unrolled reference of `steps` steps is estimated to take at most so long, else `float64`."""
    numbers = saved_bytes(problem, theta, data) / theta.element_size()
    estimate = 2 * (steps + 1) * (SECONDS_A_STEP + SECONDS_A_NUMBER * numbers)  # in two settings
    return precision("extended" if estimate <= seconds else "float64")
