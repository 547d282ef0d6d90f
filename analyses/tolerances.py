"""How far a number may move when the same cell is computed by other instructions: a tolerance for every value.

Another processor or thread count adds in another order, so that every rounding is another one. With u the machine
epsilon of the row's arithmetic, a gradient g then moves by at most

    |dg| <= C u kappa A |g|                A = 1 + sum_{1 <= j <= K} rho^j        rho = max |1 - lr * lambda|

A is what K inner steps make of a rounding in each of them: rho is taken at the smallest and largest eigenvalue of the
row, or is exp(growth rate) where the row has that, or 1 (gradient descent alone is bounded by eigenvalues). kappa is
the condition of the Hessian, |lambda|_max / |lambda|_min, where a linear system was solved with it, else 1. C stands
for the few roundings of an operation and the square root of the size, as in LAPACK's tests. The target t moves too, by
its own `reference_uncertainty` r. With delta = C (u kappa A |g| / |t| + r max(1, |g| / |t|)), beside which every number
has the few roundings of float64, in which it is told:

    relative_error, norm_ratio   delta
    digits                       compared as 10^-digits, with delta
    cosine_distance d            sqrt(2 d) b + b^2              d is half the square of an angle, which moves by
    cosine                       the same: it is 1 - d          b = C (u kappa A + r), whatever the lengths
    share                        (1 + 2 |share|) delta / total  a quotient by the total's length, in units of |t|
    min_, max_eigenvalue         C u A |lambda|_max             the point that they are taken at moves
    stationarity                 C u A                          a gradient relative to the first one
    solver_residual              C u kappa A                    |H dx| / |b|, and see below
    growth_rate                  GROWTH                         what `growth` iterates to
    lines of theory              C u kappa A |value|            formulas of the same eigenvalues
    reference_uncertainty        is itself a rounding error, other on every machine: within a factor C, or below C A eps
                                 of the coarser of the two settings that it compares

An unfinished solve moves by more. Rounding costs conjugate gradients the orthogonality of their directions, the more so
with every iteration, and from then on another rounding leads to another iterate, as far from the solution as the first
(Greenbaum, Linear Algebra Appl. 113, 1989). After i iterations that is, beside the above,

    solver_residual   s          min(C u A kappa^(i/2), s)          within a factor of C once it is not told by u
    relative_error and the rest  min(C u A kappa^(i/2), sqrt(kappa) s) more in b, and that times |g| / |t| in delta

where kappa^(i/2) is a model that fits what was measured, and sqrt(kappa) lies between the 1 and the kappa by which an
error of a solution may exceed its residual.

Two numbers that are both smaller than their tolerance are both below the floor of the arithmetic: they tell nothing.
An indefinite Hessian may have an eigenvalue next to 0, so that kappa, and with it the tolerance, has no bound: what an
implicit gradient comes to there is not compared (on the sinusoid, other instructions change it threefold).
Bytes depend on the workspaces of a kernel and are compared within a factor, the products of a linear solver, which
stops where its residual crosses a threshold, within 1 or a tenth; other whole numbers, names and outcomes exactly;
seconds never, nor the high-water mark of a process, which is the operating system's.

In training every step adds its roundings to those that the steps before have made grow, without a bound: what it comes
to after the first step, losses and accuracies among it, is left to the comparison of intervals.
"""

import numpy as np
import pandas as pd

from analyses.table import COLUMNS, TEXT, WHOLE
from diagnostics.arithmetic.precision import PRECISIONS
from diagnostics.certified import COARSER

CONSTANT = 30.0  # C, the threshold of LAPACK's test programs
GROWTH = 1e-2
BYTES_FACTOR = 2.0
PRODUCTS = 0.1  # of the products of a solver, and at least 1
SETTINGS_DIGITS = 12  # digits of a setting (a step size, a strength) that may be computed, and not just copied

SETTINGS = ("inner_lr", "strength", "damping", "outer_lr")
IMPLICIT = ("implicit", "predicted_implicit", "bound_cg", "bound_implicit")
KEY = (
    "problem", "task", "seed", "inner_optimizer", "inner_steps", "inner_lr", "strength", "estimator", "solver",
    "solver_iterations", "damping", "precision", "scaling", "target", "part", "stage", "iteration", "test_steps",
    "outer_optimizer", "outer_lr", "calibration",
)  # fmt: skip
CLOCKS = ("seconds", "seconds_low", "seconds_high", "process_bytes", "elapsed")
BYTES = ("peak_bytes", "saved_bytes")
JUDGED = (
    "loss", "accuracy", "bias", "base_accuracy", "novel_accuracy", "harmonic_mean", "delta1", "delta2", "area",
)  # fmt: skip
SOLVED = (
    "relative_error",
    "norm_ratio",
    "digits",
    "cosine_distance",
    "cosine",
    "share",
    "solver_residual",
    "hvp_count",
)
EXACT = tuple(name for name in COLUMNS if name in (*TEXT, *WHOLE, "flops") and name not in SOLVED)
COMPARED = tuple(name for name in COLUMNS if name not in ("analysis", *CLOCKS))

EPS64 = PRECISIONS["float64"].eps
TOLD = CONSTANT * EPS64


def amplification(rows: pd.DataFrame) -> np.ndarray:
    """A of each row: what its inner steps make of roundings of relative size 1."""
    steps = _numbers(rows, "inner_steps", 0.0)
    rate, smallest, largest = (_numbers(rows, name) for name in ("growth_rate", "min_eigenvalue", "max_eigenvalue"))
    size = _numbers(rows, "inner_lr")
    bounded = np.maximum(np.abs(1 - size * smallest), np.abs(1 - size * largest))
    rho = np.where((rows["inner_optimizer"] == "gd").to_numpy(dtype=bool), bounded, np.nan)
    rho = np.where(np.isnan(rate), rho, np.exp(rate))
    rho = np.where(np.isfinite(rho), rho, 1.0)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        geometric = rho * np.expm1(steps * np.log(rho)) / (rho - 1)
    near = np.abs(rho - 1) < 1e-8  # where the quotient cancels, and the sum is K
    return 1 + np.where(near, steps, np.where(rho == 0, 0.0, geometric))


def condition(rows: pd.DataFrame) -> np.ndarray:
    """kappa of each row: of the inner Hessian where the gradient is an implicit one, else 1; infinite if indefinite."""
    smallest, largest = _numbers(rows, "min_eigenvalue"), _numbers(rows, "max_eigenvalue")
    # An eigenvalue is known to within its tolerance, and the nearest to 0 that it may be is what counts.
    nearest = smallest - CONSTANT * np.maximum(_eps(rows), EPS64) * largest
    with np.errstate(divide="ignore", invalid="ignore"):
        kappa = np.where(nearest > 0, largest / nearest, np.inf)
    solved = rows["estimator"].isin(IMPLICIT).to_numpy(dtype=bool) & ~np.isnan(smallest)
    return np.where(solved, kappa, 1.0)


def tolerances(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """The tolerance of each value of each column that is compared in numbers; `rows` are of one analysis's table.

    It is infinite where nothing bounds what another machine finds.
    """
    u, a, kappa = _eps(rows), amplification(rows), condition(rows)
    ratio, doubt = _sizes(rows, "norm_ratio", 1.0), _numbers(rows, "reference_uncertainty", 0.0)
    error, share = _sizes(rows, "relative_error"), _sizes(rows, "share")
    apart, residual = _sizes(rows, "cosine_distance"), _sizes(rows, "solver_residual")
    told_by = rows["reference"].map(COARSER).to_numpy(dtype=float, na_value=COARSER["float64"])
    largest = np.maximum(_sizes(rows, "min_eigenvalue"), _sizes(rows, "max_eigenvalue"))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        rounding = CONSTANT * u * a
        krylov = rounding * kappa ** (_numbers(rows, "solver_iterations") / 2)
        unfinished = np.where(np.isnan(krylov), 0.0, np.fmin(krylov, np.sqrt(kappa) * residual))
        by_own = rounding * kappa + unfinished
        delta = by_own * ratio + CONSTANT * doubt * np.maximum(1.0, ratio)
        delta = np.where((rows["outcome"] == "prediction").to_numpy(dtype=bool), rounding * kappa * error, delta)
        angle = by_own + CONSTANT * doubt
        turned = np.sqrt(2 * apart) * angle + angle**2
        found = {
            "relative_error": delta + TOLD * error,
            "norm_ratio": delta + TOLD * ratio,
            "digits": delta + TOLD * error,
            "cosine_distance": turned + TOLD * apart,
            "cosine": turned + TOLD,
            "share": (1 + 2 * share) * (delta / _total(rows) + TOLD),
            "solver_residual": rounding * kappa + np.fmin(krylov, (1 - 1 / CONSTANT) * residual),
        }
        found |= {
            "min_eigenvalue": (rounding + TOLD) * largest,
            "max_eigenvalue": (rounding + TOLD) * largest,
            "stationarity": rounding + TOLD * _sizes(rows, "stationarity"),
            "growth_rate": np.full(len(rows), GROWTH),
            "reference_uncertainty": np.maximum(
                CONSTANT * told_by * a, (1 - 1 / CONSTANT) * _sizes(rows, "reference_uncertainty")
            ),
            "hvp_count": np.where(rows["solver"].isna(), 0.0, np.maximum(1.0, PRODUCTS * _sizes(rows, "hvp_count"))),
        }
        found |= {name: (1 - 1 / BYTES_FACTOR) * _sizes(rows, name) for name in BYTES}
        found |= {name: 10.0**-SETTINGS_DIGITS * _sizes(rows, name) for name in SETTINGS}
    unbounded = np.isinf(kappa) | np.isinf(doubt)
    trained = _numbers(rows, "iteration", 0.0) > 0
    found |= {name: TOLD + CONSTANT * u * a * np.abs(_numbers(rows, name)) for name in JUDGED}
    return {
        name: np.where(
            unbounded & (name in SOLVED) | trained & (name not in SETTINGS),
            np.inf,
            np.nan_to_num(values, nan=0.0, posinf=np.inf),
        )
        for name, values in found.items()
    }


def larger(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The rows with the larger of two numbers in every column, so that two runs are compared alike either way."""
    names = [name for name in COMPARED if name not in TEXT and name not in KEY]
    columns = {name: np.fmax(_numbers(first, name), _numbers(second, name)) for name in names}
    smallest = np.fmin(_numbers(first, "min_eigenvalue"), _numbers(second, "min_eigenvalue"))
    return first.assign(**columns | {"min_eigenvalue": smallest})


def _total(rows: pd.DataFrame) -> np.ndarray:
    """The relative error of the whole whose part each row is; NaN where there is none."""
    by = [name for name in KEY if name != "part"]
    whole = rows.loc[rows["part"] == "total", [*by, "relative_error"]].drop_duplicates(by)
    return rows[by].merge(whole, on=by, how="left")["relative_error"].to_numpy(dtype=float)


def _eps(rows: pd.DataFrame, column: str = "precision") -> np.ndarray:
    """Machine epsilon of the arithmetic that a column names; float64's where it names none."""
    known = {name: p.eps for name, p in PRECISIONS.items()}
    return rows[column].map(known).to_numpy(dtype=float, na_value=EPS64)


def _sizes(rows: pd.DataFrame, name: str, missing: float = 0.0) -> np.ndarray:
    """The sizes of numbers that a tolerance is made of; one that is infinite must not excuse itself."""
    values = np.abs(_numbers(rows, name))
    return np.where(np.isfinite(values), values, missing)


def _numbers(rows: pd.DataFrame, name: str, missing: float = np.nan) -> np.ndarray:
    values = rows[name].to_numpy(dtype=float, na_value=np.nan)
    return np.where(np.isnan(values), missing, values)
