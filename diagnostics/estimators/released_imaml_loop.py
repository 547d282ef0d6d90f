"""iMAML as the authors released it (github.com/aravindr93/imaml_dev), inner loop and linear system.

The released inner loop (`examples/omniglot_implicit_maml.py`) takes its K steps on the support loss L alone, and then
one step on the proximal term alone:

    w_0 = theta,   w_(k+1) = w_k - a dL/dw(w_k)  for k < K,     w = w_K - a strength (w_K - theta)

The paper's loop minimises L + strength/2 |w - theta|^2, which the implicit formula needs; this one does not tend to its
minimiser, and with many steps leaves it further and further. The system of `released_imaml` is then solved at w.
"""

from dataclasses import dataclass, replace

from diagnostics.estimators.released_imaml import ReleasedIMAML, stated_strength
from diagnostics.estimators.reptile import require_start_at_theta
from diagnostics.inner import Trajectory, loss_gradient
from diagnostics.meta_gradient import MetaGradient, estimators
from diagnostics.problem import Problem
from diagnostics.rows import row_norms


@estimators.register("released_imaml_loop")
@dataclass(frozen=True)
class ReleasedIMAMLLoop:
    """The released iMAML's gradient after the released inner loop, which it runs itself: that is the recipe.

    Of the trajectory it takes theta, the data, the number of steps and the learning rate; whatever its optimizer, the
    steps are plain ones, as in the released code. The outcome is that of this loop. It counts the K gradients of it
    beyond what `released_imaml` counts. Raises `ValueError` for what that refuses, and for a loop that does not start
    at theta.
    """

    recipe: ReleasedIMAML = ReleasedIMAML()

    def __call__(self, problem: Problem, trajectory: Trajectory) -> MetaGradient:
        """The meta-gradient at the end of the released loop."""
        loop = released_loop(problem, trajectory)
        found = self.recipe(problem, loop)
        return replace(found, gradient_count=found.gradient_count + trajectory.steps)


def released_loop(problem: Problem, trajectory: Trajectory) -> Trajectory:
    """The end of the released inner loop, as a trajectory of no steps."""
    require_start_at_theta("released_imaml_loop", problem, trajectory)
    strength = stated_strength("released_imaml_loop", problem, trajectory)
    theta, step = trajectory.theta, trajectory.optimizer.learning_rate
    w = theta
    for _ in range(trajectory.steps):
        pulled = strength * (w - theta)  # the proximal term's part of the inner gradient
        w = w - step * (loss_gradient(problem.inner_loss, w, theta, trajectory.data) - pulled)
    w = w - step * strength * (w - theta)
    norms = row_norms(loss_gradient(problem.inner_loss, w, theta, trajectory.data))
    return replace(trajectory, states=w.unsqueeze(0), gradient_norms=norms.unsqueeze(0))
