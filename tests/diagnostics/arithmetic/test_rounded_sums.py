"""Accumulation in the format itself: against a loop over numbers, and, without rounding, against torch's own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diagnostics.arithmetic import rounded_convolution, rounded_sums
from diagnostics.arithmetic.rounded_sums import product, total
from tests.cases import check_ratio, vectors

ATEN = torch.ops.aten
OPERATIONS = rounded_sums.OPERATIONS | rounded_convolution.OPERATIONS
FORMATS = (torch.bfloat16, torch.float16)


def rounding(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda x: x.to(dtype).float()


def one(x: float, dtype: torch.dtype) -> float:
    """A float64 number rounded to the format; after one operation on numbers of the format that is one rounding."""
    return float(torch.tensor(x, dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (2, 17, 3), (1, 60, 1), (2, 0, 2)])
def test_a_product_is_the_loop_over_its_terms(dtype: torch.dtype, m: int, k: int, n: int) -> None:
    a, b = (vectors(1, m * k, 1).view(m, k).to(dtype), vectors(1, k * n, 2).view(k, n).to(dtype))
    value = product(a.float(), b.float(), rounding(dtype))
    for i in range(m):
        for j in range(n):
            expected = 0.0
            for x, y in zip(a[i].tolist(), b[:, j].tolist(), strict=True):
                expected = one(expected + one(x * y, dtype), dtype)
            assert float(value[i, j]) == expected


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_sum_is_the_loop_over_its_terms_in_row_major_order(dtype: torch.dtype) -> None:
    x = vectors(3, 40).view(3, 4, 10).to(dtype)
    value = total(x.float(), [2, 0], rounding(dtype))
    for j in range(4):
        expected = 0.0
        for term in x[:, j].flatten().tolist():
            expected = one(expected + term, dtype)
        assert float(value[j]) == expected


def test_sums_of_ones_stop_where_the_format_does() -> None:
    """1 + 256 = 256 in bfloat16 (8 bits), 1 + 2048 = 2048 in float16 (11 bits)."""
    for dtype, stops in ((torch.bfloat16, 256.0), (torch.float16, 2048.0)):
        ones = torch.ones(1, 3000)
        assert float(total(ones, None, rounding(dtype))) == stops
        assert float(product(ones, ones.mT, rounding(dtype))) == stops


@pytest.mark.parametrize("keep", [False, True])
def test_shapes_of_sums(keep: bool) -> None:
    for shape, dims in (
        ((2, 3, 4), [1]),
        ((2, 3, 4), [-1, 0]),
        ((2, 3), None),
        ((2, 3), []),
        ((), None),
        ((0, 3), [0]),
    ):
        x = torch.ones(shape)
        expected = x.sum(dims, keepdim=keep) if dims else x.sum(list(range(x.dim())), keepdim=keep)
        assert torch.equal(total(x, dims, lambda x: x, keep=keep), expected)


def r(*shape: int, seed: int = 0) -> Tensor:
    return vectors(1, torch.Size(shape).numel(), seed).view(shape)


MASK, LABELS = [True, True, True], torch.tensor([0, 2, 1, 1])
SCORES, IMAGES, GRADS = r(4, 3), r(3, 4, 6, 6, seed=1), r(3, 4, 6, 6, seed=2)
MEAN = IMAGES.mean((0, 2, 3))
SCALE = 1 / (IMAGES.var((0, 2, 3), correction=0) + 1e-5).sqrt()
LOG_SOFTMAX, SOFTMAX = SCORES.log_softmax(1), SCORES.softmax(1)
POOLED, PLACES = ATEN.max_pool2d_with_indices(IMAGES, [2, 2])
INDEX = torch.tensor([[0, 1, 1], [2, 2, 2], [0, 0, 1]])
CALLS = [
    (ATEN.sum.dim_IntList, (IMAGES, [0, 2])),
    (ATEN.mean.dim, (IMAGES, [-1, 1], True)),
    (ATEN.mean.default, (SCORES,)),
    (ATEN.linalg_vector_norm.default, (SCORES, 2, [1])),
    (ATEN.mv.default, (SCORES, SCORES[0])),
    (ATEN.dot.default, (SCORES[0], SCORES[1])),
    (ATEN.addmm.default, (SCORES[0], SCORES[:, :2], r(2, 3))),
    (ATEN.baddbmm.default, (r(2, 1, 3), r(2, 4, 5), r(2, 5, 3))),
    (ATEN._softmax.default, (SCORES, 1, False)),
    (ATEN._softmax_backward_data.default, (r(4, 3, seed=5), SOFTMAX, 1, torch.float64)),
    (ATEN._log_softmax.default, (SCORES, 1, False)),
    (ATEN._log_softmax_backward_data.default, (r(4, 3, seed=5), LOG_SOFTMAX, 1, torch.float64)),
    (ATEN.native_batch_norm.default, (IMAGES, r(4), r(4, seed=3), None, None, True, 0.1, 1e-5)),
    (ATEN.native_batch_norm.default, (IMAGES, None, None, None, None, True, 0.1, 1e-5)),
    (
        ATEN.native_batch_norm_backward.default,
        (GRADS, IMAGES, r(4), None, None, MEAN, SCALE, True, 1e-5, MASK),
    ),
    (ATEN.nll_loss_forward.default, (LOG_SOFTMAX, LABELS, None, 0, -100)),
    (ATEN.nll_loss_forward.default, (LOG_SOFTMAX, LABELS, None, 1, 1)),
    (ATEN.nll_loss_forward.default, (LOG_SOFTMAX, LABELS, None, 2, -100)),
    (ATEN.mse_loss.default, (SCORES, r(4, 3, seed=6))),
    (ATEN.mse_loss.default, (SCORES, r(4, 3, seed=6), 2)),
    (ATEN.scatter_add.default, (SCORES, 0, INDEX, r(3, 3, seed=7))),
    (ATEN.avg_pool2d.default, (IMAGES, [2, 3], [2, 2])),
    (ATEN.avg_pool2d_backward.default, (r(3, 4, 3, 3), IMAGES, [2, 2], [2, 2], [0, 0], False, True, None)),
    (
        ATEN.max_pool2d_with_indices_backward.default,
        (r(3, 4, 3, 3), IMAGES, [2, 2], [2, 2], [0, 0], [1, 1], False, PLACES),
    ),
]
# stride, padding, dilation, output padding (of a transposed one), groups, and another than the square kernel
CONVOLUTIONS = [
    ([1, 1], [1, 1], [1, 1], [0, 0], 2, (3, 3)),
    ([2, 1], [0, 2], [1, 2], [1, 0], 1, (2, 3)),
    ([2, 2], [1, 0], [2, 1], [0, 1], 4, (1, 2)),
    ([1, 1], [0, 0], [1, 1], [0, 0], 1, (6, 6)),
]


def convolutions() -> list[tuple[Callable[..., object], tuple[object, ...]]]:
    calls: list[tuple[Callable[..., object], tuple[object, ...]]] = []
    for stride, padding, dilation, more, groups, size in CONVOLUTIONS:
        for transposed in (False, True):
            out = (4, 8 // groups, *size) if transposed else (8, 4 // groups, *size)
            how = (stride, padding, dilation, transposed, more if transposed else [0, 0], groups)
            kernel = r(*out, seed=8)
            y = ATEN.convolution(IMAGES, kernel, None, *how)
            calls.append((ATEN.convolution.default, (IMAGES, kernel, r(8, seed=9), *how)))
            calls.append((
                ATEN.convolution_backward.default,
                (r(*y.shape, seed=10), IMAGES, kernel, [8], *how, MASK),
            ))  # fmt: skip
    return calls


@pytest.mark.parametrize(("operation", "args"), CALLS + convolutions(), ids=lambda x: str(x)[:40])
def test_without_rounding_they_are_torchs_operations(
    operation: torch._ops.OpOverload, args: tuple[object, ...]
) -> None:
    name = operation.overloadpacket.__name__
    expected, found = operation(*args), OPERATIONS[name](lambda x: x, *args)
    expected, found = (x if isinstance(x, tuple) else (x,) for x in (expected, found))
    for one, other in zip(expected, found, strict=True):
        assert one.shape == other.shape
        # The same terms in another order: eps times the terms' number (at most 200) and size (at most about 10).
        unit = 2.0**-52 * 200**0.5 * (10.0 + one.double().abs())
        check_ratio("operations without rounding", (one - other).abs(), unit, name)


def test_every_operation_of_the_tables_is_tested() -> None:
    tested = {operation.overloadpacket.__name__ for operation, _ in CALLS}
    assert set(OPERATIONS) - tested == {"sum", "mm", "bmm", "convolution", "convolution_backward"} - tested


@pytest.mark.parametrize(
    ("operation", "args", "message"),
    [
        ("linalg_vector_norm", (SCORES, 1), "expected the Euclidean one in this accumulation, found ord=1"),
        ("native_batch_norm", (IMAGES, None, None, MEAN, MEAN, True, 0.1, 1e-5), "pass no running statistics"),
        ("nll_loss_forward", (LOG_SOFTMAX, LABELS, r(3), 1, -100), "expected no class weights"),
        ("avg_pool2d", (IMAGES, [2, 2], [2, 2], [1, 1]), "expected neither padding nor ceil_mode"),
        ("avg_pool2d_backward", (GRADS, IMAGES, [2, 2], [1, 1]), "expected windows that do not overlap"),
        ("convolution", (r(1, 2, 5), r(2, 2, 3), None, [1], [0], [1], False, [0], 1), "dimensions .*, found 1"),
    ],
)
def test_what_is_not_defined_says_so(operation: str, args: tuple[object, ...], message: str) -> None:
    with pytest.raises(NotImplementedError, match=message):
        OPERATIONS[operation](lambda x: x, *args)
