"""Random numbers for tasks: one stream a variable, so that a larger sample begins with the smaller one."""

import numpy as np
import torch
from torch import Tensor


def stream(seed: int, variable: int) -> np.random.Generator:
    """The generator of one variable; drawn from row by row, its first rows do not depend on how many follow."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(variable,)))


def normal(seed: int, variable: int, *shape: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.from_numpy(stream(seed, variable).standard_normal(shape))


def uniform(seed: int, variable: int, low: float, high: float, *shape: int) -> Tensor:
    """Uniform numbers in float64."""
    return torch.from_numpy(stream(seed, variable).uniform(low, high, shape))


def orthonormal(seed: int, variable: int, tasks: int, rows: int, columns: int) -> Tensor:
    """Random matrices `(tasks, rows, columns)` with orthonormal columns, `rows >= columns`."""
    return torch.linalg.qr(normal(seed, variable, tasks, rows, columns)).Q


def spectrum(dimension: int, condition: float) -> Tensor:
    """`dimension` eigenvalues from 1/condition to 1, evenly spaced on a log scale; `(dimension,)`."""
    if dimension == 1:
        return torch.ones(1, dtype=torch.float64)
    return torch.logspace(-float(np.log10(condition)), 0.0, dimension, dtype=torch.float64)


def conditioned_inputs(
    seed: int, variables: tuple[int, int, int], tasks: int, examples: int, dimension: int, condition: float
) -> tuple[Tensor, Tensor]:
    """Support and query inputs `(tasks, examples, dimension)` for regression, their conditioning exact.

    The second moment `X'X/n` of each has the eigenvalues `spectrum(dimension, condition)` in one basis of each task's
    own; needs `examples >= dimension`. `variables` are the streams of the basis, the support and the query.
    """
    basis = orthonormal(seed, variables[0], tasks, dimension, dimension)
    scale = (examples * spectrum(dimension, condition)).sqrt()
    support, query = (orthonormal(seed, variable, tasks, examples, dimension) for variable in variables[1:])
    return (support * scale) @ basis.mT, (query * scale) @ basis.mT
