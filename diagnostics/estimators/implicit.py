"""The implicit meta-gradient (Rajeswaran, Finn, Kakade and Levine 2019), with any linear solver.

At a minimiser of the inner loss, d inner / dw = 0 defines w(theta), and the implicit function theorem gives

    d outer / d theta = d outer/dtheta - (d2 inner / dtheta dw) H^-1 (d outer / dw),      H = d2 inner / dw dw

With iMAML's proximal term H = A + strength I and the mixed derivative is -strength I: the paper's (I + A/strength)^-1
d outer/dw. The formula is exact at a minimiser only; the point where the inner loop ended is taken for one.
"""

from dataclasses import dataclass

from diagnostics.hessian import second_order
from diagnostics.inner import Trajectory
from diagnostics.meta_gradient import MetaGradient, estimators, meta_gradient, outer_gradients
from diagnostics.problem import Problem
from diagnostics.solvers import LinearSolver


@estimators.register("implicit")
@dataclass(frozen=True)
class Implicit:
    """iMAML's meta-gradient at the end of the inner loop; `solver` solves `H x = d outer / dw`.

    Raises `ValueError` for a problem whose strength is not above zero: without the proximal term the formula gives
    zero.
    """

    solver: LinearSolver

    def __call__(self, problem: Problem, trajectory: Trajectory) -> MetaGradient:
        """The meta-gradient at the trajectory's end."""
        return self.path(problem, trajectory)[-1]

    def path(self, problem: Problem, trajectory: Trajectory) -> tuple[MetaGradient, ...]:
        """The meta-gradients from each solution that the solver keeps on its way."""
        require_implicit_gradient(problem)
        by_w, by_theta = outer_gradients(problem, trajectory)
        point = second_order(problem, trajectory.final, trajectory.theta, trajectory.data)
        return tuple(
            meta_gradient(
                by_theta - point.mixed(solution.value),
                trajectory,
                solution.outcome,
                gradient_count=2,
                hvp_count=solution.products,
                solver_residual=solution.residual,
            )
            for solution in self.solver.path(point.hessian, by_w)
        )


def require_implicit_gradient(problem: Problem) -> None:
    """Raise `ValueError` for a problem whose minimiser cannot depend on theta."""
    if not problem.has_implicit_gradient:
        raise ValueError(
            f"implicit: expected a proximal strength > 0, found {problem.strength} in problem {problem.name!r}; "
            "without the term the minimiser does not depend on theta"
        )
