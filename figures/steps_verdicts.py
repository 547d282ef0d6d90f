"""What the steps table says of each problem: from how many steps on a gradient can be trusted, and why not before."""

import pandas as pd

from analyses.summary import summarise
from figures.caution import ADVICE, nothing_to_compare
from figures.ends import Ends, ends
from figures.reasons import convergence, definiteness, divergence, instability, warning
from figures.section import Verdict
from figures.table_view import EPSILON, cases, finest, precisions, view
from figures.wording import first, listed, percent, steps, with_interval

COLUMNS = ("solver", "target", "relative_error", "min_eigenvalue", "stationarity")
LEVELS = (0.1, 0.01)
ROUNDING_MATTERS = 1e4  # in units of epsilon


def verdicts(frame: pd.DataFrame) -> tuple[Verdict, ...]:
    """One verdict for each case."""
    rows = view(frame, COLUMNS, "steps")
    rows = rows[~rows["theory"]]
    if rows.empty:
        return ()
    at_ends = ends(rows)
    return tuple(_verdict(case, rows[rows["case"] == case], Ends.of(at_ends, case)) for case in cases(rows))


def _verdict(case: str, rows: pd.DataFrame, here: Ends) -> Verdict:
    fine = finest(rows)
    exact = _errors(fine, "exact", "unrolled")
    if exact["relative_error"].isna().all():
        if (fine["method"] == "exact").any():
            why = nothing_to_compare(fine[fine["method"] == "exact"], "unrolled").replace("\n", " ")
            advice = ADVICE["diverged"] if "diverged" in why else ""
            return Verdict(case, "no number", f"The implicit gradient has no error to report: {why}. {advice}".strip())
        return Verdict(case, "not measured", "No implicit gradient with an exact solve was measured." + _unrolled(rows))
    answer, sentence = _implicit(exact, here)
    sentence += divergence(here) + instability(here) + _first_order(fine, exact)
    return Verdict(case, answer, sentence + _stationary(fine, here) + _unrolled(rows))


def _implicit(exact: pd.DataFrame, here: Ends) -> tuple[str, str]:
    exact = exact[exact["relative_error"].notna()]
    counts = exact.index.to_numpy(dtype=float).tolist()
    # An error is within a level where the end of its interval is, if it has one.
    surely = exact["relative_error_high"].fillna(exact["relative_error"]).tolist()
    start, end = counts[0], counts[-1]
    sentence = (
        f"With its linear system solved exactly, the implicit gradient is off the unrolled one by "
        f"{_number(exact, start)} after {steps(start)}{warning(here, start)}"
    )
    if end != start:
        sentence += f" and by {_number(exact, end)} after {end:g}{warning(here, end)}"
    places = {level: first([error <= level for error in surely]) for level in LEVELS}
    reached = [(percent(level), counts[place]) for level, place in places.items() if place is not None]
    sentence += f". At {steps(end)} {convergence(here, end)} and {definiteness(here, end)}."
    if not reached:
        return (
            f"the implicit gradient is still off by {_number(exact, end)} at {steps(end)}{warning(here, end)}",
            sentence,
        )
    said = [
        f"within {level} "
        + (f"from {steps(count) if place == 0 else f'{count:g}'} on" if count != end else f"at {steps(count)}")
        for place, (level, count) in enumerate(reached)
    ]
    sentence += f" Its whole interval lies {listed(said)}."
    level, count = reached[-1]
    where = f"from {steps(count)} on" if count != end else f"at {steps(count)}"
    return f"the implicit gradient is within {level} of the unrolled one {where}{warning(here, count)}", sentence


def _first_order(fine: pd.DataFrame, exact: pd.DataFrame) -> str:
    other = _errors(fine, "first_order", "unrolled").dropna(subset="relative_error")
    both = [count for count in other.index if count in exact.index and exact["relative_error"].notna()[count]]
    if not both:
        return ""
    better = [count for count in both if exact["relative_error"][count] < other["relative_error"][count]]
    end = both[-1]
    sentence = f" The first-order gradient is off by {_number(other, end)} at {steps(end)}"
    if not better:
        return sentence + " and closer than the implicit one at every number of steps."
    start = first([count in better for count in both])
    if start is None:
        return sentence + " and closer than the implicit one there."
    if start == 0:
        return sentence + "; the implicit one is closer at every number of steps."
    return sentence + f"; the implicit one is the closer of the two from {steps(both[start])} on."


def _stationary(fine: pd.DataFrame, here: Ends) -> str:
    if not (fine["target"] == "stationary").any():
        return ""
    exact, unrolled = (
        _errors(fine, name, "stationary").dropna(subset="relative_error") for name in ("exact", "unrolled")
    )
    if exact.empty and unrolled.empty:
        why = nothing_to_compare(fine, "stationary").replace("\n", " ")
        advice = " " + ADVICE["no minimiser"] if "no minimiser" in why else ""
        return f" There is no stationary gradient to compare with: {why}.{advice}"
    if exact.empty or unrolled.empty:
        return ""
    end = max(set(exact.index) & set(unrolled.index))
    return (
        f" Against the stationary gradient, the implicit method's own target, the implicit gradient is off by "
        f"{_number(exact, end)} at {steps(end)}{warning(here, end)} and the unrolled one by {_number(unrolled, end)}."
    )


def _unrolled(rows: pd.DataFrame) -> str:
    """How far rounding alone takes the unrolled gradient, in each arithmetic with a known epsilon."""
    parts = []
    for name in precisions(rows):
        worst = _errors(rows[rows["precision"] == name], "unrolled", "unrolled")["relative_error"].max()
        if worst > 0 and name in EPSILON:  # 0 in the arithmetic that the reference was computed in: nothing to tell
            parts.append((name, worst, worst / EPSILON[name]))
    if not parts:
        return ""
    said = listed([f"{percent(worst)} in {name}" for name, worst, _ in parts])
    loud = any(times > ROUNDING_MATTERS for _, _, times in parts)
    return f" Rounding alone moves the unrolled gradient by at most {said}" + (
        ", far more than epsilon." if loud else "."
    )


def _errors(rows: pd.DataFrame, method: str, target: str) -> pd.DataFrame:
    chosen = rows[(rows["method"] == method) & (rows["target"] == target)]
    return summarise(chosen, ["inner_steps"], ["relative_error"]).set_index("inner_steps")


def _number(table: pd.DataFrame, count: float) -> str:
    found = [float(table["relative_error" + end][count]) for end in ("", "_low", "_high")]
    return with_interval(found, percent)
