"""Extended precision at the edges is as float64: infinities, NaN, signed zeros, empty tensors, views.

Where a result is not finite or zero, the high word has float64's very bits. Elsewhere it is float64's number to a few
roundings of its own.
"""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diagnostics.arithmetic.extended import Extended, Uncovered, extended, rounded
from tests.cases import check_ratio
from tests.diagnostics.arithmetic.extended_cases import CASES, call, numbers, tree_map, with_low
from tests.diagnostics.arithmetic.test_double_word import SPECIAL

EPS64 = torch.finfo(torch.float64).eps
TINY = 5e-324  # a subnormal number's last bit
INF, NAN = float("inf"), float("nan")


def as_float64(found: Any, plain: Any, where: object, *, scale: float = 0.0) -> None:
    """Assert that a result is of the same kind everywhere, and of about the same size where it is finite.

    `scale` is the size of what the result is the difference of.
    """
    if not isinstance(plain, Tensor) or plain.dtype != torch.float64:
        same = torch.equal(found, plain) if isinstance(plain, Tensor) else found == plain
        assert same and not isinstance(found, Extended), where
        return
    assert isinstance(found, Extended) and found.shape == plain.shape, where
    high, low = found.high, found.low
    special = ~plain.isfinite() | (plain == 0)
    same = (high == plain) & (high.signbit() == plain.signbit()) | (high.isnan() & plain.isnan())
    assert bool(same[special].all()), f"{where}: {high[special & ~same]}, float64 has {plain[special & ~same]}"
    assert bool((low[~high.isfinite()] == 0).all()) and torch.equal((high + low)[~special], high[~special]), where
    unit = EPS64 * (plain.abs()[~special] + scale) + TINY
    check_ratio("edges against float64", (high - plain)[~special].abs(), unit, where)


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "neg": lambda x: -x, "abs": torch.abs, "sign": torch.sign, "relu": torch.relu, "exp": torch.exp,
    "expm1": torch.expm1, "log": torch.log, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "softplus": F.softplus,
    "silu": F.silu, "elu": F.elu, "leaky_relu": F.leaky_relu, "isnan": torch.isnan, "isinf": torch.isinf,
    "isfinite": torch.isfinite, "half": lambda x: x / 2, "double": lambda x: 2 * x, "third": lambda x: x / 3,
    "times": lambda x: -0.3 * x, "plus": lambda x: x + 0.0, "minus": lambda x: 0.0 - x, "one minus": lambda x: 1 - x,
    "plus minus zero": lambda x: x + (-0.0), "minus zero": lambda x: x - 0.0, "times zero": lambda x: x * 0.0,
    "over zero": lambda x: x / -0.0, "times inf": lambda x: x * INF, "over inf": lambda x: x / INF,
    "over subnormal": lambda x: x / 2.0**-1070, "times subnormal": lambda x: x * 2.0**-1074,
    "clamp": lambda x: x.clamp(-0.5, 2.0), "clamp to zero": lambda x: x.clamp(min=0.0),
    "clamp to one": lambda x: x.clamp(max=1),
    "power -2": lambda x: x**-2, "power 0": lambda x: x**0, "power 1": lambda x: x**1, "power 2": lambda x: x**2,
    "power 3": lambda x: x**3, "power 1/2": lambda x: x**0.5, "power -1/2": lambda x: x**-0.5,
    "power 3/2": lambda x: x[x != -INF] ** 1.5, "power -3/2": lambda x: x[x != -INF] ** -1.5,
}  # fmt: skip
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "maximum": torch.maximum,
    "minimum": torch.minimum, "less": torch.lt, "at most": torch.le, "equal": torch.eq, "different": torch.ne,
    "greater": torch.gt, "at least": torch.ge, "plus": lambda x, y: x.sub(y, alpha=-1),
    "where": lambda x, y: torch.where(x > y, x, y),
    "clamp": lambda x, y: x.clamp(max=y),
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_special_numbers(name: str) -> None:
    x = torch.tensor(SPECIAL, dtype=torch.float64)
    as_float64(UNARY[name](extended(x)), UNARY[name](x), name)
    in_row = torch.stack([x, torch.ones_like(x)], 1)  # of another layout, and not alone
    as_float64(UNARY[name](extended(in_row)[:, 0]), UNARY[name](in_row[:, 0]), name)


@pytest.mark.parametrize("mixed", ["both", "left", "right"])
@pytest.mark.parametrize("name", BINARY)
def test_special_pairs(name: str, mixed: str) -> None:
    x, y = (torch.tensor(side, dtype=torch.float64) for side in zip(*itertools.product(SPECIAL, SPECIAL), strict=True))
    plain = BINARY[name](x, y)
    found = BINARY[name](x if mixed == "right" else extended(x), y if mixed == "left" else extended(y))
    as_float64(found, plain, name)


ROWS = torch.tensor(
    [
        [1, 2, 3], [1, INF, 3], [1, -INF, 3], [INF, 1, INF], [-INF, -INF, -INF], [INF, -INF, 1], [NAN, 1, 2],
        [1, NAN, INF], [-0.0, -0.0, -0.0], [0.0, -0.0, 0.0], [-0.0, 0.0, -0.0], [5e-324, 5e-324, 1e-320],
        [1e308, 2e307, 3e307], [1e-300, 2e-300, 3e-300], [2, 2, 1], [-800, 0, 800],
    ],
    dtype=torch.float64,
)  # fmt: skip
REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: x.sum(1), "mean": lambda x: x.mean(1), "amax": lambda x: x.amax(1), "amin": lambda x: x.amin(1),
    "argmax": lambda x: x.argmax(1), "softmax": lambda x: x.softmax(1), "log_softmax": lambda x: x.log_softmax(1),
    "logsumexp": lambda x: x.logsumexp(1), "matmul": lambda x: x @ x.new_ones(3, 2),
    "max_pool2d": lambda x: F.max_pool2d(x.view(1, -1, 1, 3), (1, 3)),
    "avg_pool2d": lambda x: F.avg_pool2d(x.view(1, -1, 1, 3), (1, 3)),
    "where max_pool2d": lambda x: F.max_pool2d(x.view(1, -1, 1, 3), (1, 2), return_indices=True)[1],
    "cross_entropy": lambda x: F.cross_entropy(x, torch.ones(len(x), dtype=torch.int64), reduction="none"),
    "max": lambda x: torch.stack([row.max() for row in x]), "where": lambda x: x.masked_fill(x > 1, -INF),
    "pad": lambda x: F.pad(x, (1, 1), value=-INF),
}  # fmt: skip


@pytest.mark.parametrize("name", REDUCTIONS)
def test_special_rows(name: str) -> None:
    as_float64(REDUCTIONS[name](extended(ROWS)), REDUCTIONS[name](ROWS), name)


def test_a_maximum_of_equal_high_words_is_the_one_with_the_greater_low_word() -> None:
    x = Extended(torch.ones(3).double(), torch.tensor([0.0, 2.0**-60, -(2.0**-60)]).double())
    assert (int(x.argmax()), int(x.max().sub(1) * 2.0**60), int(x.min().sub(1) * 2.0**60)) == (1, 1, -1)
    assert x.clamp(max=1)[1] == 1 and x[1] > x[0] > x[2] and not torch.equal(x, x.flip(0))


SHAPES = [(), (0,), (1,), (0, 3), (3, 0), (1, 1), (2, 1, 3)]
ANY_SHAPE: dict[str, Callable[[Tensor], Any]] = {
    "functions": lambda x: torch.tanh(x).exp().abs().sqrt() + F.softplus(x) + F.relu(x).sigmoid(),
    "sum": lambda x: x.sum(), "mean": lambda x: x.mean(), "sum along": lambda x: x.sum(-1),
    "mean along": lambda x: x.mean(-1, keepdim=True), "sum along the first": lambda x: x.sum(0),
    "norm": lambda x: x.norm(),
    "amax": lambda x: x.amax(-1), "max": lambda x: x.max(), "min": lambda x: x.min(), "argmax": lambda x: x.argmax(),
    "softmax": lambda x: x.softmax(-1), "log_softmax": lambda x: x.log_softmax(0), "flatten": lambda x: x.flatten(),
    "logsumexp": lambda x: x.logsumexp(-1), "outer": lambda x: x.unsqueeze(-1) * x.unsqueeze(-2),
    "product": lambda x: x.unsqueeze(-2) @ x.unsqueeze(-1), "inner": lambda x: x @ x, "flip": lambda x: x.flip(-1),
    "mse": lambda x: F.mse_loss(x, torch.zeros_like(x)), "stack": lambda x: torch.stack([x, x], -1),
    "cat": lambda x: torch.cat([x, x]), "mask": lambda x: x.masked_fill(x > 0, 3), "first": lambda x: x[0],
    "cross_entropy": lambda x: F.cross_entropy(x, torch.zeros(x.shape[:-1], dtype=torch.int64)),
    "picked": lambda x: x[torch.zeros(2, dtype=torch.int64)], "positive": lambda x: x[x > 0],
    "item": lambda x: x.item(),
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True), "truth": lambda x: bool(x),
    "layer_norm": lambda x: F.layer_norm(x, (x.shape[-1],)), "squeeze": lambda x: x.squeeze(),
    "solve": lambda x: torch.linalg.solve(torch.eye(x.shape[-1]).to(x) * 2, x.unsqueeze(-1)),
    "convolution": lambda x: F.conv2d(x.reshape(-1, 1, 1, x.shape[-1]), torch.ones(2, 1, 1, 1).to(x)),
    "broadcast": lambda x: x + torch.ones(3, 1, 1, 1).to(x) - x.new_zeros(1), "unbind": lambda x: x.unbind(-1)[0],
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ANY_SHAPE)
def test_small_shapes(name: str, shape: tuple[int, ...]) -> None:
    """As float64 does, or an error where float64 has one."""
    x = numbers(*shape)
    try:
        plain = ANY_SHAPE[name](x)
    except Exception as error:
        with pytest.raises((type(error), RuntimeError, IndexError, ValueError)) as found:
            ANY_SHAPE[name](extended(x))
        assert not isinstance(found.value, Uncovered)
    else:
        as_float64(ANY_SHAPE[name](extended(x)), plain, (name, shape), scale=2.0)


def in_another_layout(x: Tensor, kind: str) -> Tensor:
    """The same numbers."""
    if kind == "transposed":
        return x.mT.contiguous().mT if x.dim() > 1 else x.repeat_interleave(2)[::2] if x.dim() else x
    if kind == "strided":
        return x.repeat_interleave(3, -1)[..., 1::3] if x.dim() else x
    return torch.stack([x, x])[1]  # does not begin where its storage does


@pytest.mark.parametrize("kind", ["transposed", "strided", "offset"])
def test_layouts(kind: str) -> None:
    """Every operation gives the same bits for numbers that lie elsewhere in memory, or the error that float64 gives."""
    for one in CASES:
        if one.name in ("aten.as_strided.default", "aten._reshape_alias.default"):  # which are about the layout
            continue
        lifted = tree_map(lambda x: Extended(x, x * 2.0**-60), one.args)
        moved = tree_map(lambda x: extended_layout(x, kind), one.args)
        try:
            plain = call(one, tree_map(lambda x: in_another_layout(x, kind), one.args))
        except RuntimeError:
            with pytest.raises(RuntimeError):
                call(one, moved)
            continue
        for mine, same, theirs in zip(call(one, moved), call(one, lifted), plain, strict=True):
            if not isinstance(same, Extended):
                assert mine == same if not isinstance(same, Tensor) else torch.equal(mine, same), one.name
                continue
            assert mine.shape == theirs.shape and mine.stride() == mine.high.stride() == mine.low.stride()
            assert torch.equal(mine.high, same.high) and torch.equal(mine.low, same.low), one.name


def extended_layout(x: Tensor, kind: str) -> Tensor:
    moved = in_another_layout(Extended(x, x * 2.0**-60), kind)
    assert isinstance(moved, Extended) and moved.stride() == in_another_layout(x, kind).stride()
    return moved


WRITES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "a column": lambda x, y: x[:, 0].copy_(y[:, 0]),
    "an item": lambda x, y: x.__setitem__((slice(None), 0), y[:, 1]),
    "a row": lambda x, y: x[1].mul_(y[0]),
    "flat": lambda x, y: x.view(-1).mul_(2),
    "transposed": lambda x, y: x.T.add_(y.T),
    "the diagonal": lambda x, y: x.diagonal().zero_(),
    "strided": lambda x, y: x[::2, 1::2].sub_(0.3),
    "a piece": lambda x, y: x.narrow(1, 2, 2).fill_(0.3),
    "by its strides": lambda x, y: x[1:].as_strided((2, 2), (4, 1), 5).mul_(y[:2, :2]),
    "where": lambda x, y: x.masked_fill_(y > 0, 7.0),
    "a mask": lambda x, y: x.__setitem__(y > 0, 7.0),
    "places": lambda x, y: x.__setitem__(torch.tensor([2, 0]), y[:2]),
    "a view of a view": lambda x, y: x[1:].T[2].unsqueeze(0).div_(y[1:, 0]),
    "limits": lambda x, y: x[0].clamp_(min=0.5),
}


@pytest.mark.parametrize("name", WRITES)
def test_writing_through_views(name: str) -> None:
    x, y = with_low(numbers(3, 4)), with_low(numbers(3, 4, seed=1))
    plain, found, before = rounded(x).clone(), x.clone(), rounded(x).clone()
    WRITES[name](plain, rounded(y))
    WRITES[name](found, y)
    assert not torch.equal(plain, before)
    as_float64(found, plain, name, scale=2.0)
    assert torch.equal(rounded(x), before)  # a clone's words are its own
    untouched = plain == before
    assert isinstance(found, Extended) and torch.equal(found.low[untouched], x.low[untouched])


@pytest.mark.parametrize("name", WRITES)
def test_derivatives_through_writes(name: str) -> None:
    def gradients(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
        z = x * 1
        WRITES[name](z, y)
        return torch.autograd.grad((z * z * z).sum(), (x, y), materialize_grads=True)

    x, y = with_low(numbers(3, 4)), with_low(numbers(3, 4, seed=1))
    for found, plain in zip(gradients(x, y), gradients(rounded(x), rounded(y)), strict=True):
        as_float64(found, plain + 0.0, name, scale=2.0)


def test_derivative_of_a_view_by_its_strides() -> None:
    """Torch's formula asks where in the storage the view begins."""
    x = with_low(numbers(3, 4))
    slopes = []
    for one in (x.requires_grad_(), rounded(x).clone().requires_grad_()):
        (slope,) = torch.autograd.grad((one * 1)[1:].as_strided((2, 2), (4, 1), 5).square().sum(), one)
        slopes.append(slope)
    as_float64(slopes[0], slopes[1], "as_strided")


def test_an_expanded_tensor_is_read_as_what_it_shows() -> None:
    row = with_low(numbers(4))
    found = row.expand(3, 4)
    assert isinstance(found, Extended) and found.stride() == (0, 1)
    assert torch.equal((found + 1).sum(0), 3 * (row + 1))
    assert torch.equal(extended(rounded(row).expand(3, 4)), extended(rounded(row)).expand(3, 4))
