"""Hessian-free optimisation: Newton's step by a few conjugate gradients, and backtracking along it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diagnostics.arithmetic.precision import epsilon
from diagnostics.checks import positive, whole_number
from diagnostics.inner import InnerGradient, optimizers
from diagnostics.optimizers.backtracking import backtracked
from diagnostics.rows import row_norms
from diagnostics.solvers import MatVec, exponent_scale

ROUNDINGS = 2.0  # in units of eps |H|: a curvature this small may be rounding


@optimizers.register("hessian_free")
@dataclass(frozen=True)
class HessianFree:
    """Newton-CG with a line search, the Hessian-free inner solver of iMAML (Rajeswaran et al. 2019; Martens 2010).

        w <- w + t learning_rate d,   d from `iterations` CG steps on `H d = -g`,   t one of 1, 1/2 ... 2^-halvings

    H the inner Hessian and g the gradient at w; t is the largest share that lowers the loss enough, and 0 where none
    does (see `backtracked`); with no halvings it is 1. 1 is the natural learning rate. The state is the weights alone.

    CG starts from 0, with no damping. A task's d is the iterate before a direction of no positive curvature,
    `p'Hp <= 2 eps |H| |p|^2`, and `-g` where that is the first one; it is also left as it is once the residual is at
    most `eps |g|`. Either way `g'd < 0`.

    What is differentiated is d as CG computes it, every iterate with it, so that derivatives to the third order of the
    inner loss enter; with as many iterations as weights d is `-g / H` and so is its derivative. Held fixed, since they
    are constant but for jumps, are t and the iteration at which a task stopped. A task with g = 0 stays, and its step
    has the derivative of the identity: d, as a function of g, has a corner there, unless CG solves the system.

    Raises `ValueError` for a learning rate that is not above 0, for iterations below 1 and for halvings below 0, and
    when it is differentiated through torch's batch or layer norm, whose third derivatives are wrong.
    """

    natural_rate: ClassVar[float] = 1.0
    learning_rate: float
    iterations: int = 5
    halvings: int = 7

    def __post_init__(self) -> None:
        """Check the settings."""
        positive("learning rate", self.learning_rate)
        whole_number("iterations", self.iterations, 1)
        whole_number("halvings", self.halvings, 0)

    def start(self, w: Tensor) -> Tensor:
        """The state is the weights."""
        return w

    def step(self, state: Tensor, gradient: InnerGradient, size: int) -> Tensor:
        """One step."""
        g, product = gradient.products(state)
        _require_third_derivatives(g)
        full = self.learning_rate * newton_direction(product, g, self.iterations)
        return state + backtracked(gradient, state, g, full, self.halvings) * full


def _require_third_derivatives(g: Tensor) -> None:
    """Raise `ValueError` where torch's norms are in the graph of a gradient: they give a number, and not the right one.

    pytorch issues 186256 (batch norm) and 175754 (layer norm).
    """
    seen, ahead = set(), [g.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if "BatchNorm" in node.name() or "LayerNorm" in node.name():
            raise ValueError(
                f"hessian_free: expected a loss with third derivatives, found torch's {node.name()}, which has them "
                "wrong; take diagnostics.batch_norm.batch_norm, or write the norm out with means"
            )
        ahead.extend(following for following, _ in node.next_functions)


def newton_direction(product: MatVec, g: Tensor, iterations: int) -> Tensor:
    """`d (B, N)`, the last iterate of CG on `H d = -g` with positive curvature, for `g (B, N)`; see `HessianFree`.

    As `linear.cg` it keeps r and p in units of a power of two of r's size. All tasks go through all iterations, those
    that have ended without effect and with denominators of 1, so that their derivatives are finite too.
    """
    eps, scale = epsilon(g), exponent_scale(g.detach())
    b = -g / scale
    x, r, p = torch.zeros_like(b), b, b  # r and p in units of `unit`
    rr, unit = _dot(r, r), torch.ones_like(scale)
    small = eps * row_norms(b.detach()).unsqueeze(-1)
    going, h_norm, one = rr.detach() > 0, torch.zeros_like(scale), torch.ones_like(scale)
    for count in range(iterations):
        hp = product(p)
        php, pp = _dot(p, hp), _dot(p, p).detach()
        h_norm = torch.maximum(h_norm, row_norms(hp.detach()).unsqueeze(-1) / torch.where(going, pp, one).sqrt())
        curved = php.detach() > ROUNDINGS * eps * h_norm * pp
        if count == 0:
            x = torch.where(going & ~curved, b, x)
        going = going & curved

        alpha = rr / torch.where(going, php, one)
        x = torch.where(going, x + alpha * unit * p, x)
        r = torch.where(going, r - alpha * hp, r)
        shrunk = torch.where(going, exponent_scale(r.detach()), one)
        r, unit = r / shrunk, unit * shrunk
        rr_before, rr = rr, _dot(r, r)
        p = torch.where(going, r + rr / torch.where(going, rr_before, one) * shrunk * p, p)
        going = going & (rr.detach().sqrt() * unit > small)
    return x * scale


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)
