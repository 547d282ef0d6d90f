"""Confidence intervals over episodes and over training seeds, from one number for each pair of them.

    x[s, e] = mean + seed[s] + episode[e] + rest[s, e]          all effects random, of mean zero (S seeds, E episodes)

The usual `1.96 std / sqrt(E)` of one trained network speaks of that network only. Another seed gives another one, and
with few seeds their spread is itself known badly, hence Student's t. Where every seed met the same episodes (crossed),

    seeds:     A = sum_s (x[s,.] - x[.,.])^2 / (S - 1) / S                of seed and rest,   t with S - 1 degrees
    episodes:  B = max(0, MS_episode - MS_rest) / (S E)                   of episode,         t with E - 1 degrees
    half-width^2 = t_(S-1)^2 A + t_(E-1)^2 B

MS are the mean squares of the two-way table. Adding the squared half-widths of two parts errs on the wide side
whatever their shares (Banerjee, Sankhya A 23, 1961); Satterthwaite's approximate degrees of freedom do not: with two or
three seeds that happen to agree they take the many degrees of the episodes. Where each seed met episodes of its own
(nested) the means of the seeds are independent, and A alone is the whole: the textbook interval of S numbers.

The interval is about other seeds and other episodes *of the same classes*. Two methods are compared by the interval of
their differences on the same seeds and episodes (`paired`), which is narrower than either's own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.protocols.student import t_quantile

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """`mean +- half_width` `(...)` over seeds and episodes; NaN where there is one seed, which shows no spread.

    `episodes_half_width` is the interval over episodes alone, for these trained networks; NaN where there is one
    episode. `seed_variance`, `episode_variance` and `rest_variance` estimate the variances of the three effects; a
    negative estimate is given as 0. In a nested design episode and rest are one, and `episode_variance` is NaN.
    """

    mean: Tensor
    half_width: Tensor
    episodes_half_width: Tensor
    seed_variance: Tensor
    episode_variance: Tensor
    rest_variance: Tensor
    seeds: int
    episodes: int
    crossed: bool
    level: float


def interval(values: Tensor, crossed: bool = True, level: float = LEVEL) -> Interval:
    """The intervals of the means of tables `values (..., S, E)`.

    `crossed` says that column e is the same episode for every seed. A value that is not finite makes its table's
    numbers NaN. Raises `ValueError` for a table without rows or columns, and for a level outside (0, 1).
    """
    if values.dim() < 2 or 0 in values.shape[-2:]:
        raise ValueError(f"values: expected (..., seeds, episodes), at least one of each, found {tuple(values.shape)}")
    if not 0 < level < 1:
        raise ValueError(f"level: expected 0 < level < 1, found {level!r}")
    x = torch.where(values.isfinite(), values, torch.nan).double()
    seeds, episodes = x.shape[-2:]
    mean = x.mean((-2, -1))
    by_seed, by_episode = x.mean(-1, keepdim=True), x.mean(-2, keepdim=True)
    centre = mean[..., None, None]
    unknown = torch.full_like(mean, torch.nan)

    among_seeds = episodes * _mean_square(by_seed - centre, seeds - 1, unknown)
    t_seeds = t_quantile((1 + level) / 2, seeds - 1) if seeds > 1 else torch.nan
    t_episodes = t_quantile((1 + level) / 2, episodes - 1) if episodes > 1 else torch.nan
    if not crossed:
        within = _mean_square(x - by_seed, seeds * (episodes - 1), unknown)
        freedom = seeds * (episodes - 1)
        t_within = t_quantile((1 + level) / 2, freedom) if freedom else torch.nan
        return Interval(
            mean,
            half_width=t_seeds * (among_seeds / (seeds * episodes)).sqrt(),
            episodes_half_width=t_within * (within / (seeds * episodes)).sqrt(),
            seed_variance=((among_seeds - within) / episodes).clamp(min=0),
            episode_variance=unknown,
            rest_variance=within,
            seeds=seeds,
            episodes=episodes,
            crossed=False,
            level=level,
        )
    among_episodes = seeds * _mean_square(by_episode - centre, episodes - 1, unknown)
    rest = _mean_square(x - by_seed - by_episode + centre, (seeds - 1) * (episodes - 1), unknown)
    of_episodes = ((among_episodes - rest) / seeds).clamp(min=0)
    square = t_seeds**2 * among_seeds / (seeds * episodes) + t_episodes**2 * of_episodes / episodes
    return Interval(
        mean,
        half_width=square.sqrt(),
        episodes_half_width=t_episodes * (among_episodes / (seeds * episodes)).sqrt(),
        seed_variance=((among_seeds - rest) / episodes).clamp(min=0),
        episode_variance=of_episodes,
        rest_variance=rest,
        seeds=seeds,
        episodes=episodes,
        crossed=True,
        level=level,
    )


def paired(one: Tensor, other: Tensor, crossed: bool = True, level: float = LEVEL) -> Interval:
    """The interval of the mean of `one - other`: two methods' tables `(..., S, E)` on the same seeds and episodes.

    Raises `ValueError` where the tables differ in shape, which says that they are not paired.
    """
    if one.shape != other.shape:
        raise ValueError(
            f"paired: expected two tables of one shape (seeds, episodes), found {tuple(one.shape)} and "
            f"{tuple(other.shape)}; evaluate both methods on the same seeds and episodes"
        )
    return interval(one.double() - other.double(), crossed, level)


def _mean_square(deviations: Tensor, freedom: int, unknown: Tensor) -> Tensor:
    return (deviations**2).sum((-2, -1)) / freedom if freedom else unknown
