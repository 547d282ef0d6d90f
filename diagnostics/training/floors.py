"""What an accuracy must be held against: a classifier that learns nothing, and whether queries help each other."""

import torch
from torch import Tensor

from diagnostics.problem import Problem
from diagnostics.protocols import floors
from diagnostics.protocols.hits import accuracy
from diagnostics.rows import Data


def nearest_neighbour(data: Data) -> Tensor | None:
    """The accuracy `(B,)` of the label of the nearest support image; None for tasks that are not of labelled images."""
    if not {"support_images", "support_labels", "query_images", "query_labels"} <= set(data):
        return None
    classes = int(torch.maximum(data["support_labels"].max(), data["query_labels"].max())) + 1
    return accuracy(floors.nearest_neighbour(data, classes), data["query_labels"])


def transductive(problem: Problem, theta: Tensor, data: Data) -> bool | None:
    """Whether the scores of a query depend on which other queries are there, as with batch statistics they do.

    It is tried: all queries of the tasks are replaced by copies of the first, at `theta (P,)`. None where there are no
    scores, or just one query.
    """
    if problem.scores is None or data["query_labels"].shape[1] < 2:
        return None
    alone = {
        key: value[:, :1].expand_as(value).contiguous() if key.startswith("query_") else value
        for key, value in data.items()
    }
    many = theta.double().expand(len(data["query_labels"]), -1)
    w = problem.start(many, data)
    with torch.no_grad():
        among, copied = (problem.scores(w, many, some)[:, 0] for some in (data, alone))
    # Not bitwise: a convolution of other images around this one may round it otherwise.
    return not torch.allclose(among, copied, rtol=1e-9, atol=1e-9)
