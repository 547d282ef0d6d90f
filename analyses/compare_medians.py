"""Two runs of other seeds compared setting by setting: whether the medians over tasks and seeds could be the same.

A setting is all that a row is of but its seed and task. The interval of a setting's median lies between two of its
values (see `analyses.summary`); two medians agree where their intervals overlap. A table has many settings, of which
1 in 200 would miss by chance with intervals of 95%; so those of a column hold together with 95%, on both sides: each of
the 2m of m settings is one of 1 - 0.05/2m, or as nearly as its values reach, which is from the least to the largest.
Settings with fewer than `summary.FEWEST` units on a side are not told.

The line `rank` compares the order of the curves: two estimators at one setting, of which one is better on both sides,
their intervals apart, and not the same one.

Tasks of a seed share their meta-parameters. With few seeds the intervals are those of these seeds, and too narrow for
others: take at least `FEWEST` seeds where theta matters.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd

from analyses.compare import UNMEASURED, Line, describe
from analyses.settings import Settings
from analyses.summary import FEWEST, UNIT
from analyses.tolerances import COMPARED, EXACT, KEY

RISK = 0.05  # that any interval of a column misses its median
RANK = "rank"
RANKED = "relative_error"
SETTING = [name for name in KEY if name not in UNIT]
CURVE = ("estimator", "solver", "solver_iterations")  # what tells the curves at one setting apart
VALUES = [
    name for name in COMPARED
    if name not in (*EXACT, *KEY, "reference_uncertainty", "peak_bytes", "saved_bytes", "cosine", "digits")
]  # fmt: skip


def compare_medians(
    settings: Settings, expected: Mapping[str, pd.DataFrame], found: Mapping[str, pd.DataFrame]
) -> list[Line]:
    """The lines of all analyses that both sides have."""
    return [
        line
        for name in settings.analyses
        if name in expected and name in found
        for line in _compare_table(name, expected[name], found[name])
    ]


def ranks(count: int, risk: float) -> tuple[int, int]:
    """The ranks, from 0, between which the median of `count` values lies with probability 1 - risk, at best."""
    below, rank = 1, 0
    while 2 * (below + comb(count, rank + 1)) <= risk * 2**count and 2 * (rank + 1) < count - 1:
        rank += 1
        below += comb(count, rank)
    return rank, count - 1 - rank


def _compare_table(name: str, expected: pd.DataFrame, found: pd.DataFrame) -> Iterator[Line]:
    sides = [table.loc[table["outcome"] != UNMEASURED] for table in (expected, found)]
    groups = [side.groupby(SETTING, dropna=False, sort=True) for side in sides]
    for column in VALUES:
        values = [group[column].apply(_known) for group in groups]
        both = pd.concat([side.rename(place) for place, side in enumerate(values)], axis=1)
        lists = [[x if isinstance(x, tuple) else None for x in both[place]] for place in (0, 1)]
        if not any(x for side in lists for x in side):
            continue
        yield from _compare_column(name, column, pd.MultiIndex.from_tuples(both.index, names=SETTING), lists)


def _known(values: pd.Series) -> tuple[float, ...]:
    numbers = values.to_numpy(dtype=float, na_value=np.nan)
    return tuple(sorted(numbers[~np.isnan(numbers)]))


def _compare_column(
    name: str, column: str, settings: pd.MultiIndex, lists: list[list[tuple[float, ...] | None]]
) -> Iterator[Line]:
    told = [
        at for at, pair in enumerate(zip(*lists, strict=True)) if all(x is not None and len(x) >= FEWEST for x in pair)
    ]
    missing = sum((a is None) != (b is None) for a, b in zip(*lists, strict=True))
    few = sum(1 for a, b in zip(*lists, strict=True) if a and b) - len(told)
    risk = RISK / (2 * max(1, len(told)))
    ends = np.array([[_interval(side[at] or (), risk) for side in lists] for at in told]).reshape(-1, 2, 2)
    apart = (ends[:, 0, 0] > ends[:, 1, 1]) | (ends[:, 1, 0] > ends[:, 0, 1])
    same = np.array([lists[0][at] == lists[1][at] for at in told], dtype=bool)
    where = ""
    if apart.any():
        at = int(np.flatnonzero(apart)[0])
        (a, b), (c, d) = ends[at]
        row = pd.Series({name: pd.NA for name in KEY} | dict(zip(SETTING, settings[told[at]], strict=True)))
        where = f"{describe(row)}: expected a median in [{a:.3g}, {b:.3g}], found one in [{c:.3g}, {d:.3g}]"
    yield Line(
        name, column, equal=int(same.sum()), within=int((~same & ~apart).sum()), outside=int(apart.sum()),
        missing=missing, untold=few, worst=np.inf if apart.any() else 0.0, where=where,
    )  # fmt: skip
    if column == RANKED and told:
        yield _compare_ranks(name, settings[told], ends)


def _interval(ordered: tuple[float, ...], risk: float) -> tuple[float, float]:
    low, high = ranks(len(ordered), risk)
    return ordered[low], ordered[high]


def _compare_ranks(name: str, settings: pd.MultiIndex, ends: np.ndarray) -> Line:
    """Pairs of curves at one setting: in the same order on both sides, or not to be told apart, or swapped."""
    frame = settings.to_frame(index=False).assign(at=np.arange(len(settings)))
    by = [column for column in SETTING if column not in CURVE]
    equal = within = outside = 0
    where = ""
    for _, group in frame.groupby(by, dropna=False):
        for first, second in combinations(group["at"], 2):
            old, new = (_order(ends[first, side], ends[second, side]) for side in (0, 1))
            equal += old == new != 0
            within += 0 in (old, new)
            outside += old * new < 0
            if old * new < 0 and not where:
                names = [", ".join(str(frame.loc[at, c]) for c in CURVE) for at in (first, second)]
                where = f"{names[0]} and {names[1]} are in the other order"
    return Line(name, RANK, equal=equal, within=within, outside=outside, worst=np.inf if outside else 0.0, where=where)


def _order(first: np.ndarray, second: np.ndarray) -> int:
    """-1 where the first interval lies below the second, 1 above, 0 where they overlap."""
    return int(first[0] > second[1]) - int(first[1] < second[0])
