"""Whose the error of a meta-gradient is: vectors that add up to it, one for each ingredient that is not exact.

From the gradient that was measured to the gradient that was wanted, one ingredient at a time is replaced by its exact
version, and each replacement moves the gradient by one part of the error:

    implicit      measured --rounding--> exact arithmetic --solver--> exact solve --inner--> target
    unrolled      measured --rounding--> exact arithmetic --truncation--> target
    first order   measured --rounding--> exact arithmetic --first_order--> unrolled --truncation--> target

The target is `stationary`, the derivative of the minimiser, or `unrolled`, that of the algorithm, where nothing is
truncated. With i iterations of CG, phi_K the end of the loop and phi* its minimiser,

    rounding      g(this arithmetic, i, phi_K) - g(exact arithmetic, i, phi_K)     each with its own phi_K
    solver        g(i, phi_K) - g(solved, phi_K)                                   exact arithmetic from here on
    inner         g(solved, phi_K) - target                                        phi_K was taken for phi*
    truncation    d outer(phi_K) / dtheta - d outer(phi*) / dtheta

The parts depend on the order in which the ingredients are replaced; this one starts at the measured gradient, so that
`solver` and `inner` are the same for every arithmetic. A part may be longer than the whole where two parts point
against each other, and its share of the whole then exceeds 1 or is negative.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.arithmetic.extended import Extended, rounded
from diagnostics.arithmetic.precision import Precision
from diagnostics.certified import ACCEPTED, Certified, certified, certified_stationary
from diagnostics.curvature import lanczos
from diagnostics.estimators.first_order import FirstOrder
from diagnostics.estimators.unrolled_adjoint import UnrolledAdjoint
from diagnostics.hessian import second_order
from diagnostics.inner import Trajectory
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.linear.dense import Dense
from diagnostics.linear.minres import MinimalResidual
from diagnostics.meta_gradient import outer_gradients
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.reference import STATIONARY, WRITTEN_OUT, Refined, in_arithmetic
from diagnostics.rows import row_norms
from diagnostics.sweep import Sweep, along_the_path, implicit_at_ends, outcome_at_ends

TARGETS = ("stationary", "unrolled")
TOTAL = "total"
SIZING = 10  # Lanczos iterations for |H|, of which a tenth more or less does not matter

Chain = tuple[tuple[str, str], ...]  # each part, and the exact gradient that is left once its cause is gone


@dataclass(frozen=True)
class Part:
    """A part of an error: `vector (E, B, P)` in float64, `outcome (E, B)` codes, and `uncertainty (E, B)`.

    The uncertainty is what the two gradients that the part lies between may be off by together, relative to the target.
    """

    vector: Tensor
    outcome: Tensor
    uncertainty: Tensor


@dataclass(frozen=True)
class ErrorSplit:
    """The error of a gradient, its parts by name, and the target's length `(E, B)`; NaN where something is unknown.

    `total` is the measured gradient less the target, formed by itself and not from the parts.
    """

    total: Part
    parts: dict[str, Part]
    target_norm: Tensor

    @property
    def all(self) -> dict[str, Part]:
        """The total and its parts."""
        return {TOTAL: self.total, **self.parts}

    def relative(self, part: Part) -> Tensor:
        """`|part| / |target|`, `(E, B)`; 0 for a part of nothing."""
        return _ratio(_norms(part.vector), self.target_norm)

    def share(self, part: Part) -> Tensor:
        """`<part, total> / |total|^2`, `(E, B)`: signed, and 1 when summed over the parts. NaN for an error of 0."""
        length = _norms(self.total.vector)
        unit = torch.where(length > 0, length, torch.nan).unsqueeze(-1)
        return (part.vector / unit * (self.total.vector / unit)).sum(-1)

    def outcome(self, part: Part) -> Tensor:
        """Codes `(E, B)`: what became of the two gradients, or `UNRESOLVED` where they are too close to be told."""
        too_small = self.relative(part) < ACCEPTED * part.uncertainty
        return outcome.graver(part.outcome, outcome.where(too_small, Outcome.UNRESOLVED))


def chain(gradient: str, target: str) -> Chain:
    """The parts of a gradient's error against a target, each with the exact gradient that it leads to.

    `gradient` is a name of `measured_gradients`. Raises `ValueError` for a target that is neither of `TARGETS`.
    """
    if target not in TARGETS:
        raise ValueError(f"error split: expected a target of {', '.join(TARGETS)}, found {target!r}")
    rounding = ("rounding", gradient)
    truncation: Chain = (("truncation", "stationary"),) if target == "stationary" else ()
    if gradient == "unrolled":
        return (rounding, *truncation)
    if gradient == "first_order":
        return (rounding, ("first_order", "unrolled"), *truncation)
    return (rounding, ("solver", "exact_solve"), ("inner", target))


def split(measured: Sweep, links: Chain, exact: Mapping[str, Certified]) -> ErrorSplit:
    """The error of the measured gradient against the last link, by what lies between one link and the next.

    Differences are formed in the arithmetic of the exact gradients. Where one of its two gradients is not known a part
    is NaN, and the others stand. Raises `ValueError` for a chain without links.
    """
    if not links:
        raise ValueError("error split: expected a chain of at least one part, found none; take it from `chain`")
    target = exact[links[-1][1]]
    size = _norms(target.sweep.value)
    length = torch.where(size > 0, size, torch.nan)

    def doubt(known: Certified) -> Tensor:
        # An exact gradient of 0 that comes out as 0 in both settings is certain; 0/0 says nothing against it.
        own = _norms(known.sweep.value)
        return torch.where((own == 0) & known.uncertainty.isnan(), 0.0, known.uncertainty * own / length)

    def between(value: Tensor, codes: Tensor, known: Certified, doubts: Tensor) -> Part:
        vector = rounded(_comparable(value) - known.sweep.value)
        # A target that is not known leaves a part that is without the length that it is told in.
        return Part(vector, outcome.graver(codes, known.sweep.outcome, target.sweep.outcome), doubts + doubt(known))

    certain = torch.zeros_like(size)
    total = between(measured.value, measured.outcome, target, certain)
    parts: dict[str, Part] = {}
    value, codes, doubts = measured.value, measured.outcome, certain
    for name, link in links:
        known = exact[link]
        parts[name] = between(value, codes, known, doubts)
        value, codes, doubts = known.sweep.value, known.sweep.outcome, doubt(known)
    return ErrorSplit(total, parts, size)


def measured_gradients(
    problem: Problem, run: Trajectory, steps: Sequence[int], iterations: Sequence[int], arithmetic: Precision
) -> dict[str, Sweep]:
    """The gradients whose errors are split, in the arithmetic of the loop: unrolled, first order, and `cg <i>`.

    CG goes on past negative curvature, as the released implementations of iMAML do.
    """
    with arithmetic.running():
        found = {
            "unrolled": along_the_path(UnrolledAdjoint(), problem, run, steps),
            "first_order": along_the_path(FirstOrder(), problem, run, steps),
        }
        if problem.has_implicit_gradient:
            counts = tuple(sorted(set(iterations)))
            solver = ConjugateGradients(max(counts), keep=counts, past_negative_curvature=True)
            sweeps = implicit_at_ends(solver, problem, run, steps)
            found |= {f"cg {count}": sweep for count, sweep in zip(counts, sweeps, strict=True)}
    return found


def exact_gradients(
    problem: Problem,
    run: Trajectory,
    steps: Sequence[int],
    iterations: Sequence[int],
    arithmetic: Precision,
    finest: Precision,
    *,
    patience: int = 5000,
    exact_iterations: int = 1000,
) -> dict[str, Certified]:
    """Every link of the chains, in the exact arithmetic and with its uncertainty.

    `run` is the loop in that arithmetic, from the numbers that the measured loops were given; `finest` the finest
    arithmetic that is measured. The names are those of `measured_gradients`, and for a problem that has an implicit
    gradient `exact_solve` and `stationary`. NaN and an outcome where the linear system was not solved to rounding
    within `exact_iterations`, and where no minimiser was reached within `patience` further inner steps.
    """

    def compute(setting: Precision) -> dict[str, Sweep]:
        loop = in_arithmetic(problem, run, setting)
        found = measured_gradients(problem, loop, steps, iterations, setting)
        if problem.has_implicit_gradient:
            found["exact_solve"] = solved_at_ends(problem, loop, steps, setting, exact_iterations)
        return found

    found = certified(compute, arithmetic, finest)
    if problem.has_implicit_gradient:
        ends = found["unrolled"].sweep
        found["stationary"] = certified_stationary(problem, run, ends, patience, arithmetic, finest)
    return found


def solved_at_ends(
    problem: Problem, loop: Trajectory, steps: Sequence[int], arithmetic: Precision, iterations: int = 1000
) -> Sweep:
    """The implicit gradient at each end with its linear system solved to rounding, indefinite or not.

    The Hessian is written out where that is cheap; elsewhere it is MINRES, which an indefinite one does not stop, in
    float64 and refined in the arithmetic. NaN and `UNSOLVED` where the residual is not down to rounding.
    """
    ends = loop.endpoints(steps)
    w, theta = rounded(ends.final), rounded(ends.theta)
    data = {key: rounded(x) if x.is_floating_point() else x for key, x in ends.data.items()}
    nearby = second_order(problem, w, theta, data).hessian
    spectrum = lanczos(nearby, w, SIZING)
    steepest = torch.maximum(spectrum.largest.abs(), spectrum.smallest.abs())
    with arithmetic.running():
        by_w, by_theta = outer_gradients(problem, ends)
        point = second_order(problem, ends.final, ends.theta, ends.data)
    solver = Dense() if ends.size <= WRITTEN_OUT else MinimalResidual(iterations, relative_tolerance=1e-14)
    (solution,) = Refined(nearby, solver, arithmetic, steepest).path(point.hessian, by_w)
    with arithmetic.running():
        value = by_theta - point.mixed(solution.value)
    diverged = outcome_at_ends(loop, steps)
    # The solution's own outcome would let a warning of negative curvature hide that it is not finished.
    size = row_norms(by_w)
    left = solution.residual * size <= STATIONARY * arithmetic.eps * (steepest * row_norms(solution.value) + size)
    solved = left & (solution.outcome < Outcome.SINGULAR.code)
    codes = outcome.graver(solution.outcome, outcome.where(~left, Outcome.UNSOLVED))
    shape = diverged.shape
    none = torch.zeros_like(diverged)
    return Sweep(
        value=torch.where(solved.unsqueeze(-1), value, torch.nan).unflatten(0, shape),
        outcome=outcome.graver(codes.view(shape), diverged),
        solver_residual=solution.residual.view(shape),
        gradient_count=none + 2,
        hvp_count=solution.products.view(shape),
    )


def _comparable(x: Tensor) -> Tensor:
    return x if isinstance(x, Extended) else x.double()


def _norms(x: Tensor) -> Tensor:
    """Lengths `(E, B)` of vectors `(E, B, P)`, in float64."""
    return rounded(row_norms(_comparable(x)))


def _ratio(size: Tensor, length: Tensor) -> Tensor:
    return torch.where((size == 0) & (length == 0), 0.0, size / torch.where(length > 0, length, torch.nan))
