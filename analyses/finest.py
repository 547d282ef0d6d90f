"""The rows of each problem in the finest arithmetic that it was run in."""

import pandas as pd

from diagnostics.arithmetic.precision import PRECISIONS


def in_finest_arithmetic(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose precision has the least machine epsilon of those that the problem was run in."""
    eps = rows["precision"].map(lambda name: PRECISIONS[str(name)].eps)
    return rows.loc[eps == eps.groupby(rows["problem"]).transform("min")]
