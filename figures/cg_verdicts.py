"""What the table says about more conjugate gradients: whether they help or hurt, where, and why."""

import numpy as np
import pandas as pd

from figures.caution import ADVICE, nothing_to_compare
from figures.cosines import WORTH_TELLING, Cosines
from figures.ends import Ends, ends
from figures.reasons import NEARLY, convergence, definiteness, divergence, warning
from figures.section import Verdict
from figures.table_view import cases, finest, view
from figures.wording import cosine, iterations, of_tasks, steps, steps_of

COLUMNS = ("solver", "solver_iterations", "target", "cosine", "min_eigenvalue", "stationarity")
GOOD = 0.99
WANTED = "unrolled"


def verdicts(frame: pd.DataFrame) -> tuple[Verdict, ...]:
    """One verdict for each case."""
    rows = view(frame, COLUMNS, "cg")
    rows = finest(rows[~rows["theory"] & rows["method"].isin(["cg", "cg_unchecked", "exact"])])
    if rows.empty:
        return ()
    at_ends = ends(rows)
    return tuple(_verdict(case, rows[rows["case"] == case], Ends.of(at_ends, case)) for case in cases(rows))


def _verdict(case: str, rows: pd.DataFrame, here: Ends) -> Verdict:
    released, stopping = (Cosines.of(rows, method, WANTED) for method in ("cg_unchecked", "cg"))
    found = released if released.known else stopping
    if not found.known:
        why = nothing_to_compare(rows, WANTED).replace("\n", " ")
        advice = " " + ADVICE["diverged"] if "diverged" in why else ""
        return Verdict(case, "no number", f"CG has no cosine to the {WANTED} gradient to report: {why}.{advice}")
    if len(found.iterations()) < 2:
        return Verdict(case, "one setting only", _one_setting(found, here))
    hurting = [count for count in found.steps() if found.hurts(count)]
    shown = _told(found, hurting)
    sentence = _worse(found, here, shown) if shown in hurting else _better(found, here, shown)
    others = [count for count in hurting if count != shown]
    if others:
        sentence += f" The same happens at {steps_of(others, found.steps())}."
    if shown in hurting and stopping.known and found is released:
        sentence += _stopping(found, stopping, shown)
    end = found.steps()[-1]
    if end != shown:
        sentence += _at_the_end(found, here, end)
    return Verdict(case, _answer(found, hurting), sentence + divergence(here))


def _told(found: Cosines, hurting: list[float]) -> float:
    """The number of steps to speak of: the middling one, or where it is harmless the largest at which more CG hurts."""
    tried = found.steps()
    middling = tried[len(tried) // 2]
    return middling if middling in hurting or not hurting else hurting[-1]


def _answer(found: Cosines, hurting: list[float]) -> str:
    if not hurting:
        helping = any(found.helps(count) for count in found.steps())
        return "more CG helps" if helping else "more CG changes little"
    if hurting == found.steps():
        return "more CG hurts at every number of steps"
    return f"more CG hurts at {steps_of(hurting, found.steps())}"


def _worse(found: Cosines, here: Ends, count: float) -> str:
    best, most = found.best(count), found.iterations()[-1]
    sentence = (
        f"At {steps(count)} more CG makes it worse: the median cosine to the {WANTED} gradient falls from "
        f"{_cell(found, count, best)} at {iterations(best)} to {_cell(found, count, most)} at "
        f"{most:g}; {convergence(here, count)} and "
    )
    hit, tasks = here.count("indefinite", count), here.count("tasks", count)
    if hit:
        return sentence + (
            f"the inner Hessian is indefinite in {of_tasks(hit, tasks)}, where CG meets negative curvature and the "
            f"implicit formula does not apply.{_definite_ones(found, count, best, most)}"
        )
    if here.count("min_eigenvalue_missing", count) == tasks:
        return sentence + "the curvature was not measured."
    if here.median("stationarity", count)[0] <= NEARLY:
        return sentence + f"{definiteness(here, count)}, so neither explains the fall; look at the solver."
    return sentence + (
        f"{definiteness(here, count)}, so CG does approach the solution of its system; but the implicit formula holds "
        f"at a minimiser only, and the few iterations that come closer do so by being inexact."
    )


def _definite_ones(found: Cosines, count: float, best: float, most: float) -> str:
    """What becomes of the tasks that are not indefinite: a check of the reason just given."""
    definite = found.only(~found.rows["indefinite"])
    tasks = definite.tasks(count)
    if not tasks:
        return ""
    before, after = (definite.at(count, given)[0] for given in (best, most))
    falls = "It falls" if before - after >= WORTH_TELLING else "It does not fall"
    also = " as well" if before - after >= WORTH_TELLING else ""
    return (
        f" {falls} in the {tasks} task{'' if tasks == 1 else 's'} with a positive definite Hessian{also}: from "
        f"{_cell(definite, count, best)} to {_cell(definite, count, most)}."
    )


def _better(found: Cosines, here: Ends, count: float) -> str:
    few, most = found.iterations()[0], found.iterations()[-1]
    verb = "more CG helps" if found.helps(count) else "more CG changes little"
    return (
        f"At {steps(count)} {verb}: the median cosine to the {WANTED} gradient goes from {_cell(found, count, few)} at "
        f"{iterations(few)} to {_cell(found, count, most)} at {most:g}; "
        f"{convergence(here, count)} and {definiteness(here, count)}."
    )


def _stopping(released: Cosines, stopping: Cosines, count: float) -> str:
    most = stopping.iterations()[-1]
    gain = stopping.at(count, most)[0] - released.at(count, most)[0]
    if np.isnan(gain) or abs(gain) < WORTH_TELLING:
        return ""
    verb = "keeps" if gain > 0 else "has only"
    return f" CG that stops at negative curvature {verb} {_cell(stopping, count, most)} at {most:g} iterations there."


def _at_the_end(found: Cosines, here: Ends, count: float) -> str:
    tried = found.iterations()
    enough = [i for i in tried if found.at(count, i)[0] >= GOOD]
    chosen = enough[0] if enough else found.best(count)
    verbs = ("reach", "reaches") if enough else ("get furthest, to", "gets furthest, to")
    return (
        f" At {steps(count)} {iterations(chosen)} {verbs[chosen == 1]} "
        f"{_cell(found, count, chosen)}{warning(here, count)}; there {convergence(here, count)}."
    )


def _one_setting(found: Cosines, here: Ends) -> str:
    count, given = found.steps()[-1], found.iterations()[0]
    return (
        f"With {iterations(given)} the median cosine to the {WANTED} gradient is "
        f"{_cell(found, count, given)} at {steps(count)}{warning(here, count)}; {convergence(here, count)}. One number "
        "of iterations cannot tell whether more would help."
    )


def _cell(found: Cosines, count: float, given: float) -> str:
    return cosine(found.at(count, given))
