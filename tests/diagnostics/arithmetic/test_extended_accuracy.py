"""Layers and losses in extended precision against their definitions in ball arithmetic, in plain loops.

The unit is the arithmetic's epsilon times the size of the result, or of what it is the difference of; each number
is a few operations, whose rounding errors LIMIT leaves room for.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import flint
import numpy as np
import pytest
import torch
from flint import arb
from torch import Tensor
from torch.nn import functional as F

from diagnostics.arithmetic import operations
from diagnostics.arithmetic.extended import EPS, Extended
from tests.cases import check_ratio
from tests.diagnostics.arithmetic.extended_cases import numbers, positive, with_low

assert operations
Balls = np.ndarray[Any, np.dtype[Any]]
EXP, LOG, SQRT = (np.vectorize(f, otypes=[object]) for f in (arb.exp, arb.log, arb.sqrt))


@pytest.fixture(autouse=True)
def many_bits() -> None:
    flint.ctx.prec = 300


def balls(x: Tensor) -> Balls:
    """The numbers, exactly."""
    assert isinstance(x, Extended)
    pairs = zip(x.high.flatten().tolist(), x.low.flatten().tolist(), strict=True)
    flat = np.empty(x.numel(), dtype=object)
    flat[:] = [arb(high) + arb(low) for high, low in pairs]
    return flat.reshape(tuple(x.shape))


def check(name: str, found: Tensor, true: Any, scale: float = 1.0) -> None:
    true = np.asarray(true, dtype=object)
    assert tuple(found.shape) == true.shape
    errors = [float(abs(a - b).upper()) for a, b in zip(balls(found).flat, true.flat, strict=True)]
    size = max([scale, *(float(abs(b).upper()) for b in true.flat)])
    check_ratio("layers in extended precision", torch.tensor(errors).double(), EPS * size, name)


def padded(x: Balls, padding: Any, value: float) -> Balls:
    rows, columns = padding
    result = np.full((*x.shape[:2], x.shape[2] + 2 * rows, x.shape[3] + 2 * columns), arb(value), dtype=object)
    result[:, :, rows : rows + x.shape[2], columns : columns + x.shape[3]] = x
    return result


def windows(x: Balls, kernel: Any, stride: Any, dilation: Any = (1, 1)) -> Balls:
    """`(images, C, out rows, out columns, kernel rows, kernel columns)`."""
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    out = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, stride, strict=True)]
    result = np.empty((*x.shape[:2], *out, *kernel), dtype=object)
    for row, column, i, j in product(*map(range, (*out, *kernel))):
        at = row * stride[0] + i * dilation[0], column * stride[1] + j * dilation[1]
        result[:, :, row, column, i, j] = x[:, :, at[0], at[1]]
    return result


def convolved(x: Balls, weight: Balls, bias: Balls, stride: Any, padding: Any, dilation: Any, groups: int) -> Balls:
    parts = windows(padded(x, padding, 0), weight.shape[2:], stride, dilation)
    result = np.empty((x.shape[0], weight.shape[0], *parts.shape[2:4]), dtype=object)
    inputs, outputs = x.shape[1] // groups, weight.shape[0] // groups
    for image, channel in product(range(x.shape[0]), range(weight.shape[0])):
        first = channel // outputs * inputs
        for row, column in product(*map(range, parts.shape[2:4])):
            terms = parts[image, first : first + inputs, row, column] * weight[channel]
            result[image, channel, row, column] = terms.sum() + bias[channel]
    return result


def transposed(x: Balls, weight: Balls, stride: Any, padding: Any, dilation: Any, more: Any, groups: int) -> Balls:
    """Every number of the image, times the kernel, added where the kernel lies."""
    kernel, outputs = weight.shape[2:], weight.shape[1]
    full = [
        (n - 1) * s + d * (k - 1) + 1 + o
        for n, s, d, k, o in zip(x.shape[2:], stride, dilation, kernel, more, strict=True)
    ]
    result = np.full((x.shape[0], outputs * groups, *full), arb(0), dtype=object)
    for channel, row, column in product(*map(range, x.shape[1:])):
        first = channel // (x.shape[1] // groups) * outputs
        for out, i, j in product(*map(range, weight.shape[1:])):
            at = first + out, row * stride[0] + i * dilation[0], column * stride[1] + j * dilation[1]
            result[:, at[0], at[1], at[2]] += x[:, channel, row, column] * weight[channel, out, i, j]
    return result[:, :, padding[0] : full[0] - padding[0], padding[1] : full[1] - padding[1]]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [((1, 1), (0, 0), (1, 1)), ((2, 1), (1, 2), (1, 2)), ((3, 2), (2, 0), (2, 1))]
)
def test_convolution(stride: Any, padding: Any, dilation: Any, groups: int) -> None:
    x, weight, bias = with_low(numbers(2, 4, 6, 5)), with_low(numbers(6, 4 // groups, 3, 2)), with_low(numbers(6))
    found = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    # The size of a sum of at most 24 products of numbers below 2.
    true = convolved(balls(x), balls(weight), balls(bias), stride, padding, dilation, groups)
    check("convolution", found, true, 24.0)
    weight, more = with_low(numbers(4, 6 // groups, 3, 2)), (stride[0] - 1, 0)
    found = F.conv_transpose2d(x, weight, None, stride, padding, more, groups, dilation)
    true = transposed(balls(x), balls(weight), stride, padding, dilation, more, groups)
    check("transposed convolution", found, true, 24.0)


def test_convolution_of_one_dimension() -> None:
    x, weight, bias = with_low(numbers(2, 4, 9)), with_low(numbers(6, 2, 3)), with_low(numbers(6))
    found = F.conv1d(x, weight, bias, 2, 1, 2, 2)
    flat = balls(x)[:, :, None], balls(weight)[:, :, None], balls(bias)
    check("convolution of one dimension", found, convolved(*flat, (1, 2), (0, 1), (1, 2), 2)[:, :, 0], 24.0)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(2, 2, 0), ((3, 2), (2, 1), (1, 1)), ((2, 3), (1, 2), (1, 0))]
)
def test_pooling(kernel: Any, stride: Any, padding: Any) -> None:
    x = with_low(numbers(2, 3, 6, 5))
    kernel, stride, padding = ((v, v) if isinstance(v, int) else v for v in (kernel, stride, padding))
    places = list(product(*map(range, kernel)))
    largest = np.vectorize(lambda *v: max(v, key=lambda b: float(b.mid())), otypes=[object])
    parts = windows(padded(balls(x), padding, -99), kernel, stride)
    true = largest(*(parts[..., i, j] for i, j in places))
    check("max_pool2d", F.max_pool2d(x, kernel, stride, padding), true)
    parts = windows(padded(balls(x), padding, 0), kernel, stride)
    check("avg_pool2d", F.avg_pool2d(x, kernel, stride, padding), parts.sum((-1, -2)) / len(places))


def test_max_pooling_looks_at_low_words() -> None:
    high = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    low = torch.tensor([[[[0.0, -(2.0**-60)], [2.0**-70, 2.0**-80]]]], dtype=torch.float64)
    best, index = F.max_pool2d(Extended(high, low), 2, return_indices=True)
    assert isinstance(best, Extended) and best.low.item() == 2.0**-70 and index.item() == 2


@pytest.mark.parametrize("dim", [0, 1])
def test_softmax(dim: int) -> None:
    x = with_low(3 * numbers(3, 4))
    exact = balls(x)
    sums = EXP(exact).sum(dim, keepdims=True)
    check("softmax", x.softmax(dim), EXP(exact) / sums)
    check("log_softmax", x.log_softmax(dim), exact - LOG(sums), 6.0)
    check("logsumexp", x.logsumexp(dim), LOG(sums).squeeze(dim), 6.0)


def test_normalisation() -> None:
    x, scale, shift = with_low(numbers(2, 4, 6) + 3), with_low(numbers(4)), with_low(numbers(4))
    for name, dims, found in (
        ("batch_norm", (0, 2), F.batch_norm(x, None, None, scale, shift, training=True)),
        ("layer_norm", (2,), F.layer_norm(x.transpose(1, 2), [4], scale, shift).transpose(1, 2)),
    ):
        exact = balls(x)
        dims = dims if name == "batch_norm" else (1,)
        count = exact.size // exact.sum(dims).size
        away = exact - exact.sum(dims, keepdims=True) / count
        normed = away / SQRT((away * away).sum(dims, keepdims=True) / count + arb(1e-5))
        true = normed * balls(scale)[None, :, None] + balls(shift)[None, :, None]
        check(name, found, true, 5.0)  # the means are below 5


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_cross_entropy(reduction: str, weighted: bool) -> None:
    x, target = with_low(numbers(4, 3)), torch.tensor([2, -100, 0, 2])
    weight = with_low(positive(3)) if weighted else None
    weights = balls(weight) if weight is not None else np.array([arb(1)] * 3)
    scores = LOG(EXP(balls(x)).sum(1, keepdims=True)) - balls(x)
    each = [scores[i, t] * weights[t] if t >= 0 else arb(0) for i, t in enumerate(target.tolist())]
    whole = sum(weights[t] for t in target.tolist() if t >= 0)
    true = {"none": np.array(each), "sum": np.array(sum(each)), "mean": np.array(sum(each) / whole)}[reduction]
    check("cross_entropy", F.cross_entropy(x, target, weight, reduction=reduction), true, 6.0)
    check("nll_loss", F.nll_loss(x.log_softmax(1), target, weight, reduction=reduction), true, 6.0)


def test_losses_and_products() -> None:
    x, y = with_low(numbers(3, 4)), with_low(numbers(3, 4, seed=1))
    away = (balls(x) - balls(y)) ** 2
    check("mse_loss", F.mse_loss(x, y), away.sum() / 12)
    check("mse_loss", F.mse_loss(x, y, reduction="sum"), away.sum())
    check("mse_loss", F.mse_loss(x, y, reduction="none"), away, 4.0)
    check("mean", x.mean(0), balls(x).sum(0) / 3)
    check("norm", torch.linalg.vector_norm(x), SQRT((balls(x) ** 2).sum()))
    check("norm", x.norm(dim=1), SQRT((balls(x) ** 2).sum(1)))
    check(
        "bce", F.binary_cross_entropy_with_logits(x, y, reduction="none"), LOG(1 + EXP(balls(x))) - balls(x) * balls(y)
    )
    a, b, c = with_low(numbers(2, 3, 5)), with_low(numbers(2, 5, 4)), with_low(numbers(2, 3, 4))
    product_of_balls = np.stack([m @ n for m, n in zip(balls(a), balls(b), strict=True)])
    true = balls(c) * arb(0.3) + product_of_balls * arb(-1.7)
    check("baddbmm", torch.baddbmm(c, a, b, beta=0.3, alpha=-1.7), true, 20.0)


ELEMENTWISE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[arb], arb]]] = {
    "softplus": (F.softplus, lambda v: v if v > 20 else v.exp().log1p()),
    "softplus with a threshold": (
        lambda x: F.softplus(x, 2.5, 3.0),
        lambda v: v if v * 2.5 > 3 else (v * 2.5).exp().log1p() / 2.5,
    ),
    "logsigmoid": (F.logsigmoid, lambda v: -(-v).exp().log1p()),
    "silu": (F.silu, lambda v: v / (1 + (-v).exp())),
    "elu": (F.elu, lambda v: v if v > 0 else v.expm1()),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.1), lambda v: v if v > 0 else v * arb(0.1)),
    "huber": (
        lambda x: F.huber_loss(x, torch.zeros_like(x), "none", 0.7),
        lambda v: v * v / 2 if abs(v) < arb(0.7) else arb(0.7) * (abs(v) - arb(0.7) / 2),
    ),
    "relu": (F.relu, lambda v: v if v > 0 else arb(0)),
    "powers": (lambda x: x.abs() ** 2.5, lambda v: abs(v) ** 2 * abs(v).sqrt()),
    "inverse powers": (lambda x: x.abs() ** -1.5, lambda v: 1 / (abs(v) * abs(v).sqrt())),
}  # fmt: skip


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_functions_of_each_number(name: str) -> None:
    """Relative to each result."""
    mine, exact = ELEMENTWISE[name]
    x = with_low(torch.cat([numbers(8), 10 * numbers(8), torch.tensor([19.99, 20.01, 25.0, -30.0])]).double())
    for i, found in enumerate(mine(x).unbind()):
        true = exact(balls(x)[i])
        check_ratio(
            "functions of each number in extended precision",
            torch.tensor(float(abs(balls(found)[()] - true).upper())).double(),
            EPS * float(abs(true).upper()),
            name,
        )


def test_systems() -> None:
    """Relative to the condition number, by the residual: its unit is epsilon |A| |X|."""
    matrix, b = with_low(numbers(3, 5, 5)), with_low(numbers(3, 5, 2))
    for name, found in (
        ("solve", torch.linalg.solve(matrix, b)),
        ("lu_solve", torch.linalg.lu_solve(*torch.linalg.lu_factor(matrix), b)),
    ):
        for one, x, right in zip(balls(matrix), balls(found), balls(b), strict=True):
            sizes = np.abs(one) @ np.abs(x)
            ratio = np.abs(one @ x - right) / sizes
            check_ratio(name, torch.tensor([float(r.upper()) for r in ratio.flat]).double(), EPS)
    spd = matrix @ matrix.mT
    for one, factor in zip(balls(spd), balls(torch.linalg.cholesky(spd)), strict=True):
        ratio = np.abs(factor @ factor.T - one) / (np.abs(factor) @ np.abs(factor.T))
        check_ratio("cholesky", torch.tensor([float(r.upper()) for r in ratio.flat]).double(), EPS)
