"""What any learner must beat: classifying by pixels, and a network that was never trained.

The scores are minus the distances between the pixels of a query x and of the support images,

    nearest neighbour:   s[c] = -min over images i of class c |x - x_i|         nearest mean:   s[c] = -|x - mean_c|

A trained accuracy near these says that the images are easy, not that the learner is good.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from diagnostics.arithmetic.extended import rounded
from diagnostics.inner import Optimizer
from diagnostics.problem import Problem
from diagnostics.protocols.evaluation import Evaluation, evaluate
from diagnostics.rows import Data


def nearest_neighbour(data: Data, classes: int) -> Tensor:
    """Scores `(B, Q, classes)` in float64 by the nearest support image; a class without one scores -inf.

    `data` holds `support_images (B, n, ...)`, `support_labels (B, n)` and `query_images (B, Q, ...)`.
    """
    distances = _distances(_pixels(data, "query"), _pixels(data, "support"))
    other = ~_members(data, classes).bool()  # (B, n, classes)
    return -distances.unsqueeze(-1).masked_fill(other.unsqueeze(1), torch.inf).amin(2)


def nearest_mean(data: Data, classes: int) -> Tensor:
    """Scores `(B, Q, classes)` in float64 by the nearest mean of a class's support images; arguments as above."""
    members = _members(data, classes)
    counts = members.sum(1).unsqueeze(-1)  # (B, classes, 1)
    means = members.mT @ _pixels(data, "support") / counts.clamp(min=1)
    distances = _distances(_pixels(data, "query"), means)
    return -distances.masked_fill((counts == 0).mT, torch.inf)


def untrained(
    problem: Problem,
    optimizer: Optimizer,
    seed: int,
    data: Data,
    steps: Sequence[int],
    *,
    orders: Tensor | None = None,
    first: int = 0,
    transductive: bool = True,
) -> tuple[Evaluation, ...]:
    """The problem's network as drawn from `seed`, adapted and judged like a trained one; see `evaluate`."""
    example = data["support_images"]
    theta = problem.init(seed).to(example).expand(len(example), -1)
    return evaluate(problem, optimizer, theta, data, steps, orders=orders, first=first, transductive=transductive)


def _pixels(data: Data, role: str) -> Tensor:
    return rounded(data[f"{role}_images"]).double().flatten(2)


def _members(data: Data, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(data["support_labels"], classes).double()


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """`|x_i - y_j| (B, n, m)` of rows `(B, n, d)` and `(B, m, d)`, by differences: equal images are at distance 0."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
