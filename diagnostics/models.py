"""Networks over flat weights, natively batched: `w (B, N)`, inputs `(B, n, ...)` -> outputs `(B, n, C)`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod, sqrt

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from diagnostics.batch_norm import batch_norm
from diagnostics.checks import one_of
from diagnostics.convolution import convolution
from diagnostics.grey import grey_convolution, normed_grey_convolution
from diagnostics.max_pool import max_pool

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softplus": lambda x: -functional.logsigmoid(-x),  # torch's softplus is a straight line beyond 20
}
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": max_pool,
    "average": partial(functional.avg_pool2d, kernel_size=2),
}
INITIALISATIONS = ("fan_in", "torch")
NORMS = ("batch", "none")


@dataclass(frozen=True)
class Network:
    """A network by its flat weights: `apply(w (B, N), x) -> (B, n, C)`; `init(seed) -> (N,)` in float64."""

    size: int
    init: Callable[[int], Tensor]
    apply: Callable[[Tensor, Tensor], Tensor]


def mlp(widths: tuple[int, ...], activation: str = "tanh", initialisation: str = "fan_in") -> Network:
    """A multilayer perceptron, `widths` from input to output; inputs `(B, n, widths[0])`.

    `fan_in` draws weights from N(0, 1/fan-in) with zero biases; `torch` draws both from U(-1, 1)/sqrt(fan-in), as
    `torch.nn.Linear` does.
    """
    act = ACTIVATIONS[one_of("activation", activation, tuple(ACTIVATIONS))]
    one_of("initialisation", initialisation, INITIALISATIONS)
    pairs = list(zip(widths, widths[1:], strict=False))
    shapes = [shape for fan_in, fan_out in pairs for shape in ((fan_out, fan_in), (fan_out,))]

    def apply(w: Tensor, x: Tensor) -> Tensor:
        pieces = _split(w, shapes)
        for layer in range(len(pairs)):
            weight, bias = pieces[2 * layer], pieces[2 * layer + 1]
            x = torch.baddbmm(bias.unsqueeze(1), x, weight.mT)
            if layer < len(pairs) - 1:
                x = act(x)
        return x

    def init(seed: int) -> Tensor:
        rng = np.random.default_rng(seed)
        pieces = []
        for fan_in, fan_out in pairs:
            if initialisation == "torch":
                pieces += [rng.uniform(-1, 1, n) / sqrt(fan_in) for n in (fan_out * fan_in, fan_out)]
            else:
                pieces += [rng.standard_normal(fan_out * fan_in) / sqrt(fan_in), np.zeros(fan_out)]
        return torch.from_numpy(np.concatenate(pieces))

    return Network(sum(map(prod, shapes)), init, apply)


def conv4(
    ways: int,
    channels: int = 1,
    width: int = 64,
    norm: str = "batch",
    activation: str = "relu",
    pool: str = "max",
    side: int = 28,
) -> Network:
    """Four blocks of 3x3 convolution, norm, activation and 2x2 pool, then a linear layer.

    Inputs are `(B, n, channels, side, side)`. The norm `batch` uses the statistics of the batch at hand, at query time
    too, and keeps none (transductive, as MAML does); `none` leaves it out.
    Tasks are groups of one grouped convolution: with one task it is the plain one. Weights are Xavier-uniform with gain
    1.73 and biases uniform in [0, 0.05], as in iMAML's released network: with zero biases a black background would sit
    on the kink of the ReLU.
    """
    one_of("norm", norm, NORMS)
    normed = norm != "none"
    act = ACTIVATIONS[one_of("activation", activation, tuple(ACTIVATIONS))]
    pooled = POOLS[one_of("pool", pool, tuple(POOLS))]
    shapes: list[tuple[int, ...]] = []
    for block in range(4):
        shapes += [(width, channels if block == 0 else width, 3, 3), (width,)]
        shapes += [(width,), (width,)] if normed else []
    features = width * max(side // 16, 1) ** 2
    shapes += [(ways, features), (ways,)]

    def apply(w: Tensor, x: Tensor) -> Tensor:
        tasks, images = x.shape[:2]
        pieces = iter(_split(w, shapes))
        h = x.transpose(0, 1).flatten(1, 2)
        for block in range(4):
            kernel, bias = next(pieces), next(pieces)
            norm = (next(pieces), next(pieces)) if normed else None
            if block == 0 and channels == 1:
                grey = x.squeeze(2)
                h = normed_grey_convolution(grey, kernel, *norm) if norm else grey_convolution(grey, kernel, bias)
            else:
                h = convolution(h, kernel.flatten(0, 1), bias.flatten(), tasks)
                h = batch_norm(h, norm[0].flatten(), norm[1].flatten()) if norm else h
            h = act(pooled(h)) if pool == "max" else pooled(act(h))  # the same either way, and a quarter to act on
        h = h.reshape(images, tasks, features).transpose(0, 1)
        weight, bias = next(pieces), next(pieces)
        return torch.baddbmm(bias.unsqueeze(1), h, weight.mT)

    def init(seed: int) -> Tensor:
        rng = np.random.default_rng(seed)
        pieces = []
        for block in range(4):
            kernel = shapes[block * (4 if normed else 2)]
            pieces += [xavier(rng, kernel), rng.uniform(0, 0.05, width)]
            pieces += [np.ones(width), np.zeros(width)] if normed else []
        pieces += [xavier(rng, (ways, features)), rng.uniform(0, 0.05, ways)]
        return torch.from_numpy(np.concatenate(pieces))

    return Network(sum(map(prod, shapes)), init, apply)


def xavier(rng: np.random.Generator, shape: tuple[int, ...], gain: float = 1.73) -> np.ndarray:
    """Weights uniform in +-gain sqrt(6 / (fan-in + fan-out)), flat (Glorot and Bengio 2010)."""
    fan_in, fan_out = prod(shape[1:]), prod(shape) // shape[1]
    return rng.uniform(-1, 1, prod(shape)) * gain * sqrt(6 / (fan_in + fan_out))


def _split(w: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """The flat rows `(B, N)` cut into tensors `(B, *shape)`."""
    pieces = w.split([prod(shape) for shape in shapes], dim=-1)
    return [piece.reshape(len(w), *shape) for piece, shape in zip(pieces, shapes, strict=True)]
