"""Where digits are lost, as the figure and its verdicts look at it: one loop a case, traced in some arithmetics."""

from math import exp, log

import pandas as pd

from analyses.summary import UNIT
from figures.table_view import EPSILON, precisions, view

COLUMNS = ("target", "relative_error", "strength", "growth_rate")
STATE, STATE_LOCAL = "trace_state", "trace_state_local"
ADJOINT, ADJOINT_LOCAL = "trace_adjoint", "trace_adjoint_local"
BY_STATES, BY_SWEEP = "trace_adjoint_by_states", "trace_adjoint_by_sweep"
KINDS = {
    "rounded_arithmetic": "elementwise arithmetic",
    "rounded_elementary": "elementary functions",
    "rounded_product": "matrix products",
    "rounded_sum": "sums",
}
ALL_KINDS = "rounded_all"
BEYOND = 300.0  # no scale shows e^300 roundings


def traced(frame: pd.DataFrame) -> pd.DataFrame:
    """The traces, and the rows with the growth rate; `ValueError` names columns that are wanting."""
    return view(frame, COLUMNS, "digits")


def arithmetics(here: pd.DataFrame) -> list[str]:
    """Those that a case was traced in, finest first."""
    return precisions(here[here["method"] == ADJOINT])


def series(here: pd.DataFrame, method: str, precision: str) -> pd.DataFrame:
    """One trace of a case in one arithmetic."""
    return here[(here["method"] == method) & (here["precision"] == precision)]


def growth_rates(here: pd.DataFrame) -> list[float]:
    """The growth rate of each task's loop of a case."""
    rows = here[here["theory"] & (here["method"] == "predicted_rounding")]
    return rows.drop_duplicates(list(UNIT))["growth_rate"].dropna().astype(float).tolist()


def stretched(rate: float, precision: str, step: float) -> float:
    """What one rounding at the start has become after so many steps, by theory: `u e^(rate step)`, u = eps/2."""
    eps = EPSILON.get(precision)
    logarithm = rate * step if step else 0.0  # the rate may be minus infinity
    return float("nan") if eps is None or logarithm > BEYOND else eps / 2 * exp(logarithm)


def run_out(rate: float, precision: str) -> float | None:
    """The step `ln(2/eps) / rate` at which that is 1 and no digit is left; None where differences do not grow."""
    eps = EPSILON.get(precision)
    return None if eps is None or not rate > 0 else log(2 / eps) / rate
