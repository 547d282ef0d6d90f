"""Nesterov's accelerated gradient, with the gradient taken where the momentum leads."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.checks import positive
from diagnostics.inner import Gradient, optimizers
from diagnostics.optimizers.averages import decay_rate


@optimizers.register("nesterov")
@dataclass(frozen=True)
class Nesterov:
    """Nesterov's momentum (1983), with the constant coefficient of Sutskever et al. (2013), by its look-ahead points.

    They step from x with velocity u: `u <- momentum u - learning_rate gradient(x + momentum u)`, `x <- x + u`. Here the
    weights of the state are the look-ahead points `w = x + momentum u`, and `b = -u / learning_rate`, so that the loop
    takes its gradients at its weights, and ends at a look-ahead point too:

        g = gradient(w),   b <- momentum b + g,   w <- w - learning_rate (g + momentum b)

    as `torch.optim.SGD(momentum=..., nesterov=True)` does. The state is `(w, b)`, `S = 2 N`, from `b = 0`. Raises
    `ValueError` for a learning rate that is not above 0, and for a momentum outside `[0, 1)`.
    """

    learning_rate: float
    momentum: float = 0.9

    def __post_init__(self) -> None:
        """Check the settings."""
        positive("learning rate", self.learning_rate)
        decay_rate("momentum", self.momentum)

    def start(self, w: Tensor) -> Tensor:
        """The weights, at rest."""
        return torch.cat([w, torch.zeros_like(w)], -1)

    def step(self, state: Tensor, gradient: Gradient, size: int) -> Tensor:
        """One step."""
        w, buffer = state.split([size, size], -1)
        g = gradient(w)
        buffer = self.momentum * buffer + g
        return torch.cat([w - self.learning_rate * (g + self.momentum * buffer), buffer], -1)
