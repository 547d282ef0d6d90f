"""This machine's arithmetic: what must hold for a digit to mean what it says."""

from dataclasses import dataclass

import torch

from analyses.manifest import numerics
from diagnostics.arithmetic.precision import precision


@dataclass(frozen=True)
class Finding:
    """One fact about the machine, whether it is as it should be, and what to do where it is not."""

    what: str
    value: str
    good: bool = True
    advice: str = ""


def findings() -> list[Finding]:
    """Every check, each by computing something whose answer is known."""
    precision("float32")  # switches TF32 off, as every run does
    facts = numerics()
    double = torch.float64
    tiny = torch.tensor(5e-324, dtype=double)
    large = torch.full((64, 64), 1 + 2.0**-12, dtype=torch.float32)
    exact_square = (1 + 2.0**-12) ** 2 * 64
    product_error = abs((large @ large)[0, 0].item() - exact_square) / exact_square
    return [
        Finding("torch", torch.__version__),
        Finding("CPU capability", facts["cpu capability"]),
        Finding("threads", str(torch.get_num_threads())),
        Finding(
            "float64 rounds to nearest even",
            _said((torch.tensor(1.0, dtype=double) + 2.0**-53).item() == 1.0 and _ties_to_even()),
            (torch.tensor(1.0, dtype=double) + 2.0**-53).item() == 1.0 and _ties_to_even(),
            "another rounding mode is on; the error lines at eps do not hold",
        ),
        Finding(
            "denormals kept",
            _said((tiny * 1.0).item() > 0),
            (tiny * 1.0).item() > 0,
            "flush-to-zero is on: call torch.set_flush_denormal(False)",
        ),
        Finding(
            "float32 products are float32 (TF32 off)",
            f"relative error {product_error:.1e}",
            product_error < 1e-6,
            "TF32 or another short format is used in matrix products; unset the environment variables that force it",
        ),
        Finding("addcmul uses a fused multiply-add", _said(_fused())),
        Finding("CUDA", "present" if torch.cuda.is_available() else "none; everything runs on the CPU"),
    ]


def _ties_to_even() -> bool:
    return (torch.tensor(1 + 2.0**-52, dtype=torch.float64) + 2.0**-53).item() == 1 + 2.0**-51


def _fused() -> bool:
    """Whether `a * a - p` in one operation, with p the rounded product, shows the product's rounding error."""
    a = torch.full((1024,), 1 + 2.0**-30, dtype=torch.float64)
    return bool(torch.addcmul(-(a * a), a, a).abs().max() > 0)


def _said(good: bool) -> str:
    return "yes" if good else "no"
