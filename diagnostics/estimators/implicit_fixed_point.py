"""The implicit gradient of the fixed point of the inner optimizer's own step, for optimizers that have a state.

Where the state of the loop settles, s = Step(s, theta), and the implicit function theorem for that equation gives

    d outer / d theta = d outer/dtheta + (dStep/dtheta)' x,    (I - dStep/ds)' x = d outer / ds = (d outer/dw, 0)

as with the fixed-point maps of Grazzi, Franceschi, Pontil and Salzo (2020). The matrix is not symmetric.

What is taken for the fixed point is the state where the loop ended. A step that adds to w what it makes of g = d
inner/dw and of the rest of the state, and sees theta in g only, as gd, momentum, nesterov, rmsprop, adam and lbfgs do,
maps a change of state that leaves g as it is, H dw + (d2 inner/dw dtheta) dtheta = 0, to itself: it solves the system,
at a fixed point or not. So the gradient of those optimizers is that of `implicit`, from a system of S unknowns, which
the rest of the state conditions. hessian_free sees the curvature as well, and has it at a stationary point only. It is
another gradient, and the right one, for an optimizer whose fixed point is no stationary point of the inner loss, such
as one that decays the weights by itself.

For rmsprop and adam, entries of size learning_rate / sqrt(v + eps^2) stand in the matrix. Where the running square v of
a component has decayed to nothing they reach learning_rate / eps, and the matrix can be singular to working precision,
in float64 too, near a stationary point most of all; the outcome says so.

v - (v - a H v) loses what a H v has below eps v: the relative error is eps / (a mu), mu the least eigenvalue of H,
where that of `implicit` is eps kappa(H).
"""

from dataclasses import dataclass

from diagnostics.estimators.implicit import require_implicit_gradient
from diagnostics.inner import Trajectory
from diagnostics.linear.gmres import GeneralisedMinimalResidual
from diagnostics.meta_gradient import MetaGradient, estimators, meta_gradient
from diagnostics.one_step import end_adjoint, take_step
from diagnostics.problem import Problem
from diagnostics.solvers import LinearSolver

ITERATIONS = 100  # of GMRES, which keeps as many vectors; it ends where the residual is at rounding


@estimators.register("implicit_fixed_point")
@dataclass(frozen=True)
class ImplicitFixedPoint:
    """The implicit gradient of the optimizer's fixed point; `solver` solves `(I - dStep/ds)' x = d outer / ds`.

    It counts one gradient for the step and one for the outer loss; and a Hessian-vector product for each product of the
    solver, and for the last one with `dStep/dtheta`. Raises `ValueError` for a problem whose strength is not above
    zero, and where the solver is for symmetric matrices only.
    """

    solver: LinearSolver = GeneralisedMinimalResidual(ITERATIONS)

    def __call__(self, problem: Problem, trajectory: Trajectory) -> MetaGradient:
        """The meta-gradient at the trajectory's end."""
        require_implicit_gradient(problem)
        by_state, by_theta = end_adjoint(problem, trajectory)
        taken = take_step(problem, trajectory, trajectory.states[-1])
        solution = self.solver.path(lambda x: x - taken.pull(x)[0], by_state, transposed=lambda v: v - taken.push(v))[
            -1
        ]
        return meta_gradient(
            by_theta + taken.pull(solution.value)[1],
            trajectory,
            solution.outcome,
            gradient_count=2,
            hvp_count=solution.products + 1,
            solver_residual=solution.residual,
        )
