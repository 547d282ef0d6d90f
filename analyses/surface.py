"""Q3: the accuracy of the implicit gradient over inner steps and solver iterations at once."""

import pandas as pd

from analyses.analysis import Analysis, analyses
from analyses.finest import in_finest_arithmetic
from analyses.grid import implicit_grid_cells


def view(rows: pd.DataFrame) -> pd.DataFrame:
    """Conjugate gradients at every step and iteration, against both references, in the problem's finest arithmetic."""
    iterated = rows["solver"].isin(["cg", "cg_unchecked"]) & (rows["estimator"] == "implicit")
    return in_finest_arithmetic(rows.loc[iterated & (rows["target"] != "exact_solve")])


analyses.register("surface")(
    Analysis(
        ("Q3",), "cosine of the implicit gradient over inner steps and solver iterations", implicit_grid_cells, view
    )
)
