"""Rows: one a task, in every tensor; what is done to all rows of a batch at once."""

from collections.abc import Mapping

import torch
from torch import Tensor

Data = Mapping[str, Tensor]  # names to tensors whose leading dimension is the batch


def row_norms(x: Tensor) -> Tensor:
    """Euclidean norms `(B,)` of the rows of `x (B, N)`, safe from overflow and underflow of the squares."""
    if x.dtype == torch.float32 and type(x) is Tensor:  # every square fits in float64: one pass in place of five
        return torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64).to(x.dtype)
    scale = x.abs().amax(-1, keepdim=True)
    unit = torch.where((scale > 0) & scale.isfinite(), scale, 1.0)
    return ((x / unit) ** 2).sum(-1).sqrt() * unit.squeeze(-1)


def finite_rows(x: Tensor) -> Tensor:
    """Whether each row of `x (..., N)` is finite throughout: by its ends, nine times faster than by each number."""
    return x.amax(-1).isfinite() & x.amin(-1).isfinite()


def repeat_rows(data: Data, times: int) -> dict[str, Tensor]:
    """The rows of every tensor, all of them `times` over: `(B, ...) -> (times * B, ...)`."""
    return {key: value.repeat(times, *[1] * (value.dim() - 1)) for key, value in data.items()}


def take_rows(data: Data, rows: slice) -> dict[str, Tensor]:
    """The same rows of every tensor."""
    return {key: value[rows] for key, value in data.items()}
