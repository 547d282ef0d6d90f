"""Extended precision: a tensor whose every number is the unevaluated sum of two float64 numbers (double-double).

The *same code* runs in it, unchanged: autograd and `torch.func` work above, and every operation that they ask for
arrives here, in `__torch_dispatch__`, and is done in double words (see `double_word`, `elementary`, `ozaki`). Unit
roundoff is 2^-104 or better. An operation that is not covered raises; there is no silent fall back to float64.

A plain tensor that meets an `Extended` one enters exactly, its low word zero. Written into a plain tensor, an
`Extended` one would lose half of its digits, which raises too.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diagnostics.arithmetic.double_word import Pair

EPS = 2.0**-104  # of the arithmetic, as torch.finfo(...).eps is of the others
LISTED_IN = "diagnostics/arithmetic/operations"

Operation = Callable[..., Any]
OPERATIONS: dict[Any, Operation] = {}  # aten overload -> the same operation on Extended tensors


class Uncovered(NotImplementedError):
    """An operation that extended precision does not have."""


class Extended(Tensor):
    """A tensor of double words: `high + low`, `high` being that sum rounded to float64. Made by `extended`."""

    high: Tensor
    low: Tensor

    @staticmethod
    def __new__(cls, high: Tensor, low: Tensor) -> "Extended":
        """The wrapper that torch sees: float64 by name, of the words' layout and device."""
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            high.size(),
            strides=high.stride(),
            storage_offset=high.storage_offset(),
            dtype=torch.float64,
            device=high.device,
        )

    def __init__(self, high: Tensor, low: Tensor) -> None:
        """Keep the two words, of one layout."""
        self.high, self.low = high, low

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Do one aten operation in double words."""
        operation = OPERATIONS.get(func)
        if operation is not None:
            return operation(*args, **(kwargs or {}))
        parts = func.decompose(*args, **(kwargs or {}))  # into the operations that torch itself makes it of
        if parts is NotImplemented:
            raise Uncovered(
                f"extended precision: expected an operation that it has, found {func}; "
                f"add a function for it under {LISTED_IN}, or write the model without it"
            )
        return parts

    def __repr__(self, *, tensor_contents: object = None) -> str:
        """The two words."""
        return f"Extended(high={self.high}, low={self.low})"


def operation(*overloads: Any) -> Callable[[Operation], Operation]:
    """Register a function as what the given aten overloads do to `Extended` tensors."""

    def register(function: Operation) -> Operation:
        for overload in overloads:
            if overload in OPERATIONS:
                raise ValueError(f"extended precision: {overload} has two functions")
            OPERATIONS[overload] = function
        return function

    return register


def extended(x: Tensor) -> Tensor:
    """The numbers of `x`, exactly, as an `Extended` tensor."""
    return x if isinstance(x, Extended) else wrap((x.double(), torch.zeros_like(x, dtype=torch.float64)))


def words(x: Any, like: Tensor | None = None) -> Pair:
    """The two words of a tensor or a number: those of a plain one are as float64 holds it, exact but for huge integers.

    `like` says the device of a number.
    """
    if isinstance(x, Extended):
        return x.high, x.low
    high = torch.as_tensor(x, dtype=torch.float64, device=None if like is None else like.device)
    return high, torch.zeros_like(high)


def wrap(pair: Pair) -> Extended:
    """An `Extended` tensor of two words of one shape; they are given one layout, which torch is told of."""
    high, low = pair
    if high.stride() != low.stride() or high.storage_offset() != low.storage_offset():
        high, low = (word.clone(memory_format=torch.contiguous_format) for word in pair)
    return Extended(high, low)


def rounded(x: Tensor) -> Tensor:
    """The tensor rounded to float64."""
    return x.high if isinstance(x, Extended) else x.double()
