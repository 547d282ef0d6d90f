"""Medians over tasks and seeds, with intervals: the tidy table boiled down to a row a cell.

The units are (seed, task) pairs, and a cell holds one row of each. The interval is the one between order statistics:
with B ~ binomial(n, 1/2) the median of what was sampled lies below the (r+1)-th smallest of n values with probability
P(B <= r), so the largest r with P(B <= r) <= 2.5% gives an interval [x_(r+1), x_(n-r)] that covers it with at least 95%
whatever the distribution. It needs no random numbers and its ends are values measured; the percentile bootstrap ends
at the same or the neighbouring values, but covers 88% only at 7 units. Below `FEWEST` units there is none, and it is
NaN. Tasks of one seed share their meta-parameters: with few seeds the interval speaks of these seeds.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from math import comb

import numpy as np
import pandas as pd

UNIT = ("seed", "task")
FEWEST = 6  # the smallest and largest of n values enclose the median with probability 1 - 2^(1-n): 94% at 5, 97% at 6
QUIET = ("ok", "prediction", "unresolved", "solver unfinished")  # the last is what a sweep over iterations asks for


def summarise(frame: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """One row for each combination of `by`, sorted: counts, and each value's median, `_low`, `_high` and `_missing`.

    `rows` counts the rows, `warned` those whose outcome is a warning or a failure or whose implicit gradient was taken
    at an indefinite Hessian, `unfinished` those whose solver ran out of iterations. NaN is no number and is left out of
    the medians; an infinite error is a number, and a bad one. `ValueError` if a unit is twice in a cell.
    """
    by, values = list(by), list(values)
    groups = frame.groupby(by, dropna=False, sort=True, observed=True)
    cell = groups.ngroup().to_numpy()
    keys = frame[by].iloc[pd.Series(cell).drop_duplicates().sort_values().index].reset_index(drop=True)
    _refuse_repeats(frame, cell)
    result = keys.assign(
        rows=np.bincount(cell, minlength=len(keys)),
        warned=np.bincount(cell[_warned(frame)], minlength=len(keys)),
        unfinished=np.bincount(cell[(frame["outcome"] == "solver unfinished").to_numpy()], minlength=len(keys)),
    )
    for name in values:
        numbers = frame[name].to_numpy(dtype=float, na_value=np.nan)
        result = result.assign(**_medians(name, cell, numbers, len(keys)))
    return result


def paired_change(frame: pd.DataFrame, before: pd.Series, after: pd.Series, value: str) -> pd.DataFrame:
    """Median and interval, over the units that have both, of `value` after less before: one row, as `summarise` gives.

    `before` and `after` choose the rows of each side. A change whose interval leaves out 0 is more than chance.
    """
    index = list(UNIT)
    first, second = (frame.loc[rows, [*index, value]].set_index(index)[value] for rows in (before, after))
    change = (second - first).dropna().to_numpy(dtype=float)
    return pd.DataFrame(_medians("change", np.zeros(len(change), dtype=int), change, 1))


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median of the values that are numbers, and the ends of its interval."""
    found = _medians("x", np.zeros(len(values), dtype=int), np.asarray(values, dtype=float), 1)
    return float(found["x"][0]), float(found["x_low"][0]), float(found["x_high"][0])


@lru_cache(maxsize=4096)
def interval_ranks(count: int) -> tuple[int, int]:
    """The ranks, counted from 0, of the values between which the interval of the median of `count` values lies."""
    below, rank = 1, 0  # 2^count P(B <= rank), in whole numbers
    while 40 * (below + comb(count, rank + 1)) <= 2**count:
        rank += 1
        below += comb(count, rank)
    return rank, count - 1 - rank


def _medians(name: str, cell: np.ndarray, numbers: np.ndarray, cells: int) -> dict[str, np.ndarray]:
    """Columns for one value: all cells at once, by one sort."""
    known = ~np.isnan(numbers)
    missing = np.bincount(cell[~known], minlength=cells)
    cell, numbers = cell[known], numbers[known]
    ordered = numbers[np.lexsort((numbers, cell))]
    counts = np.bincount(cell, minlength=cells)
    start = np.array([0, *accumulate(counts)][:-1], dtype=int)
    columns = {suffix: np.full(cells, np.nan) for suffix in ("", "_low", "_high")}
    some = counts > 0
    lower, upper = start + (counts - 1) // 2, start + counts // 2
    columns[""][some] = ordered[lower[some]] / 2 + ordered[upper[some]] / 2
    enough = counts >= FEWEST
    ranks = np.array([interval_ranks(int(count)) for count in counts[enough]], dtype=int).reshape(-1, 2)
    columns["_low"][enough] = ordered[start[enough] + ranks[:, 0]]
    columns["_high"][enough] = ordered[start[enough] + ranks[:, 1]]
    return {name + suffix: column for suffix, column in columns.items()} | {f"{name}_missing": missing}


def _warned(frame: pd.DataFrame) -> np.ndarray:
    """A row may fail for a graver reason than an indefinite Hessian, and is then labelled with that one alone."""
    loud = ~frame["outcome"].isin(QUIET)
    indefinite = (frame["estimator"] == "implicit") & (frame["min_eigenvalue"] < 0)
    return (loud | indefinite).to_numpy(dtype=bool)


def _refuse_repeats(frame: pd.DataFrame, cell: np.ndarray) -> None:
    repeated = frame[list(UNIT)].assign(cell=cell).duplicated()
    if repeated.any():
        seed, task = frame.loc[repeated.to_numpy(), list(UNIT)].iloc[0]
        raise ValueError(
            f"summary: expected one row for each task in a cell, found task {task} of seed {seed} twice; "
            "group by the setting that tells them apart"
        )
