"""Something done to the result of each operation: `result <- change(result, kind)`, below autograd.

A dispatch mode sees every operation that reaches a kernel: those of the forward pass, of the backward pass and of its
derivatives, inside `torch.func` transforms too. Operations that *compute* pass their floating-point results through
`change`; those that only move numbers, compare them or make new ones are exact and do not. An operation that the
tables below do not know is an error, because leaving it out in silence would make every conclusion a little wrong.

What happens inside a kernel stays unseen: a dot product is one operation, however many terms it has.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

Change = Callable[[Tensor, str], Tensor]  # a result and the kind of its operation -> what stands in its place

# By kind, names of operations as torch's dispatcher calls them, without the underscore of the in-place ones.
KINDS: dict[str, frozenset[str]] = {
    kind: frozenset(names.split())
    for kind, names in {
        "product": """
            mm bmm addmm baddbmm addbmm mv addmv dot vdot ger addr linear matmul outer
            convolution convolution_backward convolution_overrideable _convolution
            _linalg_solve_ex linalg_solve_triangular triangular_solve cholesky_solve linalg_lu_solve linalg_inv_ex
            linalg_lu_factor_ex linalg_cholesky_ex linalg_lu linalg_qr _linalg_eigh _linalg_svd linalg_ldl_factor_ex
            linalg_ldl_solve linalg_lstsq linalg_matrix_exp _linalg_det _linalg_slogdet linalg_householder_product
            _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention_for_cpu_backward
        """,
        "sum": """
            sum nansum mean var std var_mean std_mean cumsum cumprod prod trace logsumexp logcumsumexp
            norm linalg_vector_norm _cdist_forward
            _softmax _softmax_backward_data _log_softmax _log_softmax_backward_data
            native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
            native_batch_norm_backward cudnn_batch_norm cudnn_batch_norm_backward
            _batch_norm_with_update _batch_norm_no_update batch_norm_backward
            native_layer_norm native_layer_norm_backward native_group_norm native_group_norm_backward
            mse_loss smooth_l1_loss huber_loss nll_loss_forward nll_loss2d_forward binary_cross_entropy
            max_pool2d_with_indices_backward avg_pool2d avg_pool2d_backward avg_pool1d
            _adaptive_avg_pool2d _adaptive_avg_pool2d_backward
            scatter_add index_add index_reduce scatter_reduce embedding_dense_backward col2im unfold_backward
            grid_sampler_2d grid_sampler_2d_backward upsample_bilinear2d upsample_bilinear2d_backward
        """,
        "elementary": """
            exp exp2 expm1 log log2 log10 log1p logaddexp logit xlogy sqrt rsqrt pow float_power
            sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh erf erfc erfinv lgamma digamma
            hypot sinc special_ndtri special_log_ndtr special_xlog1py special_gammainc
            sigmoid log_sigmoid_forward softplus gelu silu mish elu celu selu hardswish
            tanh_backward sigmoid_backward log_sigmoid_backward softplus_backward gelu_backward silu_backward
            mish_backward elu_backward hardswish_backward logit_backward
        """,
        "arithmetic": """
            add sub rsub mul div reciprocal square addcmul addcdiv lerp remainder fmod floor_divide leaky_relu
            leaky_relu_backward hardsigmoid hardsigmoid_backward hardtanh_backward
            mse_loss_backward smooth_l1_loss_backward huber_loss_backward binary_cross_entropy_backward
            nll_loss_backward nll_loss2d_backward
        """,
        "movement": """
            clone copy _to_copy to lift_fresh lift_fresh_copy lift contiguous _unsafe_view _reshape_copy alias_copy
            squeeze unsqueeze transpose t as_strided view_copy _reshape_alias
            cat stack repeat repeat_interleave flip roll rot90 tril triu diag_embed
            diagonal_backward diagonal_scatter select_backward select_scatter slice_backward slice_scatter
            as_strided_scatter constant_pad_nd pixel_shuffle im2col block_diag combinations
            where masked_fill masked_scatter masked_select index index_select index_copy index_fill index_put
            _index_put_impl _unsafe_index _unsafe_index_put _unsafe_masked_index gather scatter take put take_along_dim
            embedding sort topk kthvalue median nanmedian _unique2 unique_consecutive
            neg abs sign sgn copysign positive relu threshold threshold_backward hardtanh clamp clamp_min clamp_max
            maximum minimum fmax fmin max min amax amin aminmax cummax cummin max_pool2d_with_indices
            floor ceil round trunc frac nan_to_num real frexp ldexp heaviside nextafter
            empty empty_like empty_strided empty_permuted zeros zeros_like ones ones_like full full_like fill zero
            new_empty new_empty_strided new_zeros new_ones new_full _efficientzerotensor scalar_tensor eye arange
            linspace logspace tril_indices triu_indices detach resize set
            rand rand_like randn randn_like randint randperm normal uniform bernoulli exponential
            native_dropout _local_scalar_dense
            eq ne lt le gt ge equal isnan isinf isfinite isposinf isneginf signbit isclose all any argmax argmin argsort
            logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor nonzero
            count_nonzero searchsorted bucketize isin
        """,
    }.items()
}
_KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}
_PUTS = frozenset({"index_put", "_index_put_impl", "_unsafe_index_put", "put"})  # sums where told to accumulate


def after_each_operation(change: Change) -> AbstractContextManager[object]:
    """A context in which every operation that computes has each floating-point result replaced by `change(result,
    kind)`.

    `kind` is one of `product`, `sum`, `elementary`, `arithmetic` (see `KINDS`); what `change` computes is not itself
    changed. It must return a tensor of the result's shape and dtype. Raises `NotImplementedError`, naming the
    operation, where one is not in `KINDS` or is complex.
    """
    return _AfterEach(change)


def kind_of(operation: OpOverload, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> str:
    """The kind of an operation: `product`, `sum`, `elementary`, `arithmetic`, or `movement`, which is exact.

    The arguments matter only to assignments by index, which are sums where they accumulate. Raises
    `NotImplementedError` for an operation that is not in `KINDS`.
    """
    kind = _listed_kind(operation)
    if kind == "movement" and operation_name(operation) in _PUTS:
        accumulates = any(x is True for x in args) or (kwargs or {}).get("accumulate", False)
        return "sum" if accumulates else kind
    return kind


@cache
def operation_name(operation: OpOverload) -> str:
    """The name that an operation has in `KINDS`: that of its packet, in place or not."""
    return operation.overloadpacket.__name__.rstrip("_")


@cache
def _listed_kind(operation: OpOverload) -> str:
    if operation.is_view:
        return "movement"
    name = operation_name(operation)
    if operation.namespace not in ("aten", "prims") or name not in _KIND_OF:
        raise NotImplementedError(
            f"operation {operation} has no known kind of rounding; add {name!r} to the kind that it belongs to in "
            "KINDS of diagnostics/arithmetic/after_each.py"
        )
    return _KIND_OF[name]


class _AfterEach(TorchDispatchMode):
    def __init__(self, change: Change) -> None:
        super().__init__()
        self.change = change

    def __torch_dispatch__(
        self, operation: OpOverload, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        results = operation(*args, **kwargs)
        written = written_to(operation, args, kwargs)
        if not any(x.is_floating_point() or x.is_complex() for x in (*tensors_in(results), *written)):
            return results  # comparisons, counts and indices are not rounded
        kind = kind_of(operation, args, kwargs)
        if kind == "movement":
            return results

        def changed(result: Tensor) -> Tensor:
            if result.is_complex():
                raise NotImplementedError(f"operation {operation} gives complex numbers, which are not covered")
            return self.change(result, kind) if result.is_floating_point() else result

        for tensor in written:
            tensor.copy_(changed(tensor))
        return on_tensors(lambda x: x if any(x is y for y in written) else changed(x), results)


# What an operation takes and gives is a tensor, another value, or a flat list of them.


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in an argument or a result of an operation."""
    if isinstance(value, Tensor):
        return [value]
    return [x for x in value if isinstance(x, Tensor)] if isinstance(value, (list, tuple)) else []


def on_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """An argument or a result of an operation, `function` applied to its tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if not isinstance(value, (list, tuple)):
        return value
    return type(value)([function(x) if isinstance(x, Tensor) else x for x in value])


def written_to(operation: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors among an operation's arguments that it writes its results into."""
    written = _written_arguments(operation)
    if not written:
        return []
    values = [args[place] if place < len(args) else kwargs.get(name) for place, name in written]
    return [tensor for value in values for tensor in tensors_in(value)]


@cache
def _written_arguments(operation: OpOverload) -> list[tuple[int, str]]:
    """The place and the name of each argument that an operation writes to."""
    arguments = enumerate(operation._schema.arguments)
    return [(place, x.name) for place, x in arguments if x.alias_info is not None and x.alias_info.is_write]
