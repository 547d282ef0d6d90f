"""The arithmetics by name: how numbers enter one, how code runs in it, and how results leave it for comparison."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from diagnostics.arithmetic import extended as double_double
from diagnostics.arithmetic import operations
from diagnostics.arithmetic.extended import Extended, extended, rounded
from diagnostics.arithmetic.low import FORMATS, low_precision
from diagnostics.arithmetic.machine import keeps_denormals, require_fit, require_float64
from diagnostics.registry import unknown
from diagnostics.rows import Data

assert operations  # what `extended` computes with


@dataclass(frozen=True)
class Precision:
    """An arithmetic of machine epsilon `eps` and smallest normal number `tiny`.

    `enter` rounds float64 into it (`extended` numbers enter exactly where they fit), `leave` rounds a result to
    float64; code runs in it inside `running()`. `enter` raises `Unfit` for a tensor on a device without float64.
    """

    name: str
    enter: Callable[[Tensor], Tensor]
    leave: Callable[[Tensor], Tensor]
    eps: float
    tiny: float
    running: Callable[[], AbstractContextManager[object]] = nullcontext


def _native(
    name: str, dtype: torch.dtype, running: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Precision:
    limits = torch.finfo(dtype)
    return Precision(name, lambda x: rounded(_placed(x)).to(dtype), rounded, limits.eps, limits.tiny, running)


def _placed(x: Tensor) -> Tensor:
    if x.device.type != "cpu":
        require_float64(x.device)
    return x


PRECISIONS = {
    p.name: p
    for p in (
        *(_native(name, dtype, partial(low_precision, name)) for name, (dtype, _) in FORMATS.items()),
        _native("float32", torch.float32),
        _native("float64", torch.float64),
        Precision(
            "extended", lambda x: extended(_placed(x)), rounded, double_double.EPS, torch.finfo(torch.float64).tiny
        ),
    )
}


def precision(name: str) -> Precision:
    """The arithmetic called `name`; `ValueError` with the nearest known name otherwise.

    TF32 is switched off first. Raises `Unfit` where float64 or float32 are not what they should be on this machine.
    """
    if name not in PRECISIONS:
        raise ValueError(unknown("precision", name, tuple(PRECISIONS)))
    switch_off_tf32()
    if not keeps_denormals():  # a thread may have switched it since the last time; the other probes are of the machine
        require_fit()
    return PRECISIONS[name]


def switch_off_tf32() -> None:
    """On recent GPUs TF32 silently replaces float32 in convolutions and, on request, in products."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def arithmetic_of(x: Tensor) -> str:
    """The name of the arithmetic that a tensor's numbers are in: `extended`, `float32`, ..."""
    return "extended" if isinstance(x, Extended) else str(x.dtype).removeprefix("torch.")


def epsilon(x: Tensor) -> float:
    """Machine epsilon of the arithmetic that a tensor's numbers are in."""
    return double_double.EPS if isinstance(x, Extended) else torch.finfo(x.dtype).eps


def enter_rows(precision: Precision, data: Data) -> dict[str, Tensor]:
    """The floating-point tensors of a sample in the arithmetic; whole numbers (labels) as they are."""
    return {key: precision.enter(value) if value.is_floating_point() else value for key, value in data.items()}
