"""Whether this machine's arithmetic is what every digit rests on, each by computing something whose answer is known."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from diagnostics.arithmetic.double_word import two_prod, two_sum

DOUBLE = torch.float64
SMALLEST = 5e-324  # the least subnormal number of float64


class Unfit(RuntimeError):
    """A machine, or its present settings, whose arithmetic is not what the name says."""


@dataclass(frozen=True)
class Probe:
    """One thing that must hold, whether it does, and what to do where it does not."""

    what: str
    holds: Callable[[], bool]
    advice: str


def rounds_to_nearest_even() -> bool:
    """Whether ties of float64 sums go to the even neighbour."""
    half, one = torch.tensor(2.0**-53, dtype=DOUBLE), torch.tensor(1.0, dtype=DOUBLE)
    return (one + half).item() == 1.0 and (one + 2 * half + half).item() == 1 + 2.0**-51


def keeps_denormals() -> bool:
    """Whether numbers below the smallest normal one are kept, in float64 and in float32."""
    return bool(torch.tensor(SMALLEST, dtype=DOUBLE) * 1.0 > 0) and bool(torch.tensor(1e-45) * 1.0 > 0)


def transforms_are_error_free() -> bool:
    """Whether the error of a sum and of a product comes out exactly, as double words need: no kernel reassociates."""
    a = torch.linspace(1, 2, 1000, dtype=DOUBLE) * (1 + 2.0**-29)
    b = torch.linspace(3, 1e-9, 1000, dtype=DOUBLE)
    (s, e), (p, f) = two_sum(a, b), two_prod(a, b)
    exact = zip(a.tolist(), b.tolist(), s.tolist(), e.tolist(), p.tolist(), f.tolist(), strict=True)
    return all(
        _whole(x) + _whole(y) == _whole(t) + _whole(u) and _whole(x) * _whole(y) == (_whole(q) + _whole(v)) << SHIFT
        for x, y, t, u, q, v in exact
    )


SHIFT = 1074  # a float64 is a whole multiple of 2^-1074


def _whole(x: float) -> int:
    over, under = x.as_integer_ratio()
    return over * ((1 << SHIFT) // under)


def float32_products_are_float32() -> bool:
    """Whether matrix products keep all 24 bits of their factors (TF32 keeps 11)."""
    large = torch.full((64, 64), 1 + 2.0**-12, dtype=torch.float32)
    exact = (1 + 2.0**-12) ** 2 * 64
    return abs((large @ large)[0, 0].item() - exact) < 1e-6 * exact


PROBES = (
    Probe(
        "float64 rounds to nearest even",
        rounds_to_nearest_even,
        "another rounding mode is on; the error lines at eps do not hold",
    ),
    Probe("denormals kept", keeps_denormals, "flush-to-zero is on: call torch.set_flush_denormal(False)"),
    Probe(
        "sums and products of float64 have exact errors",
        transforms_are_error_free,
        "a fast-math mode or an extended register is in use; extended precision would be wrong",
    ),
    Probe(
        "float32 products are float32 (TF32 off)",
        float32_products_are_float32,
        "TF32 or another short format is used in matrix products; unset the environment variables that force it",
    ),
)


def require_fit() -> None:
    """Raise `Unfit`, naming what does not hold and what to do, unless every probe holds."""
    for probe in PROBES:
        if not probe.holds():
            raise Unfit(f"this machine: expected {probe.what}, found that it does not hold; {probe.advice}")


def require_float64(device: torch.device) -> None:
    """Raise `Unfit` for a device that has no float64."""
    try:
        torch.zeros(1, dtype=DOUBLE, device=device)
    except (TypeError, RuntimeError) as error:
        raise Unfit(
            f"arithmetics: expected a device with float64, found {device} ({str(error).splitlines()[0]}); "
            "move the problem to the CPU"
        ) from None
