"""iMAML in GBML (github.com/sungyubkim/GBML, `gbml/imaml.py`), for its linear system.

With A the Hessian of the support loss alone and g = d outer / dw where the loop ended, one iteration of CG from x = g
on

    (I + A / 100) x = g

A strength of 100 there stands in the system only: its inner loop has no proximal term, which the formula rests on. To
have that loop as well, run a problem of strength 0. With |A| far below 100 the gradient is that of first-order MAML.
"""

from dataclasses import dataclass

from diagnostics.checks import positive, whole_number
from diagnostics.estimators.released_imaml import stated_strength, support_hessian
from diagnostics.inner import Trajectory
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.meta_gradient import MetaGradient, estimators, meta_gradient, outer_gradients
from diagnostics.problem import Problem
from diagnostics.rows import row_norms


@estimators.register("released_gbml")
@dataclass(frozen=True)
class ReleasedGBML:
    """GBML's implicit gradient at the end of this inner loop: `iterations` of CG from `x = d outer / dw`.

    CG from x_0 is x_0 and CG from zero on what x_0 leaves. It counts the outer gradient, the one that the Hessian's
    products are made from, and those products, the first residual's included. Raises `ValueError` for a problem that
    states no strength or whose theta is not of the size of its weights.
    """

    iterations: int = 1
    lamb: float = 100.0

    def __post_init__(self) -> None:
        """Check the settings."""
        whole_number("released_gbml: iterations", self.iterations, 0)
        positive("released_gbml: lamb", self.lamb)

    def __call__(self, problem: Problem, trajectory: Trajectory) -> MetaGradient:
        """The meta-gradient at the trajectory's end."""
        strength = stated_strength("released_gbml", problem, trajectory)
        by_w, by_theta = outer_gradients(problem, trajectory)
        support = support_hessian(problem, trajectory, strength)
        left = -support(by_w) / self.lamb  # by_w - (I + A / lamb) by_w
        solver = ConjugateGradients(self.iterations, past_negative_curvature=True)
        more = solver.path(lambda v: v + support(v) / self.lamb, left)[-1]
        norm = row_norms(by_w)
        relative = more.residual * row_norms(left) / norm.where(norm > 0, 1.0)
        return meta_gradient(
            by_theta + by_w + more.value,
            trajectory,
            more.outcome,
            gradient_count=2,
            hvp_count=more.products + 1,
            solver_residual=relative,
        )
