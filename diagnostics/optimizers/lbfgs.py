"""L-BFGS: steps along `-H g`, H a guess of the inverse Hessian from the last few steps and changes of the gradient."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diagnostics.arithmetic.precision import epsilon
from diagnostics.checks import positive, whole_number
from diagnostics.inner import InnerGradient, optimizers
from diagnostics.optimizers.backtracking import backtracked
from diagnostics.rows import row_norms
from diagnostics.solvers import exponent_scale

ROUNDINGS = 10.0  # in units of eps: a cosine of step and change this small may be rounding
STEP_ROUNDINGS = 16.0  # in units of eps |w|: of a shorter step the rounding of w and of the gradient is a good part


@optimizers.register("lbfgs")
@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS (Nocedal 1980), with the last `memory` pairs of each task.

        s_k = w_(k+1) - w_k,   y_k = g_(k+1) - g_k,   w <- w - learning_rate H g

    H is never formed: it is the BFGS update, `H <- (1 - s y'/s'y) H (1 - y s'/s'y) + s s'/s'y`, by the pairs from the
    oldest to the newest, of `(s'y / y'y) 1` for the newest, and H g comes by Nocedal's two loops over them. Without a
    pair, `H g` is `g / max(1, |g|)`, so that the first step is no longer than the learning rate; where this has the
    norm |g|, `torch.optim.LBFGS` has the sum of magnitudes, which bends wherever a component changes sign. Later steps
    do not depend on the unit of the loss; 1 is their natural learning rate.

    With `halvings` the step is the longest of `learning_rate (1, 1/2 ... 2^-halvings)` that lowers the loss enough
    (see `backtracked`); where none does, the task stays and forgets its pairs. Without, every step is taken.

    A pair is kept if it shows positive curvature, `s'y > 10 eps |s| |y|`, and if the step was more than rounding,
    `|s| > 16 eps |w|`; otherwise the pairs stay as they were, so that H is constant once a task has converged. Pairs of
    rounding errors do the weights no harm, but the gradient through them loses all its digits.

    The state is `(w, s, g, S, Y)`, `S = (3 + 2 memory) N`: the weights, the last step, the gradient before it, and the
    pairs, newest first, 0 where there is none yet. All of it is differentiated, H included; which pairs are kept, and
    the share of the step, are constant but for jumps, and held fixed. At g = 0 a task stays, and the derivative of the
    step is `1 - learning_rate H (d2 inner / dw dw)`, as elsewhere. Raises `ValueError` for a learning rate that is not
    above 0, for a memory below 1 and for halvings below 0.
    """

    natural_rate: ClassVar[float] = 1.0
    learning_rate: float
    memory: int = 5
    halvings: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        positive("learning rate", self.learning_rate)
        whole_number("memory", self.memory, 1)
        whole_number("halvings", self.halvings, 0)

    def start(self, w: Tensor) -> Tensor:
        """The weights, no step taken."""
        return torch.cat([w, w.new_zeros(len(w), (2 + 2 * self.memory) * w.shape[1])], -1)

    def step(self, state: Tensor, gradient: InnerGradient, size: int) -> Tensor:
        """One step."""
        w, s, before, pairs = state.split([size, size, size, 2 * self.memory * size], -1)
        steps, changes = pairs.reshape(len(w), 2, self.memory, size).unbind(1)
        g = gradient(w)
        y = g - before
        tells = _tells(w, s, y).unsqueeze(-1)
        steps = torch.where(tells, torch.cat([s.unsqueeze(1), steps[:, :-1]], 1), steps)
        changes = torch.where(tells, torch.cat([y.unsqueeze(1), changes[:, :-1]], 1), changes)

        full = -self.learning_rate * _inverse_times(g, steps, changes)
        share = backtracked(gradient, w, g, full, self.halvings)
        following = w + share * full
        kept = torch.cat([steps.flatten(1), changes.flatten(1)], -1)
        # The step as the rounded weights have it: it is this one that changes the gradient.
        return torch.cat([following, following - w, g, torch.where(share > 0, kept, 0.0)], -1)


def _tells(w: Tensor, s: Tensor, y: Tensor) -> Tensor:
    """Whether `(B, 1)` a step `s` and a change `y` of the gradient say something of the curvature."""
    w, s, y = w.detach(), s.detach(), y.detach()
    eps, step_norm = epsilon(w), row_norms(s)
    s, y = s / exponent_scale(s), y / exponent_scale(y)
    positive = _dot(s, y) > ROUNDINGS * eps * row_norms(s).unsqueeze(-1) * row_norms(y).unsqueeze(-1)
    return positive & (step_norm > STEP_ROUNDINGS * eps * row_norms(w)).unsqueeze(-1)


def _inverse_times(g: Tensor, steps: Tensor, changes: Tensor) -> Tensor:
    """H g `(B, N)` for `g (B, N)` and the pairs `(B, m, N)`, newest first; those that are 0 do not count.

    Every vector is in units of a power of two of its size, whose products are of the size of a cosine: s'y itself would
    underflow, in float16 for steps and gradients of 1e-4. Units are numbers to the derivative, which cancel.
    """
    unit = exponent_scale(g.detach())
    q = g / unit
    found, safe = (q != 0).any(-1, keepdim=True), torch.ones_like(unit)
    length = torch.where(found, _dot(q, q), safe).sqrt()
    first = q * torch.where(unit * length > 1, 1 / length, unit)

    scaled = []  # of each pair: s, y, s'y, the units of s and y, and whether there is one
    for s, y in zip(steps.unbind(1), changes.unbind(1), strict=True):
        of_s, of_y = exponent_scale(s.detach()), exponent_scale(y.detach())
        s, y = s / of_s, y / of_y
        product = _dot(s, y)
        there = product.detach() > 0
        scaled.append((s, y, torch.where(there, product, safe), of_s, of_y, there))
    s, y, newest, newest_s, newest_y, any_pair = scaled[0]

    shares = []
    for s, y, product, *_ in scaled:
        shares.append(_dot(s, q) / product)
        q = q - shares[-1] * y
    y = scaled[0][1]
    r = newest / torch.where(any_pair, _dot(y, y), safe) * q  # in units of `unit newest_s / newest_y`
    for (s, y, product, of_s, of_y, _), share in zip(reversed(scaled), reversed(shares), strict=True):
        relative = (of_s / newest_s) * (newest_y / of_y)
        r = r + (relative * share - _dot(y, r) / product) * s
    return torch.where(any_pair, r * (unit / newest_y) * newest_s, first)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)
