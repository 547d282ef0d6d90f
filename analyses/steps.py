"""Q3: how accurate each meta-gradient is over the number of inner steps."""

import pandas as pd

from analyses.analysis import Analysis, analyses
from analyses.grid import grid_cells

SHOWN = (2, 5)  # the CG iterations of the published settings; the most that were run are shown beside them


def view(rows: pd.DataFrame) -> pd.DataFrame:
    """Every estimator against both references; CG at 2, 5 and the most iterations."""
    count = rows["solver_iterations"]
    most = rows.groupby("problem")["solver_iterations"].transform("max")
    return rows.loc[(count.isna() | count.isin(SHOWN) | (count == most)) & (rows["target"] != "exact_solve")]


analyses.register("steps")(
    Analysis(("Q3",), "error of every meta-gradient over inner steps, against both references", grid_cells, view)
)
