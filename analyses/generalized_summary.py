"""The rows of generalized few-shot boiled down to a number a seed, and to intervals over seeds.

Intervals are those of `analyses.seeds`. The number of a seed for harmonic means is H(mean S, mean U), the harmonic
mean of its mean accuracies over episodes; `harmonic_mean` stays what the rows have, whose mean over episodes is at most
that. Two methods are compared by the differences x_s - y_s of the same seeds, that is on the same tasks from the same
first theta.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd

from analyses import seeds

LINE = ("case", "method", "iterations", "precision", "outer_lr", "inner_steps", "test_steps", "calibration")
AVERAGED = ("accuracy", "base_accuracy", "novel_accuracy", "harmonic_mean", "delta1", "delta2", "area", "loss", "bias")
OF_MEANS = "harmonic_of_means"
VALUES = (*AVERAGED, OF_MEANS)
ENDS = (("_low", -1), ("_high", 1))


@dataclass(frozen=True)
class Seeds:
    """A mean over seeds and half the width of its interval, NaN with fewer than two seeds."""

    mean: float
    half: float
    seeds: int

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies on one side of 0; 0 where it does not, or is not known."""
        return int(self.low > 0) - int(self.high < 0)


def harmonic(base: np.ndarray, novel: np.ndarray) -> np.ndarray:
    """`2 S U / (S + U)`; 0 where both are 0."""
    total = base + novel
    return np.where(total == 0, 0.0, 2 * base * novel / np.where(total == 0, 1.0, total))


def by_seed(rows: pd.DataFrame) -> pd.DataFrame:
    """The means over tasks of the test rows, a row for each line (`LINE`) and seed; `harmonic_of_means` is H of them.

    A row of task -1 is such a mean already. Of two runs that differ in nothing but how long they trained, the longer
    counts.
    """
    unit = [*LINE, "seed"]
    longest = rows.groupby(unit, dropna=False)["iteration"].transform("max")
    kept = rows[(rows["iteration"] == longest).to_numpy(dtype=bool)].drop_duplicates([*unit, "task"])
    numbers = kept[unit].assign(**{name: kept[name].to_numpy(dtype=float, na_value=nan) for name in AVERAGED})
    means = numbers.groupby(unit, dropna=False, as_index=False, sort=True)[list(AVERAGED)].mean()
    sides = (means[name].to_numpy(dtype=float) for name in ("base_accuracy", "novel_accuracy"))
    return means.assign(**{OF_MEANS: harmonic(*sides)})


def over_seeds(means: pd.DataFrame, by: Sequence[str] = LINE, values: Sequence[str] = VALUES) -> pd.DataFrame:
    """A row for each combination of `by`: how many seeds, and each value's mean, `_low` and `_high`."""
    table = seeds.over_seeds(means, by, values)
    ends = {f"{name}{end}": table[name] + sign * table[f"{name}_half"] for name in values for end, sign in ENDS}
    return table.drop(columns=[f"{name}_half" for name in values]).assign(**ends)


def interval(values: Sequence[float]) -> Seeds:
    """The interval of one number a seed; those that are NaN are left out."""
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    spread = float(known.std(ddof=1)) if len(known) > 1 else nan
    half = seeds.t_over_root(len(known)) * spread
    return Seeds(float(known.mean()) if len(known) else nan, half, len(known))


def paired(one: pd.Series, other: pd.Series) -> Seeds:
    """The interval of one - other, both indexed by seed, over the seeds that both have."""
    return interval((one - other).dropna().to_numpy(dtype=float).tolist())
