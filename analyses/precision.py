"""Q1, Q2: how much of a gradient's error is the arithmetic's, over the number of inner steps."""

import pandas as pd

from analyses.analysis import Analysis, Cell, analyses
from analyses.rounding import studies
from analyses.settings import Settings


def cells(settings: Settings) -> list[Cell]:
    """The problems as they are; where two studies have the same one, the first."""
    found: dict[tuple[str, int], Cell] = {}
    for cell in (cell for study in studies(settings) for cell in study if cell.spec["scaling"] == "none"):
        found.setdefault((cell.spec["problem"], cell.spec["seed"]), cell)
    return list(found.values())


def view(rows: pd.DataFrame) -> pd.DataFrame:
    """Every gradient in every arithmetic, with the predicted lines."""
    return rows[~rows["estimator"].str.match("trace_|rounded_")]


analyses.register("precision")(
    Analysis(
        ("Q1", "Q2"),
        "rounding error of MAML and iMAML in every arithmetic against extended precision, over inner steps",
        cells,
        view,
    )
)
