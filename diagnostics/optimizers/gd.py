"""Gradient descent, `w <- w - learning_rate * gradient(w)`."""

from dataclasses import dataclass

from torch import Tensor

from diagnostics.inner import Gradient, optimizers


@optimizers.register("gd")
@dataclass(frozen=True)
class GradientDescent:
    """Gradient descent with a constant step; its state is the weights alone.

    With a proximal term the gradient is `g + strength * (w - theta)`, added up before the step is taken: the factored
    form `(1 - c) w + c theta - learning_rate * g` loses about three bits more in float32.
    """

    learning_rate: float

    def start(self, w: Tensor) -> Tensor:
        """The state is the weights."""
        return w

    def step(self, state: Tensor, gradient: Gradient, size: int) -> Tensor:
        """One step."""
        return state - self.learning_rate * gradient(state)
