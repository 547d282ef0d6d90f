"""The table of every operation of extended precision: at least one call of each overload, with small numbers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diagnostics.arithmetic import operations
from diagnostics.arithmetic.extended import Extended, wrap

assert operations
aten, prims = torch.ops.aten, torch.ops.prims
EPS64 = torch.finfo(torch.float64).eps
MEAN, SUM, NONE = 1, 2, 0


@dataclass(frozen=True)
class Case:
    """One call of an overload, and which of its tensors and outputs its derivative is taken of (None: all)."""

    overload: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    by: tuple[int, ...] | None = None
    outputs: int | None = None

    @property
    def name(self) -> str:
        return str(self.overload)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Of both signs, between 0.2 and 2 in size, no two alike: away from kinks, poles and ties."""
    generator = torch.Generator().manual_seed(sum(shape) + 100 * seed)
    size = 0.2 + 1.8 * torch.rand(shape, generator=generator, dtype=torch.float64)
    return size * (1 - 2 * torch.randint(0, 2, shape, generator=generator).double())


def positive(*shape: int, seed: int = 0) -> Tensor:
    return numbers(*shape, seed=seed).abs()


def whole(*values: Any) -> Tensor:
    return torch.tensor(values)


A, B, ROW = numbers(3, 4), numbers(3, 4, seed=1), numbers(4, seed=2)
MASK, ONE = A > 0, torch.ones((), dtype=torch.float64)
SPD = numbers(2, 3, 3) @ numbers(2, 3, 3).mT + 4 * torch.eye(3, dtype=torch.float64)
SQUARE = numbers(2, 3, 3, seed=3) + 4 * torch.eye(3, dtype=torch.float64)
LU, PIVOTS, _ = torch.linalg.lu_factor_ex(SQUARE)
IMAGE, GRAPH = numbers(2, 4, 5, 6), numbers(2, 4, 7)
KERNEL, KERNEL_IN_GROUPS, KERNEL_1D = numbers(6, 4, 3, 2), numbers(6, 2, 3, 2), numbers(4, 2, 3)
CONV = (2, 1), (1, 2), (1, 2)
TARGET, CLASS_WEIGHT = whole(0, 2, -100), positive(4)
SIGNS = positive(3, 4).round() / 2  # between 0 and 1
NORM = (2, 4, 6)  # images, channels, places


def case(overload: Any, *args: Any, by: tuple[int, ...] | None = None, outputs: int | None = None, **kw: Any) -> Case:
    return Case(overload, args, kw, by, outputs)


def unary() -> Iterator[Case]:
    for one in (
        aten.abs, aten.cos, aten.exp, aten.expm1, aten.neg, aten.reciprocal, aten.relu, aten.sgn, aten.sigmoid,
        aten.sign, aten.sin, aten.tanh, aten.isnan, aten.isinf, aten.silu, aten.clone, aten.alias,
        aten.detach, aten.lift_fresh, aten.zero_, aten.neg_, aten.reciprocal_, aten.abs_, aten.cos_, aten.exp_,
        aten.expm1_, aten.relu_, aten.sigmoid_, aten.sin_, aten.tanh_, aten.ones_like, aten.zeros_like,
        aten.log_sigmoid_forward,
    ):  # fmt: skip
        yield case(one.default, A, outputs=1)
    for one in (aten.log, aten.sqrt, aten.rsqrt, aten.log_, aten.sqrt_):
        yield case(one.default, positive(3, 4))
    for one in (prims.neg, prims.exp, prims.tanh, prims.log, prims.sqrt):
        yield case(one.default, positive(3, 4), by=())
    yield case(aten.log1p.default, A / 3)
    yield case(aten.log1p_.default, A / 3)
    yield case(aten.frexp.Tensor, A)
    yield case(aten.ldexp.Tensor, A, whole(-3, 0, 1, 40), by=())  # torch's own derivative is 0 for negative exponents
    yield case(aten.trace.default, A)
    for exponent in (2, 3, -2, 1, 0, 7):
        yield case(aten.pow.Tensor_Scalar, A, exponent)
    for exponent in (0.5, -0.5, 2.5, -1.5):
        yield case(aten.pow.Tensor_Scalar, positive(3, 4), exponent)
    yield case(aten.clamp.default, A, -0.7, 0.9)
    yield case(aten.clamp.default, A, None, 0.9)
    for one in (aten.clamp, aten.clamp_):
        yield case(one.Tensor, A, ROW - 1, ROW + 1)
    yield case(aten.clamp_.default, A, -0.7, 0.9)
    for one in (aten.clamp_min, aten.clamp_max, aten.clamp_min_, aten.clamp_max_):
        yield case(one.default, A, 0.3)
        yield case(one.Tensor, A, B)
    for beta, threshold in ((1, 20), (1.7, 1.0)):
        yield case(aten.softplus.default, A, beta, threshold)
        yield case(aten.softplus_backward.default, B, A, beta, threshold)
    yield case(aten.elu.default, A)
    yield case(aten.elu.default, A, 1.3, 0.7, 1.1)
    yield case(aten.elu_backward.default, B, 1.3, 0.7, 1.1, False, A)
    yield case(aten.leaky_relu.default, A, 0.1)
    yield case(aten.leaky_relu_backward.default, B, A, 0.1, False)
    yield case(aten.threshold_backward.default, B, A, 0.0)
    yield case(aten.tanh_backward.default, B, A)
    yield case(aten.sigmoid_backward.default, B, A)
    yield case(aten.silu_backward.default, B, A, by=())
    yield case(aten.log_sigmoid_backward.default, B, A, aten.log_sigmoid_forward(A)[1], by=(0,))


def binary() -> Iterator[Case]:
    for one in (aten.add, aten.sub, aten.add_, aten.sub_):
        yield case(one.Tensor, A, ROW)
        yield case(one.Tensor, A, ROW, alpha=-1.7)
        yield case(one.Scalar, A, 0.3, -1.7)
    yield case(aten.add.Tensor, ROW, A, alpha=3)
    for one in (aten.mul, aten.div, aten.mul_, aten.div_):
        yield case(one.Tensor, A, ROW)
        yield case(one.Scalar, A, 0.3)
        yield case(one.Scalar, A, -0.25)
    yield case(aten.div.Tensor, ROW, A)
    yield case(aten.rsub.Tensor, A, ROW, alpha=-1.7)
    yield case(aten.rsub.Scalar, A, 0.3, 1.3)
    for one in (aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge):
        yield case(one.Tensor, A, torch.where(MASK, A, B))
        yield case(one.Scalar, A, 0.3)
    for one in (aten.maximum, aten.minimum):
        yield case(one.default, A, B)
    yield case(aten.equal.default, A, B)
    yield case(aten.equal.default, A, A)
    yield case(aten.is_same_size.default, A, B)
    yield case(aten._has_same_storage_numel.default, A, B)
    yield case(aten.is_nonzero.default, A[0, 0])
    yield case(aten._local_scalar_dense.default, A[0, 0])
    for one in (aten.addcmul, aten.addcmul_, aten.addcdiv, aten.addcdiv_):
        yield case(one.default, A, B, ROW)
        yield case(one.default, A, B, ROW, value=0.3)
    yield case(aten.lerp.Tensor, A, B, ROW)
    for one in (prims.add, prims.sub, prims.mul, prims.div):
        yield case(one.default, A, B, by=())


def movement() -> Iterator[Case]:
    for one in (aten.diagonal, aten.diagonal_copy, aten.t, aten.tril, aten.triu, aten.unbind, aten.diag_embed):
        yield case(getattr(one, "int" if one == aten.unbind else "default"), A)
    yield case(aten.diagonal.default, A, 1)
    yield case(aten.as_strided.default, A, (2, 3), (1, 4), 1)
    yield case(aten.constant_pad_nd.default, A, (1, 2), 0.3)
    yield case(aten.expand.default, ROW, (3, 4))
    yield case(aten.flip.default, A, (0, 1))
    yield case(aten.gather.default, A, 1, whole([0, 3, 3], [1, 1, 0]))
    yield case(aten.index.Tensor, A, [whole(0, 2), None], by=())
    yield case(aten.index.Tensor, A, [MASK], by=())
    yield case(aten.index_select.default, A, 1, whole(0, 3, 1))
    yield case(aten.permute.default, IMAGE, (2, 0, 3, 1))
    yield case(aten.repeat.default, A, (2, 1, 2))
    yield case(aten.roll.default, A, (1,), (1,))
    yield case(aten.select.int, A, 1, -1)
    yield case(aten.slice.Tensor, A, 1, 1, 9, 2)
    for one, shape in ((aten.squeeze, (1, 3, 1, 4)), (aten.squeeze_, (1, 3, 1, 4))):
        yield case(one.default, numbers(*shape))
        yield case(one.dim, numbers(*shape), 2)
        yield case(one.dims, numbers(*shape), (0, 2))
    yield case(aten.transpose.int, IMAGE, 1, 3)
    yield case(aten.unfold.default, A, 1, 2, 1, by=())
    yield case(aten.unsqueeze.default, A, 1)
    yield case(aten.unsqueeze_.default, A, 1)
    for one in (aten.view, aten._unsafe_view):
        yield case(one.default, A, (2, 6))
    yield case(aten._reshape_alias.default, A, (2, 6), (6, 1))
    yield case(aten.diagonal_backward.default, ROW, (4, 5), 0, 0, 1)
    yield case(aten.select_backward.default, ROW, (3, 4), 0, 1)
    yield case(aten.slice_backward.default, A, (3, 9), 1, 0, 8, 2)
    yield case(aten.split.Tensor, A, 3, 1)
    yield case(aten.split_with_sizes.default, A, (1, 3), 1)
    for one in (aten.cat, aten.stack):
        yield case(one.default, [A, B], 1)
    yield case(aten.new_empty.default, A, (0,))
    yield case(aten.new_empty_strided.default, A, (0, 3), (1, 2))
    yield case(aten.empty_like.default, A[:0])
    yield case(aten.full_like.default, A, 0.3)
    yield case(aten.new_full.default, A, (2, 2), 0.3)
    yield case(aten.new_ones.default, A, (2, 2))
    yield case(aten.new_zeros.default, A, (2, 2))
    yield case(aten._to_copy.default, A)
    yield case(aten._to_copy.default, A, dtype=torch.float64)
    yield case(aten._to_copy.default, A, dtype=torch.int64)
    yield case(aten.where.self, MASK, A, ROW)
    for one in (aten.masked_fill, aten.masked_fill_):
        yield case(one.Scalar, A, MASK, 0.3)
        yield case(one.Tensor, A, MASK, torch.tensor(0.3, dtype=torch.float64))
    yield case(aten.scatter.value, A, 1, whole([0], [2]), 0.3)
    yield case(aten.index_fill.int_Tensor, A, 1, whole(0, 2), ROW[0])
    yield case(aten.index_fill.int_Scalar, A, 1, whole(0, 2), 0.3)
    yield case(aten.scatter.src, A, 1, whole([0], [2]), numbers(2, 1))
    yield case(aten.copy_.default, A, ROW)
    yield case(aten.fill_.Scalar, A, 0.3)
    yield case(aten.fill_.Tensor, A, torch.tensor(0.3, dtype=torch.float64))
    for one in (aten.index_put, aten.index_put_):
        yield case(one.default, A, [whole(2, 0)], B[:2])


def reduction() -> Iterator[Case]:
    for one in (aten.sum, aten.mean, aten.max, aten.min, aten.amax, aten.amin, aten.argmax):
        yield case(one.default, A)
        yield case(one.default, A[1, 1])
    for one in (aten.amax, aten.amin):
        yield case(one.default, A, [1], True)
        yield case(one.default, IMAGE, [-1, 0])
    yield case(aten.argmax.default, A, 1)
    yield case(aten.argmax.default, A, 0, True)
    yield case(aten.sum.dim_IntList, A, [-1])
    yield case(aten.sum.dim_IntList, IMAGE, [0, 2], True)
    yield case(aten.sum.dim_IntList, A, [])
    yield case(aten.sum.dim_IntList, A[1, 1], [-1], True)
    yield case(aten.mean.dim, A, [0])
    yield case(aten.mean.dim, IMAGE, [-1, 1], True)
    yield case(aten.linalg_vector_norm.default, A)
    yield case(aten.linalg_vector_norm.default, IMAGE, 2, [1, -1], True)
    for dim in (0, -1):
        yield case(aten._log_softmax.default, A, dim, False)
        yield case(aten._softmax.default, A, dim, False)
        yield case(aten.logsumexp.default, A, [dim])
        yield case(aten._log_softmax_backward_data.default, B, A.log_softmax(dim), dim, torch.float64, by=(0,))
        yield case(aten._softmax_backward_data.default, B, A.softmax(dim), dim, torch.float64, by=(0,))
    yield case(aten.logsumexp.default, A, [0, 1], True)
    yield case(aten.scatter_add.default, A, 1, whole([0, 3, 3], [1, 1, 0]), B, by=())  # no derivative of parts of B
    yield case(aten.scatter_add.default, A, 1, whole([0, 3, 3], [1, 1, 0]), B[:2, :3])
    for one in (aten.index_add, aten.index_add_):
        yield case(one.default, A, 1, whole(3, 0, 3, 3), B)
        yield case(one.default, A, 0, whole(2), B[:1], alpha=-1.7)


def algebra() -> Iterator[Case]:
    yield case(aten.mm.default, A, B.T)
    yield case(aten.bmm.default, SPD, SQUARE)
    yield case(aten.mv.default, A, ROW)
    yield case(aten.dot.default, ROW, ROW + 1)
    yield case(aten.vdot.default, ROW, ROW + 1)
    scalars: list[dict[str, Any]] = [{}, {"beta": 0.3, "alpha": -1.7}, {"beta": 0}]
    for kwargs in scalars:
        yield case(aten.addmm.default, numbers(3), A, B.T, **kwargs)
        yield case(aten.baddbmm.default, numbers(3), SPD, SQUARE, **kwargs)
    yield case(aten.linalg_lu_factor_ex.default, SQUARE, by=())
    for b in (numbers(2, 3, 2), numbers(1, 3, 2), numbers(2, 3, 0)):
        yield case(aten.linalg_lu_solve.default, LU, PIVOTS, b, by=(1,))
        yield case(aten.linalg_lu_solve.default, LU, PIVOTS, b, adjoint=True, by=(1,))
    for b in (numbers(2, 3, 2), numbers(2, 3)):
        yield case(aten._linalg_solve_ex.default, SQUARE, b, outputs=1)
    yield case(aten._linalg_solve_ex.default, SQUARE[0], numbers(3), outputs=1)
    yield case(aten.linalg_cholesky_ex.default, SPD, by=())


def layers() -> Iterator[Case]:
    for reduce in (NONE, MEAN, SUM):
        grad = A if reduce == NONE else A[0, 0]
        yield case(aten.mse_loss.default, A, B, reduce)
        yield case(aten.mse_loss_backward.default, grad, A, B, reduce)
        yield case(aten.huber_loss.default, A, B, reduce, 0.7)
        yield case(aten.huber_loss_backward.default, grad, A, B, reduce, 0.7)
        yield case(aten.binary_cross_entropy_with_logits.default, A, SIGNS, None, None, reduce, by=(0,))
        yield case(aten.binary_cross_entropy_with_logits.default, A, SIGNS, positive(4), ROW.abs(), reduce, by=(0,))
        for weight in (None, CLASS_WEIGHT):
            total = 2 * ONE if weight is None else weight[TARGET[:2]].sum()
            yield case(aten.nll_loss_forward.default, A, TARGET, weight, reduce, -100, by=(0,), outputs=1)
            grad = ROW[:3] if reduce == NONE else ROW[0]
            yield case(
                aten.nll_loss_backward.default,
                grad,
                A,
                TARGET,
                weight,
                reduce,
                -100,
                total,
                by=() if reduce == MEAN else (0,),
            )
    yield case(aten.nll_loss_forward.default, A[0], whole(2)[0], None, MEAN, -100, by=(0,), outputs=1)
    yield case(aten.nll_loss_backward.default, ROW[0], A[0], whole(2)[0], None, MEAN, -100, ONE, by=())
    x, grad = numbers(*NORM), numbers(*NORM, seed=1)
    for scale, shift in ((None, None), (numbers(4), numbers(4, seed=1))):
        yield case(aten.native_batch_norm.default, x, scale, shift, None, None, True, 0.1, 1e-5, outputs=1)
        mean, rstd = x.mean((0, 2)), (x.var((0, 2), correction=0) + 1e-5).rsqrt()
        mask = [True, True, True]
        saved = None, None, mean, rstd, True, 1e-5, mask
        yield case(aten.native_batch_norm_backward.default, grad, x, scale, *saved, by=())
    for scale, shift in ((None, None), (numbers(6), numbers(6, seed=1))):
        yield case(aten.native_layer_norm.default, x, [6], scale, shift, 1e-5, outputs=1)
        mask = [True, scale is not None, scale is not None]
        saved = [6], numbers(2, 4, 1), positive(2, 4, 1), scale, shift, mask
        yield case(aten.native_layer_norm_backward.default, grad, x, *saved, by=())


def images() -> Iterator[Case]:
    bias = numbers(6)
    backward = aten.convolution_backward.default
    for x, weight, groups in ((IMAGE, KERNEL, 1), (IMAGE, KERNEL_IN_GROUPS, 2)):
        for place in (((1, 1), (0, 0), (1, 1)), CONV, ([2], [1], [1])):
            settings = (*place, False, (0, 0), groups)
            yield case(aten.convolution.default, x, weight, bias, *settings)
            grad = numbers(*aten.convolution(x, weight, None, *settings).shape)
            yield case(backward, grad, x, weight, [6], *settings, [True, True, True])
    for groups in (1, 2):
        weight = numbers(4, 3, 3, 2)
        settings = (*CONV, True, (1, 0), groups)
        yield case(aten.convolution.default, IMAGE, weight, None, *settings)
        grad = numbers(*aten.convolution(IMAGE, weight, None, *settings).shape)
        yield case(backward, grad, IMAGE, weight, [0], *settings, [True, True, False])
    for transposed in (False, True):
        settings = ([2], [1], [2], transposed, [0], 1 if transposed else 2)
        yield case(aten.convolution.default, GRAPH, KERNEL_1D, numbers(2 if transposed else 4), *settings)
        grad = numbers(*aten.convolution(GRAPH, KERNEL_1D, None, *settings).shape)
        yield case(backward, grad, GRAPH, KERNEL_1D, [grad.shape[1]], *settings, [True, True, True])
    narrow = numbers(1, 2, 4, 2)
    settings = [3, 3], [1, 1], [1, 1], [1, 1], False  # windows from the first column to beyond the last
    y, at = aten.max_pool2d_with_indices(narrow, *settings)
    yield case(aten.max_pool2d_with_indices_backward.default, numbers(*y.shape), narrow, *settings, at, by=(0,))
    for x in (IMAGE, IMAGE[0]):
        for args in (
            ([2, 2], [2, 2], [0, 0], [1, 1]),
            ([3, 2], [2, 1], [1, 1], [1, 1]),
            ([2, 2], [1, 2], [1, 0], [2, 1]),
        ):
            yield case(aten.max_pool2d_with_indices.default, x, *args, outputs=1)
            y, at = aten.max_pool2d_with_indices(x, *args)
            more = (x, *args, False, at)
            yield case(aten.max_pool2d_with_indices_backward.default, numbers(*y.shape), *more, by=(0,))
        for kernel, stride, padding, divisor in (([2, 2], [2, 2], [0, 0], None), ([3, 2], [2, 1], [1, 1], 5)):
            settings = kernel, stride, padding, False, True, divisor
            yield case(aten.avg_pool2d.default, x, *settings)
            grad = numbers(*aten.avg_pool2d(x, *settings).shape)
            yield case(aten.avg_pool2d_backward.default, grad, x, *settings, by=(0,))


CASES = [
    *unary(), *binary(), *movement(), *reduction(), *algebra(), *layers(), *images(),
]  # fmt: skip


def with_low(x: Tensor, seed: int = 0) -> Extended:
    """The numbers, and random low words of up to half a unit in the last place."""
    generator = torch.Generator().manual_seed(x.numel() + seed)
    low = x * (torch.rand(x.shape, generator=generator, dtype=torch.float64) - 0.5) * 2.0**-53
    return wrap((x.clone(), low))


def tree_map(function: Any, tree: Any) -> Any:
    """`function` of the float64 tensors in arguments, whatever lists they are in."""
    if isinstance(tree, (list, tuple)):
        return type(tree)(tree_map(function, leaf) for leaf in tree)
    return function(tree) if isinstance(tree, Tensor) and tree.dtype == torch.float64 else tree


def outputs_of(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (list, tuple)) else [result]


def call(one: Case, args: Any) -> list[Any]:
    """The outputs, in-place operations being done to a copy."""
    if one.overload._schema.is_mutable:
        args = (args[0].clone(), *args[1:])
    return outputs_of(one.overload(*args, **one.kwargs))
