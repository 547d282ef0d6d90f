"""This machine's arithmetic: what must hold for a digit to mean what it says."""

from dataclasses import dataclass

import torch

from analyses.manifest import numerics
from diagnostics.arithmetic.machine import PROBES, Unfit, require_float64
from diagnostics.arithmetic.precision import switch_off_tf32


@dataclass(frozen=True)
class Finding:
    """One fact about the machine, whether it is as it should be, and what to do where it is not."""

    what: str
    value: str
    good: bool = True
    advice: str = ""


def findings() -> list[Finding]:
    """Every check, each by computing something whose answer is known."""
    switch_off_tf32()
    probed = [(probe, probe.holds()) for probe in PROBES]
    return [
        Finding("torch", torch.__version__),
        Finding("CPU capability", numerics()["cpu capability"]),
        Finding("threads", str(torch.get_num_threads())),
        *(Finding(probe.what, _said(holds), holds, probe.advice) for probe, holds in probed),
        Finding("addcmul uses a fused multiply-add", _said(_fused())),
        _accelerator(),
    ]


def _accelerator() -> Finding:
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        return Finding("accelerator", "none; everything runs on the CPU")
    try:
        require_float64(device)
    except Unfit as error:
        return Finding("accelerator", str(device), False, str(error))
    return Finding("accelerator", f"{device}, with float64")


def _fused() -> bool:
    """Whether `a * a - p` in one operation, with p the rounded product, shows the product's rounding error."""
    a = torch.full((1024,), 1 + 2.0**-30, dtype=torch.float64)
    return bool(torch.addcmul(-(a * a), a, a).abs().max() > 0)


def _said(good: bool) -> str:
    return "yes" if good else "no"
