"""Backtracking: the longest of the steps `d, d/2, d/4 ...` that lowers the loss enough (Armijo 1966)."""

import torch
from torch import Tensor

from diagnostics.arithmetic.precision import epsilon
from diagnostics.inner import InnerGradient
from diagnostics.solvers import exponent_scale

SUFFICIENT = 1e-4  # the share of the decrease that the slope promises which is asked for
UNSEEN = 4.0  # in units of eps |loss|: a smaller rise may be rounding


def backtracked(gradient: InnerGradient, w: Tensor, g: Tensor, step: Tensor, halvings: int) -> Tensor:
    """The share `(B, 1)` of `step (B, N)` to take from `w (B, N)`, where the gradient is `g (B, N)`.

        the largest t of 1, 1/2 ... 2^-halvings with   loss(w + t step) <= loss(w) + 1e-4 t g'step + 4 eps |loss(w)|

    and 0 where there is none. The last term lets a step near a minimum pass whose effect on the loss is less than what
    the arithmetic sees; without it, whether such a step is taken is up to rounding. Each t is tried for all tasks, so
    that nothing waits for a number: `halvings + 2` losses, or none for no halvings, which is no search: t is 1.

    The choice is not differentiated. It is constant but where it jumps from one t to the next, and the loop with it.
    """
    share = torch.ones_like(w[:, :1])
    if halvings == 0:
        return share
    w, g, step = w.detach(), g.detach(), step.detach()
    units, lengths = exponent_scale(g), exponent_scale(step)  # so that no product overflows
    promised = SUFFICIENT * units.squeeze(-1) * ((g / units) * (step / lengths)).sum(-1) * lengths.squeeze(-1)
    before = gradient.value(w).detach()
    unseen = UNSEEN * epsilon(w) * before.abs()
    share = torch.zeros_like(share)
    for t in (2.0**-count for count in range(halvings, -1, -1)):
        enough = gradient.value(w + t * step).detach() <= before + t * promised + unseen
        share = torch.where(enough.unsqueeze(-1), t, share)
    return share
