"""Q3: how accurate the implicit gradient is over the iterations of conjugate gradients."""

import pandas as pd

from analyses.analysis import Analysis, analyses
from analyses.finest import in_finest_arithmetic
from analyses.grid import implicit_grid_cells


def view(rows: pd.DataFrame) -> pd.DataFrame:
    """The implicit gradients and the bounds on them, against all targets, in the problem's finest arithmetic."""
    return in_finest_arithmetic(rows.loc[rows["estimator"].isin(["implicit", "bound_cg", "bound_implicit"])])


analyses.register("cg")(
    Analysis(("Q3",), "error of the implicit gradient over conjugate-gradient iterations", implicit_grid_cells, view)
)
