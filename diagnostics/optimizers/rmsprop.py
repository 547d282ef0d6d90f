"""RMSprop: gradient descent with each component divided by the root of a running mean of its squares."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.checks import positive
from diagnostics.inner import Gradient, optimizers
from diagnostics.optimizers.averages import averaged, decay_rate


@optimizers.register("rmsprop")
@dataclass(frozen=True)
class RMSprop:
    """RMSprop (Tieleman and Hinton 2012), without centring or momentum.

        g = gradient(w),   v <- decay v + (1 - decay) g^2,   w <- w - learning_rate g / sqrt(v + eps^2)

    Its state is `(w, v)`, `S = 2 N`, from `v = 0`. With eps inside the root the step is differentiable at `v = 0`,
    where the `sqrt(v) + eps` of `torch.optim` has an infinite slope, and its derivative is `0 * inf`; the root here is
    the smaller of the two, by at most eps. The slope at `g = 0` is up to `learning_rate / eps`.

    Where `eps^2` underflows (in float16, for `eps < 2e-4`), a component whose gradient was always zero is 0 / 0, and
    the task's outcome `DIVERGED`. Raises `ValueError` for a learning rate or an eps that is not above 0, and for a
    decay outside `[0, 1)`.
    """

    learning_rate: float
    decay: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        """Check the settings."""
        positive("learning rate", self.learning_rate)
        decay_rate("decay", self.decay)
        positive("eps", self.eps)

    def start(self, w: Tensor) -> Tensor:
        """The weights, no gradient seen."""
        return torch.cat([w, torch.zeros_like(w)], -1)

    def step(self, state: Tensor, gradient: Gradient, size: int) -> Tensor:
        """One step."""
        w, second = state.split([size, size], -1)
        g = gradient(w)
        second = averaged(second, g * g, self.decay)
        return torch.cat([w - self.learning_rate * (g / (second + self.eps**2).sqrt()), second], -1)
