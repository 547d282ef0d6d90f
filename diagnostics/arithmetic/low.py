"""bfloat16 and float16 in the same Python code, with the accumulation said and not left to the kernels.

Every tensor and every operation's result is a number of the format. How an operation comes to its result is defined
here, because kernels for these formats differ between machines, and some are missing:

* an elementwise operation is computed in float32 and rounded once, so that + - * / and sqrt are correctly rounded
  (24 >= 2 * 11 + 2, Figueroa 1995);
* products and sums accumulate in float32 and are rounded once, as tensor cores do; or, in the arithmetics called
  `pure`, in the format itself (`rounded_sums`);
* factorisations and solves of linear systems are computed in float32 and rounded, in both.

A Python number that meets a tensor (a step size, say) is a float32 there. Overflow gives infinity, underflow gives
subnormal numbers and then 0, as the formats do.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache
from math import frexp, isfinite
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from diagnostics.arithmetic import rounded_convolution, rounded_sums
from diagnostics.arithmetic.after_each import kind_of, on_tensors, operation_name, tensors_in, written_to
from diagnostics.problem import ConvexConstants, Problem
from diagnostics.rows import Data

# name -> its format, and whether it accumulates in the format itself
FORMATS: dict[str, tuple[torch.dtype, bool]] = {
    "bfloat16": (torch.bfloat16, False),
    "bfloat16_pure": (torch.bfloat16, True),
    "float16": (torch.float16, False),
    "float16_pure": (torch.float16, True),
}
_ACCUMULATED = rounded_sums.OPERATIONS | rounded_convolution.OPERATIONS
# Computed in float32 in the pure arithmetics too: they sum nothing, or have no accumulation of their own to imitate.
_IN_FLOAT32 = frozenset(
    """
    _linalg_solve_ex linalg_solve_triangular linalg_lu_solve linalg_lu_factor_ex linalg_cholesky_ex linalg_qr
    _linalg_eigh linalg_inv_ex
    """.split()
)


def low_precision(name: str) -> AbstractContextManager[object]:
    """A context in which tensors of the format `name` (see `FORMATS`) are computed with as the module says.

    Tensors of other formats are left alone, as is an operation in which the two meet. Raises `NotImplementedError` for
    an operation that is not known, or has no accumulation in the format itself where that is asked for.
    """
    return _LowPrecision(*FORMATS[name])


class _LowPrecision(TorchDispatchMode):
    def __init__(self, dtype: torch.dtype, own_accumulation: bool) -> None:
        super().__init__()
        self.dtype, self.own_accumulation = dtype, own_accumulation

    def __torch_dispatch__(
        self, operation: OpOverload, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if not self._concerned(args, kwargs) or _is_exact(operation, args, kwargs):
            return operation(*args, **kwargs)
        written = written_to(operation, args, kwargs)
        kwargs.pop("dtype", None)  # the format's own, see `_concerned`
        wide_args = [self._widened(value) for value in args]
        wide_kwargs = {key: self._widened(value) for key, value in kwargs.items()}
        computed = self._definition(operation, kind_of(operation, args, kwargs))(*wide_args, **wide_kwargs)
        if not written:
            return on_tensors(lambda x: x.to(self.dtype) if x.is_floating_point() else x, computed)
        for tensor, value in zip(written, written_to(operation, wide_args, wide_kwargs), strict=True):
            tensor.copy_(value)
        return written[0] if isinstance(computed, Tensor) else tuple(written)

    def _concerned(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether the result is of the format: by torch's rule the tensors that are no scalars decide, if any."""
        tensors = [x for value in (*args, *kwargs.values()) for x in tensors_in(value)]
        numbers = [x for x in tensors if x.is_floating_point()]
        deciding = {x.dtype for x in numbers if x.dim() > 0} or {x.dtype for x in numbers}
        return deciding == {self.dtype} and kwargs.get("dtype") in (None, self.dtype)

    def _definition(self, operation: OpOverload, kind: str) -> Callable[..., Any]:
        name = operation_name(operation)
        if not self.own_accumulation or kind not in ("product", "sum") or name in _IN_FLOAT32:
            return operation
        if name not in _ACCUMULATED or operation._schema.is_mutable:
            raise NotImplementedError(
                f"operation {operation} has no accumulation in {self.dtype} itself; add {name!r} to OPERATIONS of "
                "diagnostics/arithmetic/rounded_sums.py"
            )
        accumulated = _ACCUMULATED[name]
        return lambda *args, **kwargs: accumulated(lambda x: x.to(self.dtype).float(), *args, **kwargs)

    def _widened(self, value: Any) -> Any:
        if value is self.dtype:  # some backward formulas are told their input's
            return torch.float32
        return on_tensors(lambda x: x.float() if x.dtype == self.dtype else x, value)


def _is_exact(operation: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation rounds nothing: it moves or compares numbers, or gives no tensor."""
    return not _gives_tensors(operation) or kind_of(operation, args, kwargs) == "movement"


@cache
def _gives_tensors(operation: OpOverload) -> bool:
    return any("Tensor" in str(result.type) for result in operation._schema.returns)


def underflow_at(norms: Tensor, tiny: float, exact: Tensor | None = None, *, backward: bool = False) -> Tensor:
    """The step `(B,)` at which a gradient vanished by underflow, -1 where none did.

    `norms (K+1, B)` are those of the inner gradient, or, with `backward`, of the adjoint, whose sweep comes from K
    down to 0, so that its first is the largest such step. A norm has vanished that is below `tiny`, the smallest normal
    number of the arithmetic, where the `exact` one, if it is known, is not zero.
    """
    vanished = norms.double() < tiny
    if exact is not None:
        vanished = vanished & (exact != 0)
    met = vanished.flip(0) if backward else vanished
    first = met.to(torch.int8).argmax(0)
    return torch.where(met.any(0), len(norms) - 1 - first if backward else first, -1)


def scaled_losses(problem: Problem, factor: float) -> Problem:
    """The same inner loop with all that flows between losses and weights multiplied by `factor`, a power of two.

    This is loss scaling (Micikevicius et al. 2018), which keeps small derivatives from underflow. The inner loss is
    multiplied; whatever derivative of it leaves for w or theta is divided again there, so that gradient, Hessian and
    mixed products are what they were. The outer loss is multiplied and not divided: adjoint and meta-gradient stay
    scaled, and the caller divides by `factor` when the result has left the arithmetic. Away from the ends of the range
    the factor changes no bit of the inner loop, nor of anything else but its power of two; only, with any factor, 1
    included, the loss's derivatives are added up before they meet other terms. `ValueError` for a factor that is no
    power of two.
    """
    if not (isfinite(factor) and factor > 0 and frexp(factor)[0] == 0.5):
        raise ValueError(f"loss scaling: expected a power of two, which scales without rounding, found {factor!r}")

    def inner_loss(w: Tensor, theta: Tensor, data: Data) -> Tensor:
        return factor * problem.inner_loss(_enter(w, factor), _enter(theta, factor), data)

    def outer_loss(w: Tensor, theta: Tensor, data: Data) -> Tensor:
        return factor * problem.outer_loss(w, theta, data)

    known = problem.constants

    def constants(data: Data) -> ConvexConstants:
        assert known is not None
        stated = known(data)
        return replace(stated, outer_smoothness=factor * stated.outer_smoothness)

    return replace(
        problem, inner_loss=inner_loss, outer_loss=outer_loss, constants=None if known is None else constants
    )


# Entering the scaled loss is the identity, and leaving it divides. What enters in one derivative leaves in the next,
# so each is the other's backward, whatever the order of the derivative: neither is the true derivative of the other
# by itself, and the factor on the loss makes up for it.


class _Enter(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, factor: float) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _leave(grad, ctx.factor), None


class _Leave(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, factor: float) -> Tensor:
        return x * (1 / factor)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _enter(grad, ctx.factor), None


def _enter(x: Tensor, factor: float) -> Tensor:
    return _Enter.apply(x, factor)  # pyright: ignore[reportReturnType]


def _leave(x: Tensor, factor: float) -> Tensor:
    return _Leave.apply(x, factor)  # pyright: ignore[reportReturnType]
