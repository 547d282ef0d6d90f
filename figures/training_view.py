"""Training runs as the figures and the verdicts look at them: a case is a problem and its loop, a line a method.

The performance is the test accuracy where a problem has classes, otherwise the test loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from analyses.seeds import over_seeds
from analyses.training_summary import (
    METHOD,
    SETTING,
    by_seed,
    differences,
    floors,
    gradients,
    pace,
    rank_correlation,
    task_rows,
    validations,
)
from figures.table_view import FINEST_FIRST
from figures.training_lines import MAML, PLAIN, UNROLLED, USUAL, Line, in_order, line_of, methods_of

COLUMNS = (
    "problem", "seed", "task", "inner_steps", "estimator", "precision", "outcome", "inner_optimizer", "inner_lr",
    "strength", "outer_optimizer", "outer_lr", "solver", "solver_iterations", "scaling", "target", "cosine",
    "cosine_distance", "relative_error", "norm_ratio", "iteration", "test_steps", "elapsed", "loss", "accuracy",
    "stage",
)  # fmt: skip
APART = ("inner_optimizer", "inner_lr", "strength", "outer_optimizer", "outer_lr")
EXACT = 1e-6  # gradients closer than this count as equally exact: what is left is rounding, of them and of references
KEYS = ("line", "inner_steps", "test_steps")
NOTHING = {name: "float64" for name in ("inner_steps", "test_steps", "seed", "loss", "accuracy", "tasks")}


@dataclass(frozen=True)
class Case:
    """The runs of one case, of a `problem`.

    `usual` is the arithmetic of its plain lines, `lines` all of them. `rows` are its test tasks, `each` the means of
    every seed, `tests` those over seeds, `floors`, `curves` (validations) and `probes` what their names say, with a
    column `line` in each that speaks of a line; `pace` gives the seconds of an outer iteration by line and inner steps.
    """

    name: str
    problem: str
    usual: str
    lines: tuple[Line, ...]
    rows: pd.DataFrame
    each: pd.DataFrame
    floors: pd.DataFrame
    curves: pd.DataFrame
    probes: pd.DataFrame
    pace: pd.Series

    @property
    def measure(self) -> str:
        """`accuracy` where there are classes, else `loss`."""
        return "accuracy" if self.each["accuracy"].notna().any() else "loss"

    @property
    def better(self) -> float:
        """The sign of a change for the better."""
        return 1.0 if self.measure == "accuracy" else -1.0

    @cached_property
    def tests(self) -> pd.DataFrame:
        """Means over seeds by line, `inner_steps` and `test_steps`, with half their intervals."""
        return over_seeds(self.each, KEYS)

    @cached_property
    def as_trained(self) -> pd.DataFrame:
        """Those with as many inner steps at test as in training."""
        return self.tests[self.tests["test_steps"] == self.tests["inner_steps"]]

    @cached_property
    def reference(self) -> Line | None:
        """What others are held against: plain MAML; None where there is none."""
        plain = [line for line in self.plain if line.method in (MAML, UNROLLED)]
        return plain[0] if plain else None

    @property
    def plain(self) -> list[Line]:
        """The lines in the usual arithmetic on the data as they are."""
        return [line for line in self.lines if line.precision == self.usual and line.scaling == PLAIN]

    @property
    def variants(self) -> list[Line]:
        """The others."""
        return [line for line in self.lines if line not in self.plain]

    @property
    def steps(self) -> list[float]:
        """The numbers of inner steps in training."""
        return sorted(set(self.each["inner_steps"]))

    @cached_property
    def gaps_by_seed(self) -> pd.DataFrame:
        """Each line less the reference, on the same seeds and tasks, with the steps of training at test."""
        if self.reference is None:
            return pd.DataFrame(columns=[*KEYS, "seed", "loss", "accuracy", "tasks"]).astype(NOTHING)
        return self.less(self.reference)

    def less(self, line: Line) -> pd.DataFrame:
        """Each other line less this one, by seed."""
        rows = self.rows[self.rows["test_steps"] == self.rows["inner_steps"]]
        found = differences(rows, _held(rows, line))
        return found.merge(rows[[*METHOD, "line"]].drop_duplicates(), on=list(METHOD), how="left")

    @cached_property
    def gaps(self) -> pd.DataFrame:
        """The differences to the reference over seeds, with half their intervals."""
        return over_seeds(self.gaps_by_seed, KEYS)

    @cached_property
    def exactness(self) -> pd.DataFrame:
        """By line, `inner_steps` and seed, how exact the gradient was and how good the network became.

        `distance` is the mean 1 - cosine of the mean gradient along training, not below `EXACT`; the performance is
        that with the steps of training at test. On the data as they are.
        """
        keys = ["line", "inner_steps", "seed"]
        probed = self.probes.groupby(keys)[["cosine_distance"]].mean().reset_index()
        shown = self.each[self.each["test_steps"] == self.each["inner_steps"]]
        both = shown[[*keys, self.measure]].merge(probed, on=keys)
        plain = [line.name for line in self.lines if line.scaling == PLAIN]
        both = both[both["line"].isin(plain)].rename(columns={"cosine_distance": "distance"})
        return both.assign(distance=both["distance"].clip(lower=EXACT)).dropna(subset=["distance", self.measure])

    def correlation(self, *, within: bool) -> tuple[float, float]:
        """Of exactness and performance, by rank; positive where the more exact gradient has trained better."""
        points = self.exactness.assign(
            exact=-self.exactness["distance"], good=self.better * self.exactness[self.measure]
        )
        return rank_correlation(points, "exact", "good", ["inner_steps"] if within else [])


def studied(frame: pd.DataFrame) -> list[Case]:
    """The cases of a table; `ValueError` names columns that are wanting."""
    absent = [name for name in COLUMNS if name not in frame.columns]
    if absent:
        raise ValueError(f"figure training: expected the column {', '.join(absent)}, found {', '.join(frame.columns)}")
    frame = frame[list(COLUMNS)]  # each copy of the others would cost
    rows, each, bottoms = task_rows(frame), by_seed(frame), floors(frame)
    parts = [rows, each, validations(frame), gradients(frame), pace(frame)]
    settings = each[list(SETTING)].drop_duplicates().reset_index(drop=True)
    settings = methods_of(settings).assign(case=_cases(settings))
    found = []
    for name in dict.fromkeys(settings["case"]):
        here = settings[settings["case"] == name]
        usual = _usual(here["precision"])
        lines = [line_of(row, usual) for row in here.itertuples()]
        labels = here[list(SETTING)].assign(line=[line.name for line in lines])
        mine = [part.merge(labels, on=list(SETTING)) for part in parts]
        loop = here[["problem", "inner_optimizer", "inner_lr", "strength"]].drop_duplicates()
        bottom = bottoms.merge(loop, on=list(loop.columns))
        tasks, means, curves, probes, speed = mine
        speeds = speed.set_index(["line", "inner_steps"])["seconds"]
        problem = str(here["problem"].iloc[0])
        found.append(Case(name, problem, usual, in_order(lines), tasks, means, bottom, curves, probes, speeds))
    return found


def problems(frame: pd.DataFrame) -> list[str]:
    """The problems of a table, in their order."""
    return [str(name) for name in dict.fromkeys(frame["problem"].dropna())]


def _usual(names: pd.Series) -> str:
    found = set(names)
    return USUAL if USUAL in found else next((name for name in FINEST_FIRST if name in found), str(names.iloc[0]))


def _held(rows: pd.DataFrame, line: Line) -> dict[str, str | float | None]:
    first = rows.loc[rows["line"] == line.name, list(METHOD)].iloc[:1]
    return {name: None if first[name].isna().all() else first[name].iloc[0] for name in METHOD if len(first)}


def _cases(settings: pd.DataFrame) -> pd.Series:
    label = settings["problem"].astype("object")
    for name in APART:
        differs = settings.groupby("problem")[name].transform("nunique") > 1
        label = label.where(~differs, label + f", {name} " + settings[name].astype("str"))
    return label


def line_rows(table: pd.DataFrame, line: Line, along: str) -> pd.DataFrame:
    """The rows of a line, in the order of a column."""
    return table[table["line"] == line.name].sort_values(along)


def at(table: pd.DataFrame, line: str, steps: float) -> pd.Series | None:
    """The row of a line after so many inner steps; None where there is none."""
    found = table[(table["line"] == line) & (table["inner_steps"] == steps)]
    return found.iloc[0] if len(found) else None


def seeds_of(cases: Sequence[Case]) -> list[int]:
    """How many seeds the cases have."""
    return [int(case.each["seed"].nunique()) for case in cases]
