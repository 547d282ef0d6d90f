"""The networks of the workloads for one task, as a module and as a function of the weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class TaskModel:
    """A network for one task, in two forms with the weights in the same order: that of gradgauge's flat rows.

    `module()` builds it; `apply(weights, x)` is its forward as a function; `loss(outputs, labels) -> ()`.
    """

    module: Callable[[], nn.Module]
    apply: Callable[[Sequence[Tensor], Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]


def tanh_mlp(widths: Sequence[int]) -> TaskModel:
    """The multilayer perceptron of the sinusoid with its mean squared error."""
    pairs = list(zip(widths, widths[1:], strict=False))

    def module() -> nn.Module:
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairs:
            layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
        return nn.Sequential(*layers[:-1])

    def apply(weights: Sequence[Tensor], x: Tensor) -> Tensor:
        for layer in range(len(pairs)):
            x = functional.linear(x, weights[2 * layer], weights[2 * layer + 1])
            if layer < len(pairs) - 1:
                x = x.tanh()
        return x

    return TaskModel(module, apply, lambda outputs, labels: ((outputs - labels) ** 2).mean())


def conv4(ways: int, width: int) -> TaskModel:
    """Four blocks of convolution, batch norm (of the batch at hand), ReLU and max-pool, with its cross-entropy."""

    def module() -> nn.Module:
        layers: list[nn.Module] = []
        for block in range(4):
            layers += [
                nn.Conv2d(1 if block == 0 else width, width, 3, padding=1),
                nn.BatchNorm2d(width, track_running_stats=False),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, ways))

    def apply(weights: Sequence[Tensor], x: Tensor) -> Tensor:
        for block in range(4):
            kernel, bias, scale, shift = weights[4 * block : 4 * block + 4]
            x = functional.conv2d(x, kernel, bias, padding=1)
            x = functional.batch_norm(x, None, None, scale, shift, training=True)
            x = functional.max_pool2d(functional.relu(x), 2)
        return functional.linear(x.flatten(1), weights[16], weights[17])

    return TaskModel(module, apply, functional.cross_entropy)
