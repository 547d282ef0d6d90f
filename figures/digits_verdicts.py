"""Where each problem's gradient loses its digits: which half of the computation, which operations, how fast."""

from math import expm1

import pandas as pd

from analyses.summary import UNIT, median_interval
from figures.caution import ADVICE, tasks_where
from figures.section import Verdict
from figures.table_view import cases
from figures.traces import (
    ADJOINT,
    ALL_KINDS,
    BY_STATES,
    BY_SWEEP,
    KINDS,
    STATE,
    STATE_LOCAL,
    arithmetics,
    growth_rates,
    run_out,
    series,
    traced,
)
from figures.wording import listed, of_tasks, percent, plain, steps, with_interval

Halves = tuple[tuple[float, float, float], tuple[float, float, float]]  # error and share, with their intervals
HALVES = ("the wrong states", "the sweep's own rounding")
NO_DIGIT = 0.5
CLEAR = 0.6  # of the error: what makes less than this does not make most of it


def verdicts(frame: pd.DataFrame) -> tuple[Verdict, ...]:
    """One verdict for each case."""
    rows = traced(frame)
    return tuple(_verdict(case, rows[rows["case"] == case]) for case in cases(rows))


def _verdict(case: str, here: pd.DataFrame) -> Verdict:
    names = arithmetics(here)
    if not names:
        return Verdict(case, "not measured", "No loop was traced.")
    told = {name: _halves(here, name) for name in names}
    known = {name: found for name, found in told.items() if found is not None}
    lost = "".join(_lost(here, name) for name in names)
    if not known:
        return Verdict(case, "no number", f"The adjoint at the start of the loop has no error to divide.{lost}")
    answer = _answer(known)
    sentence = "".join(_arriving(here, name, found) + _kinds(here, name) for name, found in known.items())
    return Verdict(case, answer, (sentence + _growth(here, names) + lost).strip())


def _errors(here: pd.DataFrame, method: str, precision: str, step: float) -> pd.Series:
    """The relative errors after so many steps, by task."""
    rows = series(here, method, precision)
    return rows[rows["inner_steps"] == step].set_index(list(UNIT))["relative_error"].astype(float)


def _median(errors: pd.Series) -> tuple[float, float, float]:
    return median_interval(errors.tolist())


def _halves(here: pd.DataFrame, precision: str) -> Halves | None:
    """The error of the adjoint that arrives at the start, and the states' share of it; None where there is none."""
    error = _median(_errors(here, ADJOINT, precision, 0))
    states, sweep = (_errors(here, method, precision, 0) for method in (BY_STATES, BY_SWEEP))
    share = _median(states / (states + sweep))  # their norms add up to more than the error's
    return None if error[0] != error[0] or share[0] != share[0] else (error, share)


def _answer(known: dict[str, Halves]) -> str:
    """Which half makes most of the error, arithmetic by arithmetic."""
    found: dict[str, list[str]] = {half: [] for half in HALVES}
    alike = []
    for name, (_, share) in known.items():
        states = share[0]
        if max(states, 1 - states) < CLEAR:
            alike.append(f"{name} ({percent(states)} from {HALVES[0]})")
        else:
            found[HALVES[states < 0.5]].append(f"{name} ({percent(max(states, 1 - states))})")
    parts = [f"from {half} in {listed(names)}" for half, names in found.items() if names]
    parts += [f"from both alike in {listed(alike)}"] if alike else []
    return f"the adjoint's error comes {'mostly ' if any(found.values()) else ''}{listed(parts)}"


def _arriving(here: pd.DataFrame, precision: str, found: Halves) -> str:
    """What is wrong with the adjoint, and with the states before it."""
    error, share = found
    last = series(here, STATE, precision)["inner_steps"].max()
    other = tuple(1 - share[place] for place in (0, 2, 1))
    gradient = ", which is the gradient," if (here["strength"] == 0).all() else ""
    sentence = (
        f" In {precision} the adjoint that arrives at the start of {steps(last)}{gradient} is off by "
        f"{with_interval(error, percent)}: {with_interval(share, percent)} of that comes from {HALVES[0]}, and "
        f"{with_interval(other, percent)} from {HALVES[1]}."
    )
    if last < 1:
        return sentence
    state = _median(_errors(here, STATE, precision, last))[0]
    rows = series(here, STATE_LOCAL, precision)
    alone = _median(rows.loc[rows["inner_steps"] > 0, "relative_error"])[0]
    if state != state:
        return sentence
    return sentence + f" The last state is off by {percent(state)}, where a step alone is by {percent(alone)}."


def _kinds(here: pd.DataFrame, precision: str) -> str:
    """Which kind of operation rounds most."""
    medians = {kind: _median(series(here, method, precision)["relative_error"])[0] for method, kind in KINDS.items()}
    medians = {kind: value for kind, value in medians.items() if value == value}
    together = _median(series(here, ALL_KINDS, precision)["relative_error"])[0]
    if not medians or together != together:
        return ""
    ranked = sorted(medians, key=lambda kind: -medians[kind])
    rest = [f"{kind} {percent(medians[kind])}" for kind in ranked[1:]]
    sentence = f" Rounding {ranked[0]} alone puts the gradient off by {percent(medians[ranked[0]])}"
    sentence += f" ({', '.join(rest)})" if rest else ""
    return f"{sentence}, and rounding all kinds by {percent(together)}."


def _growth(here: pd.DataFrame, names: list[str]) -> str:
    """The growth rate, and when the digits run out."""
    rate = median_interval(growth_rates(here))
    if rate[0] != rate[0]:
        return " The growth rate of the loop is not known."
    known = f"growth rate {with_interval(rate, plain)}"
    if rate[0] < 0:
        return (
            f" The loop shrinks a difference by {percent(-expm1(rate[0]))} a step ({known}), so no step is predicted "
            "at which digits run out."
        )
    last = here["inner_steps"].max()
    ends = {name: run_out(rate[0], name) for name in names}
    said = [f"{end:.0f} in {name}" for name, end in ends.items() if end is not None]
    sentence = f" The loop stretches a difference by {percent(expm1(rate[0]))} a step ({known})"
    if not said:
        return sentence + "."
    return f"{sentence}: the digits are predicted to run out at step {listed(said)}.{_measured(here, names, last)}"


def _measured(here: pd.DataFrame, names: list[str], last: float) -> str:
    """Where the states did lose their digits."""
    said = []
    for name in names:
        medians = series(here, STATE, name).groupby("inner_steps")["relative_error"].median()
        gone = medians.index[medians >= NO_DIGIT]
        said += [f"{gone.min():g} in {name}"] if len(gone) else []
    if not said:
        return f" In the {steps(last)} traced no state's median error reaches {percent(NO_DIGIT)}."
    return f" The states' median error reaches {percent(NO_DIGIT)} at step {listed(said)}."


def _lost(here: pd.DataFrame, precision: str) -> str:
    """A sentence where tasks have no number."""
    rows = here[here["precision"] == precision]
    said = [(name, *tasks_where(rows, name)) for name in ("diverged", "not finite")]
    return "".join(
        f" In {precision}, {name} in {of_tasks(hit, tasks)}. {ADVICE[name]}" for name, hit, tasks in said if hit
    )
