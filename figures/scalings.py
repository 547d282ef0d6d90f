"""The rescaling study as its figure and its verdicts look at it: a problem a case, a rescaling a line."""

from collections.abc import Sequence
from math import frexp

import numpy as np
import pandas as pd

from figures.table_view import finest, precisions, view
from figures.wording import listed

COLUMNS = (
    "solver", "solver_iterations", "target", "relative_error", "outcome_step", "inner_lr", "strength", "scaling",
)  # fmt: skip
PLAIN, EXACT_LOOP = "none", "power_of_two"
ORDER = (PLAIN, EXACT_LOOP, "standardize", "whiten")
NO_NUMBER = ("diverged", "not finite")


def studied(frame: pd.DataFrame) -> pd.DataFrame:
    """The measured rows; a case is a problem under all its rescalings. `ValueError` names columns that are wanting."""
    rows = view(_in_original_units(frame), COLUMNS, "rescaling", apart=("scaling",))
    return rows[~rows["theory"]]


def scalings(rows: pd.DataFrame) -> list[str]:
    """The rescalings in the table: none first, factors last and ascending."""
    found = set(rows["scaling"].dropna())
    return [name for name in ORDER if name in found] + sorted(found - set(ORDER), key=_factor)


def under(names: Sequence[str]) -> str:
    """Rescalings as the end of a sentence: `as the data are and under whiten and standardize`."""
    rescaled = [name for name in names if name != PLAIN]
    parts = ["as the data are"] if PLAIN in names else []
    return " and ".join([*parts, *([f"under {listed(rescaled)}"] if rescaled else [])])


def rounding(rows: pd.DataFrame) -> pd.DataFrame:
    """MAML's rounding errors, in all arithmetics."""
    return rows[(rows["method"] == "unrolled_adjoint") & (rows["target"] == "exact_arithmetic")]


def coarsest(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, of one case, in the coarsest arithmetic among them."""
    return rows[rows["precision"].isin(precisions(rows)[-1:])]


def exactly(rows: pd.DataFrame, method: str, target: str) -> pd.DataFrame:
    """Of one case, a gradient in the arithmetic of the references; an implicit one with the most CG iterations."""
    found = rows[(rows["method"] == method) & (rows["target"] == target)]
    most = found["iterations"].max()
    return finest(found[found["iterations"].eq(most) | np.isnan(most)])


def mostly(rows: pd.DataFrame, outcomes: Sequence[str]) -> pd.Series:
    """Whether more than half of the tasks have one of the outcomes, by rescaling and number of steps."""
    hit = rows.assign(hit=rows["outcome"].isin(list(outcomes)))
    return hit.groupby(["scaling", "inner_steps"])["hit"].mean() > 0.5


def _in_original_units(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with the inner step and the strength that `power_of_two` had found.

    In its units they are 2^(-2p) and 2^(2p) times as large, with a p that may differ from seed to seed.
    """
    if not {"scaling", "inner_lr", "strength"} <= set(frame):
        return frame
    settings = frame[["problem", "inner_lr", "strength"]].astype({"inner_lr": float, "strength": float})
    settings = settings.assign(strength=settings["strength"].fillna(0.0))
    plain = settings[(frame["scaling"] == PLAIN).to_numpy()].drop_duplicates()
    changed = (frame["scaling"] == EXACT_LOOP).to_numpy()
    fitting = {}
    for problem, step, strength in settings[changed].drop_duplicates().itertuples(index=False):
        for known in plain[plain["problem"] == problem].itertuples(index=False):
            same = frexp(step)[0] == frexp(known.inner_lr)[0] and step * strength == known.inner_lr * known.strength
            if same:
                fitting.setdefault((problem, step, strength), (known.inner_lr, known.strength))
    keys = list(settings[changed].itertuples(index=False, name=None))
    frame = frame.assign(strength=settings["strength"])
    frame.loc[changed, "inner_lr"] = [fitting.get(key, key[1:])[0] for key in keys]
    frame.loc[changed, "strength"] = [fitting.get(key, key[1:])[1] for key in keys]
    return frame


def _factor(name: str) -> tuple[float, str]:
    """Where `scale:<factor>` stands in a list; a name that is none comes last."""
    try:
        return float(name.partition(":")[2]), name
    except ValueError:
        return np.inf, name
