"""What the curvature table says about each problem: from which number of steps on the implicit formula applies."""

import pandas as pd

from figures.ends import Ends, ends
from figures.reasons import CONVERGED, NEARLY, divergence, instability
from figures.section import Verdict
from figures.table_view import cases, view
from figures.wording import first, of_tasks, percent, plain, steps, steps_of, with_interval

COLUMNS = ("stationarity", "min_eigenvalue", "max_eigenvalue")


def verdicts(frame: pd.DataFrame) -> tuple[Verdict, ...]:
    """One verdict for each case."""
    rows = view(frame, COLUMNS, "curvature")
    rows = rows[~rows["theory"]]
    if rows.empty:
        return ()
    at_ends = ends(rows)
    return tuple(_verdict(case, Ends.of(at_ends, case)) for case in cases(rows))


def _verdict(case: str, here: Ends) -> Verdict:
    lost = divergence(here)
    known = here.where(lambda count: here.count("min_eigenvalue_missing", count) < here.count("tasks", count))
    tried = known.steps()
    if not tried:
        return Verdict(case, "no number", "Whether the formula applies is unknown: no curvature was measured." + lost)
    here = known
    definite = first([here.count("indefinite", count) == 0 for count in tried])
    converged = first([here.median("stationarity", count)[0] <= NEARLY for count in tried])
    return Verdict(
        case, _answer(here, definite, converged), _curvature(here) + _loop(here, converged) + instability(here) + lost
    )


def _answer(here: Ends, definite: int | None, converged: int | None) -> str:
    tried = here.steps()
    if definite is None:
        hits = [here.count("indefinite", count) for count in tried]
        end = tried[-1]
        return f"the formula does not apply in {of_tasks(hits[-1], here.count('tasks', end))} even at {steps(end)}"
    if converged is None:
        return "the Hessian becomes positive definite, but the loop does not converge in the steps tried"
    return f"the formula applies, nearly, from {steps(tried[max(definite, converged)])} on"


def _curvature(here: Ends) -> str:
    tried = here.steps()
    hits = {count: here.count("indefinite", count) for count in tried}
    end = tried[-1]
    if not any(hits.values()):
        low = min(here.median("min_eigenvalue", count)[0] for count in tried)
        return (
            "The inner Hessian is positive definite in every task at every number of steps (median smallest "
            f"eigenvalue {plain(low)} or more), so CG meets no negative curvature."
        )
    worst = max(tried, key=lambda count: hits[count])
    sentence = (
        f"The inner Hessian is indefinite in {of_tasks(hits[worst], here.count('tasks', worst))} at {steps(worst)} "
        f"(median smallest eigenvalue {with_interval(here.median('min_eigenvalue', worst), plain)})"
    )
    if end != worst:
        sentence += f" and in {of_tasks(hits[end], here.count('tasks', end))} at {end:g}"
    broke = {count: here.count("broke_down", count) for count in tried}
    if any(broke.values()):
        most = max(tried, key=lambda count: broke[count])
        sentence += f"; CG met negative curvature in up to {of_tasks(broke[most], here.count('tasks', most))}"
    majority = [count for count in tried if 2 * hits[count] > here.count("tasks", count)]
    if majority:
        sentence += f". At {steps_of(majority, tried)} it is so in most tasks: there the formula does not apply"
    return sentence + "."


def _loop(here: Ends, converged: int | None) -> str:
    tried = here.steps()
    end = tried[-1]
    left = with_interval(here.median("stationarity", end), percent)
    if converged is None:
        still = f"the inner gradient is still {left} of its first at {steps(end)}"
        return f" The loop does not converge in the steps tried: {still}."
    word = "below a millionth of" if here.median("stationarity", end)[0] <= CONVERGED else "down to " + left + " of"
    start = f"under 1% of its first from {steps(tried[converged])} on"
    return f" The median inner gradient is {start}, and {word} it at {end:g}."
