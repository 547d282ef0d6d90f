"""Central differences of losses in balls: an oracle of any accuracy wanted.

With a step of 2^-200 they are wrong by some 2^-400 times a third derivative, and 1024 bits leave that much after the
cancellation.
"""

from collections.abc import Callable

from flint import arb, arb_mat
from torch import Tensor

from diagnostics.certificates.balls import matrix
from tests.diagnostics.certificates.tasks import BY_HAND, widths_of

BITS = 1024
STEP = 200  # minus the exponent of the differences' step
AGREE = 300  # bits to which gradient and differences agree: 400, less what derivatives of third order can take


def loss_by_hand(name: str, data: dict[str, Tensor], prefix: str, w: list[arb]) -> arb:
    """A loss without its proximal term, number by number, as the problem's docstring states it."""
    if name == "quadratic":
        inner = prefix == "support"
        square = matrix(data["A" if inner else "C"]).tolist()
        shift = [arb(0)] * len(w) if inner else [arb(value) for value in data["c"].tolist()]
        linear = [arb(value) for value in data["b"].tolist()] if inner else [arb(0)] * len(w)
        x = [a - b for a, b in zip(w, shift, strict=True)]
        products = (square[i][j] * x[i] * x[j] for i in range(len(w)) for j in range(len(w)))
        return sum(products, arb(0)) / 2 - sum((a * b for a, b in zip(w, linear, strict=True)), arb(0))
    total, count = arb(0), 0
    for inputs, answer in zip(data[f"{prefix}_x"].tolist(), data[f"{prefix}_y"].flatten().tolist(), strict=True):
        count += 1
        if name in BY_HAND:
            output = sum((arb(x) * a for x, a in zip(inputs, w, strict=True)), arb(0))
        else:
            output = network(widths_of(name), inputs, w)
        if name == "linear_regression":
            total += (output - answer) ** 2 / 2
        elif name == "logistic":
            total += (-output * answer).exp().log1p()
        else:
            total += (output - answer) ** 2
    return total / count


def network(widths: tuple[int, ...], inputs: list[float], w: list[arb]) -> arb:
    h, rest = [arb(x) for x in inputs], list(w)
    for layer, (fan_in, fan_out) in enumerate(zip(widths, widths[1:], strict=False), 2):
        kernel, bias, rest = (
            rest[: fan_in * fan_out],
            rest[fan_in * fan_out :][:fan_out],
            rest[(fan_in + 1) * fan_out :],
        )
        z = [sum((kernel[o * fan_in + i] * h[i] for i in range(fan_in)), bias[o]) for o in range(fan_out)]
        h = z if layer == len(widths) else [ball.tanh() for ball in z]
    assert not rest and len(h) == 1
    return h[0]


def differences(function: Callable[[arb_mat], arb_mat], w: arb_mat, v: arb_mat) -> arb_mat:
    """The derivative of a function at `w` along `v`, to some 2^-400."""
    step = v * arb(2) ** -STEP
    return (function(w + step) - function(w - step)) * arb(2) ** (STEP - 1)


def close(one: arb_mat, other: arb_mat) -> bool:
    return all(abs(a - b) < arb(2) ** -AGREE for a, b in zip(one.entries(), other.entries(), strict=True))
