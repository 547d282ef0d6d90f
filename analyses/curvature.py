"""Q8: where the implicit formula does not apply, from the inner loop's stationarity and the curvature at its end."""

import pandas as pd

from analyses.analysis import Analysis, analyses
from analyses.finest import in_finest_arithmetic
from analyses.grid import implicit_grid_cells


def view(rows: pd.DataFrame) -> pd.DataFrame:
    """The implicit gradient solved exactly, and by the most CG iterations, beside the curvature it was taken at."""
    implicit = rows.loc[(rows["estimator"] == "implicit") & (rows["target"] != "exact_solve")]
    most = implicit.groupby("problem")["solver_iterations"].transform("max")
    ends = implicit.loc[implicit["solver_iterations"].isna() | (implicit["solver_iterations"] == most)]
    return in_finest_arithmetic(ends)


analyses.register("curvature")(
    Analysis(
        ("Q8",), "stationarity and extreme eigenvalues beside the implicit gradient's error", implicit_grid_cells, view
    )
)
