"""Adapt to the support sets of a batch of episodes, then classify their queries: the meta-test of every protocol."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics import outcome
from diagnostics.arithmetic.extended import rounded
from diagnostics.inner import Optimizer, run_inner
from diagnostics.outcome import Outcome
from diagnostics.problem import Loss, Problem
from diagnostics.protocols.hits import accuracy, votes
from diagnostics.protocols.label_orders import label_orders, relabelled, restored
from diagnostics.rows import Data


@dataclass(frozen=True)
class Evaluation:
    """Episodes classified after `steps` inner steps, under P orders of their labels.

    `scores (P, B, Q, C)` in float64, columns in the episodes' own order of classes; `labels (B, Q)`; `outcome (P, B)`
    of the inner loop: an episode that diverged is not dropped, and its queries count as wrong. `transductive` says
    that a query's scores may depend on the other queries, through the statistics of their batch.
    """

    steps: int
    scores: Tensor
    labels: Tensor
    outcome: Tensor
    transductive: bool

    @property
    def by_order(self) -> Tensor:
        """The accuracy `(P, B)` of each episode under each order of its labels."""
        return torch.stack([accuracy(scores, self.labels) for scores in self.scores])

    @property
    def accuracy(self) -> Tensor:
        """The accuracy `(B,)` of each episode, the mean over the orders."""
        return self.by_order.mean(0)

    @property
    def ensemble(self) -> Tensor:
        """The accuracy `(B,)` of the mean of the class probabilities over the orders: one classifier out of P."""
        return accuracy(votes(self.scores), self.labels)


def evaluate(
    problem: Problem,
    optimizer: Optimizer,
    theta: Tensor,
    data: Data,
    steps: Sequence[int],
    *,
    orders: Tensor | None = None,
    first: int = 0,
    transductive: bool = True,
) -> tuple[Evaluation, ...]:
    """The episodes after each of `steps` inner steps, from one run of the inner loop for each order of the labels.

    `theta (B, P)` and `data` as in `run_inner`; `orders (P, ways)` as in `label_orders` (None: the labels as they are)
    renumber the labels from `first` on. With `transductive` False each query is classified alone beside the support
    (see `alone`). The memory does not grow with the steps. Raises `ValueError` as `run_inner` does, for no numbers of
    steps, and for a problem without scores.
    """
    if problem.scores is None:
        raise ValueError(f"evaluate: expected a problem of classes, found {problem.name!r}, which states no scores")
    if not steps:
        raise ValueError("evaluate: expected one number of inner steps or more, found none")
    kept = sorted(set(steps))
    chosen = label_orders(1, 1) if orders is None else orders
    rows = dict(data) if orders is None else relabelled(data, chosen, first)
    repeated = theta.repeat(len(chosen), 1)
    loop = run_inner(problem, optimizer, repeated, rows, kept[-1], keep=kept)
    classify = problem.scores if transductive else alone(problem.scores)
    labels = data["query_labels"]
    found: dict[int, Evaluation] = {}
    for place, count in enumerate(kept):
        with torch.no_grad():
            given = rounded(classify(loop.states[place, :, : loop.size], repeated, rows)).double()
        restore = given.unsqueeze(0) if orders is None else restored(given, chosen, first)
        diverged = (loop.diverged_at >= 0) & (loop.diverged_at <= place)
        codes = outcome.where(diverged, Outcome.DIVERGED).view(len(chosen), len(theta))
        found[count] = Evaluation(count, restore, labels, codes, transductive)
    return tuple(found[count] for count in steps)


def alone(scores: Loss) -> Loss:
    """`Problem.scores` of each query when the network sees it in one batch with the support images and nothing else.

    So a batch norm without running statistics takes them from the support and this one query: the prediction is
    inductive, a function of the support set and the query. For a network without batch statistics it changes nothing
    but rounding. The network is called once a query.
    """

    def one_by_one(w: Tensor, theta: Tensor, data: Data) -> Tensor:
        support = {key.removeprefix("support_"): x for key, x in data.items() if key.startswith("support_")}

        def seen(query: int) -> Tensor:
            batch = {f"query_{key}": torch.cat([x, data[f"query_{key}"][:, query : query + 1]], 1)
                     for key, x in support.items()}  # fmt: skip
            return scores(w, theta, {**data, **batch})[:, -1:]

        return torch.cat([seen(query) for query in range(data["query_labels"].shape[1])], dim=1)

    return one_by_one
