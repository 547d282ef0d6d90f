"""Distances between a gradient and its reference, formed in the finer arithmetic of the two, at least float64, and
without cancellation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.arithmetic.extended import Extended, rounded
from diagnostics.arithmetic.precision import epsilon
from diagnostics.rows import row_norms


@dataclass(frozen=True)
class Distance:
    """How far an estimate e is from a reference r, each `(B,)`.

    `cosine = e'r / |e||r|`; `cosine_distance = |e/|e| - r/|r||^2 / 2`, which is 1 - cosine without its cancellation;
    `relative_error = |e - r| / |r|`; `norm_ratio = |e| / |r|`; `digits = -log10(relative_error)`, at most what
    the reference's arithmetic can tell. A zero reference has no direction: cosine, relative error and ratio are NaN,
    or 0 error where the estimate is zero too.
    """

    cosine: Tensor
    cosine_distance: Tensor
    relative_error: Tensor
    norm_ratio: Tensor
    digits: Tensor


def distance(estimate: Tensor, reference: Tensor) -> Distance:
    """The distances of `estimate (B, P)` from `reference (B, P)`, row by row."""
    e, r = (x if isinstance(x, Extended) else x.double() for x in (estimate, reference))
    e_norm, r_norm = row_norms(e), row_norms(r)
    directed = (e_norm > 0) & (r_norm > 0) & e_norm.isfinite() & r_norm.isfinite()
    unit_e = e / torch.where(directed, e_norm, 1.0).unsqueeze(-1)
    unit_r = r / torch.where(directed, r_norm, 1.0).unsqueeze(-1)
    apart = 0.5 * row_norms(unit_e - unit_r) ** 2
    usable_r = torch.where(r_norm > 0, r_norm, torch.nan)
    relative = torch.where((e_norm == 0) & (r_norm == 0), 0.0, row_norms(e - r) / usable_r)
    return Distance(
        cosine=rounded(torch.where(directed, 1.0 - apart, torch.nan)),
        cosine_distance=rounded(torch.where(directed, apart, torch.nan)),
        relative_error=rounded(relative),
        norm_ratio=rounded(e_norm / usable_r),
        digits=-torch.log10(torch.clamp(rounded(relative), min=epsilon(r))),
    )
