"""Q1: in which inner step, on the way forward or back, and in which kind of operation digits are lost."""

import pandas as pd

from analyses.analysis import Analysis, Cell, analyses
from analyses.rounding import studies
from analyses.settings import Settings


def cells(settings: Settings) -> list[Cell]:
    """The studies that are traced."""
    return [cell for study in studies(settings) for cell in study if cell.spec["traced"]]


def view(rows: pd.DataFrame) -> pd.DataFrame:
    """The errors of states, adjoints and kinds of operation, and the predicted lines for their growth rates."""
    return rows[rows["estimator"].str.match("trace_|rounded_|predicted_rounding")]


analyses.register("digits")(
    Analysis(("Q1",), "where digits are lost: by inner step, forward and back, and by operation", cells, view)
)
