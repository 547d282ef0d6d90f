"""The seen-unseen curve: base against novel accuracy as a bias is subtracted from the base classes' scores.

A query's gap is its highest base score minus its highest novel score. With bias t it is given to a base class if its
gap exceeds t, to a novel class if it is less. Hence S(t), the accuracy of the base queries, is a falling step function
with steps at the gaps of those base queries that are right among the base classes, and U(t) a rising one; between
two neighbouring gaps nothing happens, so that finitely many biases show the whole curve. The area under it,

    integral U dS = mean over base queries i and novel queries j of  right_i right_j [gap_i > gap_j],

is a Mann-Whitney statistic, 1/2 for equal gaps, and needs no grid of biases (Chao et al. 2016 define the area; the
released aCASTLE code sweeps 30 biases).
"""

import torch
from torch import Tensor

from diagnostics.arithmetic.extended import rounded
from diagnostics.protocols.generalized import check_joint, harmonic_mean
from diagnostics.protocols.hits import hits


def area(scores: Tensor, labels: Tensor, seen: int) -> Tensor:
    """The area `(B,)` under each episode's seen-unseen curve, from scores `(B, Q, C)` and labels `(B, Q)`.

    For one curve of all episodes with the bias in common, pass them as one row. Between 0 and S' U', the accuracies
    within each own label space. Raises `ValueError` as `generalized` does.
    """
    gaps, right, of_base = _gaps(scores, labels, seen)
    base, novel = right * of_base, right * (1 - of_base)
    # Sums over pairs by sorting: the novel credit at lower gaps, and at lower or equal ones, for each base query.
    order = gaps.argsort(-1)
    ascending = gaps.gather(-1, order)
    running = torch.nn.functional.pad(novel.gather(-1, order).cumsum(-1), (1, 0))
    lower = running.gather(-1, torch.searchsorted(ascending, gaps))
    lower_or_equal = running.gather(-1, torch.searchsorted(ascending, gaps, right=True))
    pairs = (base * (lower + lower_or_equal) / 2).sum(-1)
    return pairs / (of_base.sum(-1) * (1 - of_base).sum(-1))


def tune_bias(scores: Tensor, labels: Tensor, seen: int) -> float:
    """The bias that gives the highest harmonic mean of mean S and mean U over validation episodes; arguments as above.

    Every bias that matters is tried. The best is a stretch between two neighbouring gaps: of it 0 is taken where it
    lies inside, or else the middle; of equally good stretches the one nearest 0. Where no bias makes both accuracies
    positive it is 0. Raises `ValueError` as `generalized` does.
    """
    gaps, right, of_base = _gaps(scores, labels, seen)
    base = right * of_base / of_base.sum(-1, keepdim=True) / len(labels)
    novel = right * (1 - of_base) / (1 - of_base).sum(-1, keepdim=True) / len(labels)
    ends, place = gaps.flatten().unique(return_inverse=True)  # ascending
    if len(ends) < 2:
        return 0.0
    falls, rises = (ends.new_zeros(len(ends)).scatter_add(0, place, x.flatten()) for x in (base, novel))
    above = falls.flip(0).cumsum(0).flip(0)[1:]  # S between ends[k] and ends[k + 1]
    below = rises.cumsum(0)[:-1]  # U there
    quality = harmonic_mean(above, below)
    best = quality.max()
    if not bool(best > 0):
        return 0.0
    low, high = ends[:-1], ends[1:]
    bias = torch.where((low < 0) & (high > 0), 0.0, low + (high - low) / 2)
    good = quality >= best - 1e-12  # sums of equal terms in another order
    return float(bias[good][bias[good].abs().argmin()])


def _gaps(scores: Tensor, labels: Tensor, seen: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each query `(B, Q)`: the gap, its credit among the classes of its own kind, and 1 where that is base."""
    check_joint(scores, labels, seen)
    numbers = rounded(scores).double()
    gaps = numbers[..., :seen].amax(-1) - numbers[..., seen:].amax(-1)
    of_base = labels < seen
    base = hits(numbers[..., :seen], labels.clamp(max=seen - 1))
    novel = hits(numbers[..., seen:], (labels - seen).clamp(min=0))
    right = torch.where(of_base, base, novel)
    usable = gaps.isfinite()  # scores that are not numbers are right nowhere
    return torch.where(usable, gaps, 0.0), torch.where(usable, right, 0.0), of_base.double()
