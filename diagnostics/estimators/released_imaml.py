"""iMAML as the authors released it (github.com/aravindr93/imaml_dev), for its linear system.

With A the Hessian of the support loss alone, without the proximal term, and g = d outer / dw where the loop ended,

    released   x = CG_5 on  ((1 + cg_damping) I + A / (strength + lam_damping)) x = g,   cg_damping 1, lam_damping 10
    paper      x = solution of          (I + A / strength) x = g

(`Learner.matrix_evaluator` and `cg_solve`; `lam_damping` is not passed by any script, `cg_damping` is 1 there.) For the
published strength of 2 the matrix is 2 I + A/12: its solution is half as long as it should be, and points where a
strength of 24 would make it point, close to first-order MAML. The outer optimizer there is Adam, which the length does
not matter to, and the direction does.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.checks import at_least, whole_number
from diagnostics.hessian import second_order
from diagnostics.inner import Trajectory
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.meta_gradient import MetaGradient, estimators, meta_gradient, outer_gradients
from diagnostics.outcome import Outcome
from diagnostics.problem import Problem
from diagnostics.rows import row_norms
from diagnostics.solvers import LinearSolution, MatVec, known_none

SMALL = 1e-5  # the released test is r'r < 1e-10


@estimators.register("released_imaml")
@dataclass(frozen=True)
class ReleasedIMAML:
    """The released iMAML's gradient at the end of this inner loop, which has the proximal term; `released_imaml_loop`
    has the released loop too.

    `iterations` of CG from zero, ended when `|r| < 1e-5`, whatever the size of g, but not before the first; negative
    curvature is passed over, and the outcome tells. 1 iteration or fewer stand for x = g, as in the released script. A
    g of zero gives zero, where the released code divides by it. It counts the outer gradient, the one that the
    Hessian's products are made from, and those products. Raises `ValueError` for a problem that states no strength, or
    whose theta is not of the size of its weights, and for settings that are negative.
    """

    iterations: int = 5
    cg_damping: float = 1.0
    lam_damping: float = 10.0

    def __post_init__(self) -> None:
        """Check the settings."""
        whole_number("released_imaml: iterations", self.iterations, 0)
        at_least("released_imaml: cg_damping", self.cg_damping, 0)
        at_least("released_imaml: lam_damping", self.lam_damping, 0)

    def __call__(self, problem: Problem, trajectory: Trajectory) -> MetaGradient:
        """The meta-gradient at the trajectory's end."""
        stated_strength("released_imaml", problem, trajectory)
        by_w, by_theta = outer_gradients(problem, trajectory)
        if self.iterations <= 1:
            return meta_gradient(by_theta + by_w, trajectory, gradient_count=1)
        solution = self.solve(self.matrix(problem, trajectory), by_w)
        return meta_gradient(
            by_theta + solution.value,
            trajectory,
            solution.outcome,
            gradient_count=2,
            hvp_count=solution.products,
            solver_residual=solution.residual,
        )

    def matrix(self, problem: Problem, trajectory: Trajectory) -> MatVec:
        """Products with the released matrix at the trajectory's end."""
        strength = stated_strength("released_imaml", problem, trajectory)
        support = support_hessian(problem, trajectory, strength)
        return lambda v: (1 + self.cg_damping) * v + support(v) / (strength + self.lam_damping)

    def solve(self, matvec: MatVec, b: Tensor) -> LinearSolution:
        """The released CG for `matvec x = b (B, N)`."""
        found = ConjugateGradients(self.iterations, absolute_tolerance=SMALL, past_negative_curvature=True)
        long = found.path(matvec, b)[-1]
        ended = row_norms(b) <= SMALL  # before the first iteration, which the released code makes all the same
        if known_none(ended):
            return long
        short = ConjugateGradients(1, past_negative_curvature=True).path(matvec, b)[-1]
        met = torch.where(short.outcome == Outcome.UNFINISHED.code, Outcome.OK.code, short.outcome)
        return LinearSolution(
            torch.where(ended.unsqueeze(-1), short.value, long.value),
            torch.where(ended, met, long.outcome),
            torch.where(ended, short.residual, long.residual),
            self.iterations,
            torch.where(ended, short.products, long.products),
        )


def stated_strength(name: str, problem: Problem, trajectory: Trajectory) -> float:
    """The problem's strength; `ValueError` where none is stated or theta is not of the size of the weights."""
    if problem.strength is None:
        raise ValueError(
            f"{name}: expected a stated proximal strength, found None in problem {problem.name!r}; build the problem "
            "with one"
        )
    if trajectory.theta.shape[1] != trajectory.size:
        raise ValueError(
            f"{name}: expected as many components of theta as weights ({trajectory.size}), found "
            f"{trajectory.theta.shape[1]} in problem {problem.name!r}; use 'implicit'"
        )
    return problem.strength


def support_hessian(problem: Problem, trajectory: Trajectory, strength: float) -> MatVec:
    """Products `v (B, N) -> A v` with the Hessian of the inner loss without its proximal term, at the loop's end."""
    point = second_order(problem, trajectory.final, trajectory.theta, trajectory.data)
    return lambda v: point.hessian(v) - strength * v
