"""What the map says of each problem: the cheapest settings from which on the implicit gradient is right."""

import pandas as pd

from figures.caution import nothing_to_compare
from figures.cosines import Cosines
from figures.ends import Ends, ends
from figures.reasons import convergence, definiteness, divergence, warning
from figures.section import Verdict
from figures.table_view import cases, finest, view
from figures.wording import cosine, iterations, listed, of_tasks, steps

COLUMNS = ("solver", "solver_iterations", "target", "cosine", "min_eigenvalue", "stationarity")
LEVELS = (0.9, 0.99, 0.999)
NAMES = {"unrolled": "the unrolled gradient", "stationary": "the stationary gradient"}


def verdicts(frame: pd.DataFrame) -> tuple[Verdict, ...]:
    """One verdict for each case."""
    rows = view(frame, COLUMNS, "surface")
    rows = finest(rows[~rows["theory"] & rows["method"].isin(["cg", "cg_unchecked"])])
    if rows.empty:
        return ()
    at_ends = ends(rows)
    return tuple(_verdict(case, rows[rows["case"] == case], Ends.of(at_ends, case)) for case in cases(rows))


def _verdict(case: str, rows: pd.DataFrame, here: Ends) -> Verdict:
    method = "cg_unchecked" if (rows["method"] == "cg_unchecked").any() else "cg"
    maps = {target: Cosines.of(rows, method, target) for target in NAMES if (rows["target"] == target).any()}
    sentences = []
    for target, found in maps.items():
        if found.known:
            sentences.append(_reached(found, here, target, why=not sentences))
        else:
            why = nothing_to_compare(rows, target).replace("\n", " ")
            sentences.append(f"No cosine to {NAMES[target]}: {why}.")
    unrolled = maps.get("unrolled")
    if unrolled is None or not unrolled.known:
        return Verdict(case, "no number", " ".join(sentences))
    trap = _trap(unrolled, here)
    return Verdict(case, _answer(unrolled, here), " ".join(sentences) + trap + divergence(here))


def _answer(found: Cosines, here: Ends) -> str:
    for level in LEVELS[::-1]:
        place = found.reaches(level)
        if place:
            count, given = place
            return f"a cosine of {level} from {steps(count)} with {iterations(given)} on{warning(here, count)}"
    return f"no setting measured keeps a cosine of {LEVELS[0]}"


def _reached(found: Cosines, here: Ends, target: str, *, why: bool) -> str:
    places = [(level, place) for level in LEVELS if (place := found.reaches(level))]
    if not places:
        best = max(((count, found.best(count)) for count in found.steps()), key=lambda cell: found.at(*cell)[0])
        end = found.steps()[-1]
        return (
            f"No setting measured keeps a median cosine of {LEVELS[0]} to {NAMES[target]} when steps or iterations are "
            f"added; the best is {cosine(found.at(*best))} at {steps(best[0])} with {iterations(best[1])}"
            f"{warning(here, best[0])}."
            + (f" At {steps(end)} {convergence(here, end)} and {definiteness(here, end)}." if why else "")
        )
    highest = {place: level for level, place in places}  # of the levels first reached in one place, the highest
    said = listed([f"{level} from {_place(here, *place)}" for place, level in highest.items()])
    missed = [str(level) for level in LEVELS[len(places) :]]
    tail = f"; {listed(missed)} at no setting measured" if missed else ""
    first = places[-1][1][0]
    sentence = (
        f"The median cosine to {NAMES[target]} reaches, and keeps when steps or iterations are added, {said}{tail}."
    )
    return sentence + (f" At {steps(first)} {convergence(here, first)} and {definiteness(here, first)}." if why else "")


def _place(here: Ends, count: float, given: float) -> str:
    return f"{steps(count)} with {iterations(given)}{warning(here, count)}"


def _trap(found: Cosines, here: Ends) -> str:
    """Settings that look good although the formula does not apply, named so that nobody picks them."""
    good = [
        (count, given)
        for count in found.steps()
        if 2 * here.count("indefinite", count) > here.count("tasks", count)
        for given in found.iterations()
        if found.at(count, given)[0] >= LEVELS[0]
    ]
    if not good:
        return ""
    count, given = max(good, key=lambda cell: found.at(*cell)[0])
    number = f"{cosine(found.at(count, given))} at {steps(count)} with {iterations(given)}"
    hessian = (
        f"the inner Hessian is indefinite in {of_tasks(here.count('indefinite', count), here.count('tasks', count))}"
    )
    if found.hurts(count):
        return f" A trap: {number} looks good, but {hessian} there, and more iterations lose it."
    return f" Beware of {number}: {hessian} there, so the implicit formula does not apply."
