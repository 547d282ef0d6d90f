"""Means over training seeds and their intervals: one number a seed, of which Student's t takes care.

A trained network is one draw, with a first theta and tasks of its own (the nested design of
`diagnostics.protocols.intervals`), so that the numbers x_s of S seeds are independent, and an interval rests on them
alone:

    mean +- t_(S-1) sqrt(sum_s (x_s - mean)^2 / (S - 1) / S)                 95%; unknown with one seed
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from diagnostics.protocols.student import t_quantile

LEVEL = 0.95


def over_seeds(each: pd.DataFrame, by: Sequence[str], values: Sequence[str] = ("loss", "accuracy")) -> pd.DataFrame:
    """One row for each combination of `by`: the mean of each value over the seeds, and half its interval, `_half`.

    `each` has one row a seed; a seed without a number is left out of the mean. The interval is NaN with one seed, and
    where a value is infinite. `seeds` counts the rows. Where `each` has them, `diverged` and `lost` are summed, and
    `tasks` is the fewest.
    """
    groups = each.groupby(list(by), dropna=False, sort=False)
    found = {"seeds": groups.size()}
    for name in values:
        finite = each.assign(it=each[name].where(~np.isinf(each[name])))
        count = groups[name].count()
        spread = finite.groupby(list(by), dropna=False, sort=False)["it"].agg(["std", "count"])
        factor = [t_over_root(int(seeds)) for seeds in count.to_numpy(dtype=int)]
        half = spread["std"] * factor
        found |= {name: groups[name].mean(), f"{name}_half": half.where(spread["count"] == count)}
    found |= {name: groups[name].sum() for name in ("diverged", "lost") if name in each}
    found |= {name: groups[name].min() for name in ("tasks",) if name in each}
    return pd.DataFrame(found).reset_index()


def t_over_root(seeds: int) -> float:
    """What a standard deviation of the seeds' means is multiplied by for half the interval; NaN below two seeds."""
    return t_quantile((1 + LEVEL) / 2, seeds - 1) / seeds**0.5 if seeds > 1 else float("nan")
