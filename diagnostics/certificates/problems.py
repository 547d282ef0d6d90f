"""The registered problems again, one task at a time, as balls: the derivatives of their losses, written out by hand.

`diagnostics.problems` defines a loss and lets autograd differentiate it; here nothing is differentiated but on paper,
so that the two have no line in common. The proximal term is left out: `gradients` adds it, with its strength.

`data` is one task's row of a sample, `{name: tensor[task]}`, in float64; its numbers are taken as exact.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from diagnostics.certificates.balls import arb, arb_mat, each, matrix, times
from diagnostics.rows import Data


@dataclass(frozen=True)
class Losses:
    """One task's losses, by their derivatives at `w (N, 1)`.

    `gradient(w) (N, 1)` and `hessian(w, V) (N, m)`, the products with the columns of `V (N, m)`, are the inner loss's
    without its proximal term; `outer_gradient(w) (N, 1)` is the outer loss's.
    """

    size: int
    gradient: Callable[[arb_mat], arb_mat]
    hessian: Callable[[arb_mat, arb_mat], arb_mat]
    outer_gradient: Callable[[arb_mat], arb_mat]


def quadratic(data: Data) -> Losses:
    """Inner loss `w'Aw/2 - b'w`, outer loss `(w - c)'C(w - c)/2`; A and C need not be symmetric to the last bit."""
    a, b, c, outer = (matrix(data[name]) for name in ("A", "b", "c", "C"))

    def symmetric_part(m: arb_mat, v: arb_mat) -> arb_mat:
        return (m * v + m.transpose() * v) / 2  # not formed beforehand, when other bits may be in use

    return Losses(
        size=b.nrows(),
        gradient=lambda w: symmetric_part(a, w) - b,
        hessian=lambda w, v: symmetric_part(a, v),
        outer_gradient=lambda w: symmetric_part(outer, w - c),
    )


def linear_regression(data: Data) -> Losses:
    """`mean (x'w - y)^2 / 2` on the support examples; the same on the query's."""
    x, y, query_x, query_y = _examples(data)

    def gradient(x: arb_mat, y: arb_mat, w: arb_mat) -> arb_mat:
        return x.transpose() * (x * w - y) / x.nrows()

    return Losses(
        size=x.ncols(),
        gradient=lambda w: gradient(x, y, w),
        hessian=lambda w, v: x.transpose() * (x * v) / x.nrows(),
        outer_gradient=lambda w: gradient(query_x, query_y, w),
    )


def logistic(data: Data) -> Losses:
    """`mean log(1 + exp(-y x'w))` on the support examples; the same on the query's.

    With s = 1 / (1 + exp(y x'w)), the gradient is `-mean s y x` and the Hessian `mean s (1 - s) y^2 x x'`.
    """
    x, y, query_x, query_y = _examples(data)

    def wrong(x: arb_mat, y: arb_mat, w: arb_mat) -> arb_mat:
        return each(lambda margin: 1 / (1 + margin.exp()), times(y, x * w))

    def gradient(x: arb_mat, y: arb_mat, w: arb_mat) -> arb_mat:
        return -x.transpose() * times(wrong(x, y, w), y) / x.nrows()

    def hessian(w: arb_mat, v: arb_mat) -> arb_mat:
        s = wrong(x, y, w)
        weight = each(lambda s, y: s * (1 - s) * y * y, s, y)
        return x.transpose() * _scale_rows(weight, x * v) / x.nrows()

    return Losses(
        size=x.ncols(),
        gradient=lambda w: gradient(x, y, w),
        hessian=hessian,
        outer_gradient=lambda w: gradient(query_x, query_y, w),
    )


def tanh_mlp(data: Data, widths: tuple[int, ...]) -> Losses:
    """Mean squared error of the tanh network `diagnostics.models.mlp(widths)` on the support points; on the query's.

    With h_0 = x, z_l = h_(l-1) W_l' + 1 b_l', h_l = tanh(z_l), and D_l the derivative of the loss in z_l,

        D_L = 2 (z_L - y) / (n C),   D_(l-1) = (D_l W_l) * (1 - h_(l-1)^2),   d/dW_l = D_l' h_(l-1),   d/db_l = D_l' 1

    and the Hessian's products are the derivatives of these lines along a direction (Pearlmutter 1994).
    """
    if len(widths) < 2:
        raise ValueError(f"certificate: expected the widths of at least an input and an output, found {widths}")
    x, y, query_x, query_y = _examples(data)
    if (x.ncols(), y.ncols()) != (widths[0], widths[-1]):
        raise ValueError(
            f"certificate: expected inputs of {widths[0]} and outputs of {widths[-1]} numbers as in widths, "
            f"found {x.ncols()} and {y.ncols()}"
        )
    return Losses(
        size=sum((fan_in + 1) * fan_out for fan_in, fan_out in _layers(widths)),
        gradient=lambda w: _mlp_gradient(widths, x, y, w),
        hessian=lambda w, v: _beside(
            [_mlp_product(widths, x, y, w, _column(v, column)) for column in range(v.ncols())]
        ),
        outer_gradient=lambda w: _mlp_gradient(widths, query_x, query_y, w),
    )


Weights = list[tuple[arb_mat, arb_mat]]  # a layer's matrix (out, in) and its bias (out, 1)


def _mlp_gradient(widths: tuple[int, ...], x: arb_mat, y: arb_mat, w: arb_mat) -> arb_mat:
    weights = _unflatten(w, widths)
    inputs, output = _forward(weights, x)
    delta = (output - y) * 2 / (y.nrows() * y.ncols())
    pieces: Weights = []
    for (kernel, _), h in zip(reversed(weights), reversed(inputs), strict=True):
        pieces.insert(0, (delta.transpose() * h, delta.transpose() * _ones(x.nrows())))
        delta = times(delta * kernel, each(_slope, h))  # not used any more where h is x itself
    return _flatten(pieces)


def _mlp_product(widths: tuple[int, ...], x: arb_mat, y: arb_mat, w: arb_mat, v: arb_mat) -> arb_mat:
    """The derivative of `_mlp_gradient` along `v`; a dot in a name marks the derivative of what has the name."""
    weights, directions = _unflatten(w, widths), _unflatten(v, widths)
    inputs, output = _forward(weights, x)
    dots = [arb_mat(x.nrows(), x.ncols())]
    for (kernel, _), (kernel_dot, bias_dot), h, after in zip(
        weights, directions, inputs, [*inputs[1:], None], strict=True
    ):
        z_dot = dots[-1] * kernel.transpose() + h * kernel_dot.transpose() + _ones(x.nrows()) * bias_dot.transpose()
        dots.append(z_dot if after is None else times(z_dot, each(_slope, after)))
    scale = arb(2) / (y.nrows() * y.ncols())
    delta, delta_dot = (output - y) * scale, dots.pop() * scale
    pieces: Weights = []
    for (kernel, _), (kernel_dot, _), h, h_dot in reversed(list(zip(weights, directions, inputs, dots, strict=True))):
        kernel_by = delta_dot.transpose() * h + delta.transpose() * h_dot
        pieces.insert(0, (kernel_by, delta_dot.transpose() * _ones(x.nrows())))
        back, back_dot = delta * kernel, delta_dot * kernel + delta * kernel_dot
        delta = times(back, each(_slope, h))
        delta_dot = times(back_dot, each(_slope, h)) - 2 * times(back, h, h_dot)
    return _flatten(pieces)


def _forward(weights: Weights, x: arb_mat) -> tuple[list[arb_mat], arb_mat]:
    """Every layer's input, `(n, width)` each, and the network's output."""

    def affine(h: arb_mat, kernel: arb_mat, bias: arb_mat) -> arb_mat:
        return h * kernel.transpose() + _ones(x.nrows()) * bias.transpose()

    inputs = [x]
    for kernel, bias in weights[:-1]:
        inputs.append(each(lambda ball: ball.tanh(), affine(inputs[-1], kernel, bias)))
    return inputs, affine(inputs[-1], *weights[-1])


def _slope(h: arb) -> arb:
    """The derivative of tanh where its value is h."""
    return 1 - h * h


def _layers(widths: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip(widths, widths[1:], strict=False))


def _unflatten(w: arb_mat, widths: tuple[int, ...]) -> Weights:
    entries = iter(w.entries())

    def take(rows: int, columns: int) -> arb_mat:
        return arb_mat(rows, columns, list(islice(entries, rows * columns)))

    return [(take(fan_out, fan_in), take(fan_out, 1)) for fan_in, fan_out in _layers(widths)]


def _flatten(weights: Weights) -> arb_mat:
    entries = [ball for pair in weights for piece in pair for ball in piece.entries()]
    return arb_mat(len(entries), 1, entries)


def _examples(data: Data) -> tuple[arb_mat, arb_mat, arb_mat, arb_mat]:
    x, y, query_x, query_y = (matrix(data[name]) for name in ("support_x", "support_y", "query_x", "query_y"))
    for prefix, inputs, answers in (("support", x, y), ("query", query_x, query_y)):
        if not inputs.nrows() == answers.nrows() > 0:
            raise ValueError(
                f"certificate: expected as many answers as inputs, and at least one, "
                f"found {answers.nrows()} and {inputs.nrows()} in the {prefix} set"
            )
    return x, y, query_x, query_y


def _scale_rows(weight: arb_mat, x: arb_mat) -> arb_mat:
    """Each row of `x (n, m)` times its entry of `weight (n, 1)`."""
    return times(weight * _ones(x.ncols()).transpose(), x)


def _ones(count: int) -> arb_mat:
    return arb_mat(count, 1, [1] * count)


def _column(x: arb_mat, column: int) -> arb_mat:
    return arb_mat(x.nrows(), 1, [x[row, column] for row in range(x.nrows())])


def _beside(columns: list[arb_mat]) -> arb_mat:
    """The matrix with these columns."""
    return arb_mat([list(row) for row in zip(*(column.entries() for column in columns), strict=True)])
