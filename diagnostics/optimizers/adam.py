"""Adam: steps along a running mean of the gradient, each component divided by the root of a running mean square."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.checks import positive
from diagnostics.inner import Gradient, optimizers
from diagnostics.optimizers.averages import averaged, decay_rate


@optimizers.register("adam")
@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015), with bias correction.

        g = gradient(w),   m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2
        w <- w - learning_rate (m / c1) / sqrt(v / c2 + eps^2),   c1 = 1 - beta1^t,   c2 = 1 - beta2^t

    Its state is `(w, m, v, c1, c2)`, `S = 3 N + 2`, all but w from 0. The corrections are the averages of a number that
    is always 1, `c <- beta c + (1 - beta)`, which is `1 - beta^t` within t roundings and needs neither a count of steps
    nor beta itself, which is 1 in bfloat16 for 0.999. Where what is added to v falls below half a unit of it, so that v
    stops growing (in bfloat16 near a quarter of g^2), c2 does as well.

    With eps inside the root the step is differentiable at `v = 0`, where the `sqrt(v / c2) + eps` of `torch.optim` has
    an infinite slope, and its derivative is `0 * inf`; the root here is the smaller of the two, by at most eps. The
    slope at `g = 0` is up to `learning_rate / eps`.

    Where `eps^2` underflows (in float16, for `eps < 2e-4`), a component whose gradient was always zero is 0 / 0, and
    the task's outcome `DIVERGED`. Raises `ValueError` for a learning rate or an eps that is not above 0, and for a beta
    outside `[0, 1)`.
    """

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        """Check the settings."""
        positive("learning rate", self.learning_rate)
        decay_rate("beta1", self.beta1)
        decay_rate("beta2", self.beta2)
        positive("eps", self.eps)

    def start(self, w: Tensor) -> Tensor:
        """The weights, no gradient seen."""
        return torch.cat([w, torch.zeros_like(w), torch.zeros_like(w), w.new_zeros(len(w), 2)], -1)

    def step(self, state: Tensor, gradient: Gradient, size: int) -> Tensor:
        """One step."""
        w, first, second, weight1, weight2 = state.split([size, size, size, 1, 1], -1)
        g = gradient(w)
        first, weight1 = averaged(first, g, self.beta1), averaged(weight1, 1.0, self.beta1)
        second, weight2 = averaged(second, g * g, self.beta2), averaged(weight2, 1.0, self.beta2)
        direction = (first / weight1) / (second / weight2 + self.eps**2).sqrt()
        return torch.cat([w - self.learning_rate * direction, first, second, weight1, weight2], -1)
