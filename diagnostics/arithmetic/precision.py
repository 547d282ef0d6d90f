"""The arithmetics by name: how numbers enter one, and how results leave it for comparison."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.registry import unknown
from diagnostics.rows import Data


@dataclass(frozen=True)
class Precision:
    """An arithmetic of machine epsilon `eps`.

    `enter` rounds float64 into it, `leave` brings a result back to float64.
    """

    name: str
    enter: Callable[[Tensor], Tensor]
    leave: Callable[[Tensor], Tensor]
    eps: float


def _native(name: str, dtype: torch.dtype) -> Precision:
    return Precision(name, lambda x: x.to(dtype), lambda x: x.double(), torch.finfo(dtype).eps)


PRECISIONS = {p.name: p for p in (_native("float32", torch.float32), _native("float64", torch.float64))}


def precision(name: str) -> Precision:
    """The arithmetic called `name`; `ValueError` with the nearest known name otherwise.

    TF32 is switched off first, because on recent GPUs it silently replaces float32 in convolutions and, on request,
    in products.
    """
    if name not in PRECISIONS:
        raise ValueError(unknown("precision", name, tuple(PRECISIONS)))
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return PRECISIONS[name]


def enter_rows(precision: Precision, data: Data) -> dict[str, Tensor]:
    """The floating-point tensors of a sample in the arithmetic; whole numbers (labels) as they are."""
    return {key: precision.enter(value) if value.is_floating_point() else value for key, value in data.items()}
