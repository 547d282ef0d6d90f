"""Gradient descent with momentum (the heavy ball), `b <- momentum b + gradient(w)`, `w <- w - learning_rate b`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.checks import positive
from diagnostics.inner import Gradient, optimizers
from diagnostics.optimizers.averages import decay_rate


@optimizers.register("momentum")
@dataclass(frozen=True)
class Momentum:
    """The heavy ball of Polyak (1964), as `torch.optim.SGD(momentum=...)` writes it.

    Its state is `(w, b)`, `S = 2 N`, from `b = 0`. For a constant learning rate these are Polyak's steps,
    `w_(k+1) = w_k - learning_rate gradient(w_k) + momentum (w_k - w_(k-1))`. Raises `ValueError` for a learning rate
    that is not above 0, and for a momentum outside `[0, 1)`.
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
        buffer = self.momentum * buffer + gradient(w)
        return torch.cat([w - self.learning_rate * buffer, buffer], -1)
