"""Q3: how accurate the implicit gradient is over the iterations of conjugate gradients."""

import pandas as pd

from analyses.analysis import Analysis, analyses
from analyses.grid import implicit_grid_cells


def view(rows: pd.DataFrame) -> pd.DataFrame:
    """The implicit gradients and the bounds on them, against both references and against the exact solve."""
    return rows.loc[rows["estimator"].isin(["implicit", "bound_cg", "bound_implicit"])]


analyses.register("cg")(
    Analysis(("Q3",), "error of the implicit gradient over conjugate-gradient iterations", implicit_grid_cells, view)
)
