"""Generalized few-shot: base ("seen") and novel ("unseen") classes in one label space, and what is measured there.

Labels below `seen` are base classes, the others novel. With acc(queries | classes) the accuracy when the scores of
other classes are left out (Chao et al. 2016, Ye et al. 2021; science: the definitions of the released aCASTLE code)

    S  = acc(base | all),   U  = acc(novel | all)          joint accuracies
    S' = acc(base | base),  U' = acc(novel | novel)        each in its own label space
    H  = 2 S U / (S + U)                                   harmonic mean, 0 where both are 0
    delta1 = (S' + U') / 2 - acc(all queries | all)
    delta2 = ((S' - S) + (U' - U)) / 2

Both deltas are what the joint label space costs; they are equal where there are as many base as novel queries, and
delta1 leans to whichever are more. H is not linear: the mean of the episodes' H lies below the H of the mean S and U
(`harmonic_mean` gives either), and a table must say which it shows. The area under the seen-unseen curve is in
`seen_unseen`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.arithmetic.extended import rounded
from diagnostics.protocols.hits import hits


@dataclass(frozen=True)
class Generalized:
    """The measures of each episode, `(B,)` in float64; see the formulas above."""

    base: Tensor  # S
    novel: Tensor  # U
    harmonic: Tensor  # H
    base_own: Tensor  # S'
    novel_own: Tensor  # U'
    overall: Tensor  # acc(all queries | all)
    delta1: Tensor
    delta2: Tensor


def generalized(scores: Tensor, labels: Tensor, seen: int, bias: float = 0.0, per_class: bool = False) -> Generalized:
    """The measures of scores `(B, Q, C)` and labels `(B, Q)`; `bias` is subtracted from the base classes' scores.

    The bias moves S, U, H and what follows from them; S' and U' do not see it. With `per_class` the queries of a class
    weigh 1 together (Schonfeld et al. 2019), otherwise each query weighs 1. Raises `ValueError` for episodes without a
    base or without a novel query, and for labels that do not fit.
    """
    check_joint(scores, labels, seen)
    numbers, own = rounded(scores).double(), torch.where(labels < seen, 0, seen)
    of_base = (labels < seen).double()
    weight = 1 / _class_counts(labels) if per_class else torch.ones_like(of_base)
    joint = hits(biased(numbers, seen, bias), labels)
    places = torch.arange(scores.shape[-1], device=labels.device)
    elsewhere = (places < seen) != (own == 0).unsqueeze(-1)
    apart = hits(numbers.masked_fill(elsewhere, -torch.inf), labels)

    def mean(credit: Tensor, weights: Tensor) -> Tensor:
        return (credit * weights).sum(-1) / weights.sum(-1)

    base, novel = mean(joint, weight * of_base), mean(joint, weight * (1 - of_base))
    base_own, novel_own = mean(apart, weight * of_base), mean(apart, weight * (1 - of_base))
    overall = mean(joint, weight)
    return Generalized(
        base=base,
        novel=novel,
        harmonic=harmonic_mean(base, novel),
        base_own=base_own,
        novel_own=novel_own,
        overall=overall,
        delta1=(base_own + novel_own) / 2 - overall,
        delta2=((base_own - base) + (novel_own - novel)) / 2,
    )


def harmonic_mean(base: Tensor, novel: Tensor) -> Tensor:
    """`2 S U / (S + U)`, element by element; 0 where both are 0."""
    total = base + novel
    return torch.where(total == 0, 0.0, 2 * base * novel / torch.where(total == 0, 1.0, total))


def biased(scores: Tensor, seen: int, bias: float) -> Tensor:
    """The scores `(..., C)` with `bias` subtracted from the first `seen` classes."""
    return torch.cat([scores[..., :seen] - bias, scores[..., seen:]], dim=-1)


def check_joint(scores: Tensor, labels: Tensor, seen: int) -> None:
    """Raise `ValueError` unless scores and labels are those of episodes in a joint label space."""
    if scores.dim() != 3 or scores.shape[:2] != labels.shape or not 0 < seen < scores.shape[-1]:
        raise ValueError(
            f"generalized: expected scores (B, Q, C), labels (B, Q) and 0 < seen < C, found {tuple(scores.shape)}, "
            f"{tuple(labels.shape)} and seen = {seen}"
        )
    if bool((labels < 0).any()) or bool((labels >= scores.shape[-1]).any()):
        raise ValueError(
            f"generalized: expected labels from 0 to {scores.shape[-1] - 1}, "
            f"found {int(labels.min())} to {int(labels.max())}"
        )
    base = (labels < seen).any(-1) & (labels >= seen).any(-1)
    if not bool(base.all()):
        raise ValueError(
            f"generalized: expected base and novel queries in each episode, found only one kind in episode "
            f"{int((~base).nonzero()[0])}; draw queries of both"
        )


def _class_counts(labels: Tensor) -> Tensor:
    """How many queries of its episode have the label of each query, `(B, Q)`."""
    return (labels.unsqueeze(-1) == labels.unsqueeze(-2)).sum(-1).double()
