"""Generalized few-shot as its figure and its verdicts look at it: a way of training a line, a floor a line besides."""

from dataclasses import dataclass
from math import isnan

import numpy as np
import pandas as pd

from analyses.generalized_summary import AVERAGED, by_seed
from figures.names import method_name
from figures.style import GREY, Look, look
from figures.table_view import view

COLUMNS = (
    "solver", "solver_iterations", "stage", "iteration", "test_steps", "outer_lr", *AVERAGED, "calibration",
)  # fmt: skip
APART = ("stage", "iteration", "test_steps", "calibration", "outer_lr", "outer_optimizer")
PLAIN, TUNED = "none", "tuned"
UNTRAINED, NEIGHBOUR, MEAN = "untrained", "nearest_neighbour", "nearest_mean"
FLOORS = {
    UNTRAINED: "the untrained network",
    NEIGHBOUR: "the nearest neighbour by pixels",
    MEAN: "the nearest mean by pixels",
}
FLOOR_LOOKS = {UNTRAINED: Look("#9a9a9a", "x"), NEIGHBOUR: Look(GREY, "1"), MEAN: Look(GREY, "+")}
FLOOR_DASHES = {UNTRAINED: (0, (4, 2)), NEIGHBOUR: (0, (1, 1.3)), MEAN: (0, (4, 1.4, 1, 1.4))}
TRAINED = {
    "unrolled_adjoint": "MAML", "first_order": "FOMAML", "cg": "iMAML",
    "cg_unchecked": "iMAML past negative curvature",
}  # fmt: skip
FIRST = tuple(TRAINED)


@dataclass(frozen=True, order=True)
class Way:
    """A way of training: the gradient, the iterations of its CG (-1 where it has none), its arithmetic, the step."""

    rank: int
    method: str
    iterations: float
    precision: str
    outer_lr: float

    @property
    def look(self) -> Look:
        """Its colour and marker, those of its gradient in every figure."""
        return look(self.method)


@dataclass(frozen=True)
class Case:
    """One problem: a row for each way, training steps, test steps, calibration and seed, and likewise for the floors.

    `ends` has a row for each run, which says whether it diverged.
    """

    name: str
    means: pd.DataFrame
    floors: pd.DataFrame
    ends: pd.DataFrame

    @property
    def ways(self) -> list[Way]:
        """Its ways, MAML first."""
        return sorted(set(self.means["way"]))

    def name_of(self, way: Way) -> str:
        """A way in words, with what tells it from the others here."""
        name = TRAINED.get(way.method, method_name(way.method))
        name += f", {way.iterations:g} CG iteration{'s' * (way.iterations != 1)}" if way.iterations > 0 else ""
        others = [other for other in self.ways if other.method == way.method]
        name += f", {way.precision}" if len({other.precision for other in self.ways}) > 1 else ""
        return name + (f", outer step {way.outer_lr:g}" if len({other.outer_lr for other in others}) > 1 else "")

    def at_own_steps(self, calibration: str) -> pd.DataFrame:
        """The means of networks tested after as many inner steps as they were trained with."""
        chosen = (self.means["test_steps"] == self.means["inner_steps"]) & (self.means["calibration"] == calibration)
        return self.means[chosen.to_numpy(dtype=bool)]

    def floor(self, floor: str, calibration: str) -> pd.DataFrame:
        """The means of a floor, once for each seed and number of test steps (NaN for pixels)."""
        chosen = (self.floors["method"] == floor) & (self.floors["calibration"] == calibration)
        return self.floors[chosen.to_numpy(dtype=bool)].drop_duplicates(["seed", "test_steps"])


def studied(frame: pd.DataFrame) -> list[Case]:
    """The cases of a table, in its order; `ValueError` names columns that are wanting."""
    rows = view(frame, COLUMNS, "generalized", apart=[name for name in APART if name in frame])
    numbers = {
        name: rows[name].to_numpy(dtype=float, na_value=np.nan)
        for name in ("test_steps", "iteration", "outer_lr", "task")
    }
    rows = rows.assign(**numbers)
    rows = rows.assign(iterations=rows["iterations"].fillna(-1.0), outer_lr=rows["outer_lr"].fillna(0.0))
    stage, calibration = (rows[name].astype("object") for name in ("stage", "calibration"))
    test = rows[((stage == "test") & calibration.isin([PLAIN, TUNED])).to_numpy(dtype=bool)]
    means = by_seed(test) if len(test) else test
    ends = rows[(stage == "end").to_numpy(dtype=bool)]
    named = [part.assign(way=_ways(part)) for part in (means, ends)]
    found = []
    for case in dict.fromkeys(rows["case"]):
        every, last = (part[(part["case"] == case).to_numpy(dtype=bool)] for part in named)
        of_floor = every["method"].isin(list(FLOORS)).to_numpy(dtype=bool)
        found.append(Case(case, every[~of_floor], every[of_floor], last))
    return found


def _ways(part: pd.DataFrame) -> pd.Series:
    columns = [part[name].tolist() for name in ("method", "iterations", "precision", "outer_lr")]
    return pd.Series([_way(*row) for row in zip(*columns, strict=True)], index=part.index, dtype="object")


def _way(method: str, iterations: float, precision: str, outer_lr: float) -> Way:
    rank = FIRST.index(method) if method in FIRST else len(FIRST)
    return Way(rank, method, iterations, precision, 0.0 if isnan(outer_lr) else outer_lr)
