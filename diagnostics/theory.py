"""What theory predicts for the error of a meta-gradient, with the assumptions under which it does.

Notation: a the inner step, H the inner Hessian with eigenvalues in [mu, L], strength lam inside it, q = max |1 - a
eig(H)|, kappa = L/mu, J* = lam H^-1, E the outer loss with smoothness L_f, t inner steps, k CG iterations, D = |w_0 -
w*|.

Exact, for a quadratic inner loss and gradient descent from w_0 = theta, with M = I - aH:

    w_t - w* = M^t (theta - w*),    dw_t/dtheta = J* + M^t (I - J*)

Bounds, for a strongly convex inner loss with rho-Lipschitz Hessian, a E that does not depend on theta directly, and q
< 1 (Grazzi, Franceschi, Pontil and Salzo 2020, arXiv 2006.16218, with |I - J*| in place of their bound on the initial
derivative since w_0 = theta; L_E bounds |dE/dw| over the ball of radius D around w*):

    unrolled:      L_f (lam/mu) D q^t  +  a rho (lam/mu) L_E D t q^(t-1)  +  L_E |I - J*| q^t
    implicit, CG:  L_f (lam/mu) D q^t  +  rho (lam/mu^2) L_E D q^t        +  2 L_E (lam/mu) sqrt(kappa) c^k
    CG alone:      |x_k - x| / |x| <= 2 sqrt(kappa) c^k,   c = (sqrt(kappa) - 1) / (sqrt(kappa) + 1)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.hessian import second_order
from diagnostics.inner import Trajectory, loss_gradient
from diagnostics.linear.dense import written_out
from diagnostics.problem import ConvexConstants, Problem


@dataclass(frozen=True)
class QuadraticPrediction:
    """The gradients `(E, B, P)` that the spectrum predicts after each count of steps; the stationary `(B, P)`."""

    unrolled: Tensor
    implicit: Tensor
    stationary: Tensor


def chebyshev(kappa: Tensor, iterations: Tensor) -> Tensor:
    """CG's bound `2 sqrt(kappa) c^k` on its relative error in the Euclidean norm; broadcasts."""
    root = kappa.sqrt()
    return 2 * root * ((root - 1) / (root + 1)) ** iterations


def quadratic_prediction(problem: Problem, loop: Trajectory, steps: Sequence[int]) -> QuadraticPrediction:
    """The exact meta-gradients of a quadratic problem from the spectrum of its Hessian; for loops of `gd`."""
    start = loop.states[0, :, : loop.size]
    point = second_order(problem, start, loop.theta, loop.data)
    values, vectors = torch.linalg.eigh(written_out(point.hessian, start))
    strength = problem.strength or 0.0

    def spectral(function: Tensor, v: Tensor) -> Tensor:
        return (vectors @ (function * (vectors.mT @ v.unsqueeze(-1)).squeeze(-1)).unsqueeze(-1)).squeeze(-1)

    def outer_gradient(w: Tensor) -> Tensor:
        return loss_gradient(problem.outer_loss, w, loop.theta, loop.data)

    away = spectral(1 / values, point.gradient)  # w_0 - w*
    minimiser = start - away
    implicit, unrolled = [], []
    for count in steps:
        shrink = (1 - loop.optimizer.learning_rate * values) ** count
        gradient = outer_gradient(minimiser + spectral(shrink, away))
        implicit.append(spectral(strength / values, gradient))
        unrolled.append(spectral(strength / values + shrink * (1 - strength / values), gradient))
    stationary = spectral(strength / values, outer_gradient(minimiser))
    return QuadraticPrediction(torch.stack(unrolled), torch.stack(implicit), stationary)


@dataclass(frozen=True)
class ConvexBounds:
    """The bounds above as functions of t and k, absolute, each `(B,)`; infinite where q >= 1."""

    constants: ConvexConstants
    rate: Tensor  # q
    learning_rate: float
    strength: float
    distance: Tensor  # D
    steepest: Tensor  # L_E

    def unrolled(self, steps: int) -> Tensor:
        """The bound for the unrolled gradient after `steps`."""
        c = self.constants
        first = c.outer_smoothness * self._jacobian * self.distance + self.steepest * (1 - self.strength / c.largest)
        drift = self.learning_rate * c.hessian_lipschitz * self._jacobian * self.steepest * self.distance
        return self._where_contracting(first * self.rate**steps + drift * steps * self.rate ** max(steps - 1, 0))

    def implicit(self, steps: int, iterations: int) -> Tensor:
        """The bound for the implicit gradient after `steps`, with `iterations` of CG."""
        c = self.constants
        curvature = c.hessian_lipschitz / c.smallest * self.steepest
        inner = self._jacobian * self.distance * (c.outer_smoothness + curvature) * self.rate**steps
        solve = self.steepest * self._jacobian * chebyshev(c.largest / c.smallest, torch.tensor(iterations))
        return self._where_contracting(inner + solve)

    @property
    def _jacobian(self) -> Tensor:
        return self.strength / self.constants.smallest

    def _where_contracting(self, bound: Tensor) -> Tensor:
        return torch.where(self.rate < 1, bound, torch.inf)


def convex_bounds(problem: Problem, loop: Trajectory, minimiser: Tensor) -> ConvexBounds | None:
    """The bounds of a problem that states how convex it is; None for one that does not."""
    if problem.constants is None or problem.strength is None:
        return None
    constants = problem.constants(loop.data)
    step = loop.optimizer.learning_rate
    distance = (loop.states[0, :, : loop.size] - minimiser).norm(dim=-1)
    at_minimiser = loss_gradient(problem.outer_loss, minimiser, loop.theta, loop.data).norm(dim=-1)
    return ConvexBounds(
        constants=constants,
        rate=torch.maximum((1 - step * constants.smallest).abs(), (1 - step * constants.largest).abs()),
        learning_rate=step,
        strength=problem.strength,
        distance=distance,
        steepest=at_minimiser + constants.outer_smoothness * distance,
    )
