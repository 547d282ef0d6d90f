"""The order in which an episode's classes are numbered, and averages over it.

MAML's head has a row of its own for each label, so that its accuracy on an episode depends on which class is called
0, which 1, ...: the same images give another accuracy under another numbering (Ye and Chao 2022, arXiv 2106.16245). An
average over the N! numberings depends on the images alone. An order `o (N,)` calls class c by the label o[c].
"""

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from diagnostics.checks import whole_number
from diagnostics.draws import stream
from diagnostics.rows import Data, repeat_rows

_STREAM = 60


def label_orders(ways: int, count: int, seed: int = 0) -> Tensor:
    """`(P, ways)`: all ways! orders, the first of them the identity, or, if they are more than `count`, that many.

    Those are distinct and drawn uniformly, the identity not favoured. Raises `ValueError` for counts that are none.
    """
    whole_number("ways", ways, 1)
    whole_number("label orders", count, 1)
    whole_number("seed", seed, 0)
    if math.factorial(ways) <= count:
        return torch.tensor(list(itertools.permutations(range(ways))))
    rng, found = stream(seed, _STREAM), dict[tuple[int, ...], None]()
    while len(found) < count:
        found[tuple(rng.permutation(ways).tolist())] = None
    return torch.from_numpy(np.array(list(found)))


def relabelled(data: Data, orders: Tensor, first: int = 0) -> dict[str, Tensor]:
    """The rows under each order in turn: `(B, ...) -> (P * B, ...)`, the task running fastest.

    Every tensor whose name ends in `_labels` gets the new labels. Labels below `first` stay (base classes, whose rows
    of the head are their own); label `first + c` becomes `first + orders[p, c]`.
    """
    count, tasks = len(orders), len(next(iter(data.values())))
    rows = torch.arange(count).repeat_interleave(tasks)

    def renamed(labels: Tensor) -> Tensor:
        order = orders.to(labels.device)[rows]
        moved = first + order.gather(-1, (labels - first).clamp(min=0))
        return torch.where(labels < first, labels, moved)

    repeated = repeat_rows(data, count)
    return {key: renamed(value) if key.endswith("_labels") else value for key, value in repeated.items()}


def restored(scores: Tensor, orders: Tensor, first: int = 0) -> Tensor:
    """Scores `(P * B, Q, C)` of relabelled rows with their columns in the old order again: `(P, B, Q, C)`."""
    count = len(orders)
    columns = torch.cat([torch.arange(first).expand(count, -1), first + orders], dim=1).to(scores.device)
    each = scores.reshape(count, len(scores) // count, *scores.shape[1:])
    return each.gather(-1, columns[:, None, None].expand(each.shape))
