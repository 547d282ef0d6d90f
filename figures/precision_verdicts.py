"""What the precision table says: how large rounding errors are, where digits run out, and whether it matters."""

from collections.abc import Hashable, Mapping
from math import isnan, log
from typing import Any

import pandas as pd

from figures.caution import ADVICE, tasks_where
from figures.precision_shares import explained, in_turn, on, stationary
from figures.reasons import warning
from figures.rounding_view import IMAML, MAML, MODEL, ROUNDING, Case, study
from figures.section import Verdict
from figures.table_view import EPSILON, finest
from figures.wording import first, iterations, listed, of_tasks, percent, plain, steps

LOST = 0.5  # a relative error that leaves no digit
MANY = 1e6  # beyond so many units the number of units tells nothing
TELLING = 2.0  # a change by less than this factor is none to speak of
FINE = ("extended", "float64")
FAILED = (
    ("diverged", MAML, "inner loop overflows"),
    ("not finite", MAML, "gradient of MAML overflows"),
    ("not finite", IMAML, "gradient of iMAML overflows"),
    ("underflow", MAML, "gradient of MAML underflows"),
)


def verdicts(frame: pd.DataFrame) -> tuple[Verdict, ...]:
    """One verdict for each case."""
    return tuple(_verdict(case) for case in Case.all(study(frame, "precision")))


def _verdict(case: Case) -> Verdict:
    if not case.arithmetics:
        return Verdict(case.name, "not measured", "No rounding error was measured.")
    if not case.lines(MAML):
        hit, tasks = tasks_where(case.rows[case.rows["method"] == MAML], "diverged")
        why = f" The inner loop diverged in {of_tasks(hit, tasks)}. {ADVICE['diverged']}" if hit else ""
        return Verdict(case.name, "no number", f"MAML's gradient has no rounding error to report.{why}")
    answer, shares = explained(case)
    sentence = _sizes(case) + _growth(case) + _run_out(case) + _failed(case) + shares
    return Verdict(case.name, answer or _alone(case), (sentence + stationary(case) + _trust(case)).strip())


def _sizes(case: Case) -> str:
    """The worst rounding errors over all numbers of steps."""
    sentence = f" Rounding alone moves MAML's gradient {_worst(case.lines(MAML))}"
    other = case.lines(IMAML)
    if other:
        most = case.rows.loc[case.rows["method"] == IMAML, "iterations"].max()
        noted = warning(case.ends, max(line.index[-1] for line in other.values()))
        sentence += f", and iMAML's ({iterations(most)}) {_worst(other)}{noted}"
    return sentence + "."


def _worst(lines: dict[str, pd.Series]) -> str:
    worst = {name: float(line.max()) for name, line in lines.items()}
    units = {
        name: f" ({plain(error / EPSILON[name])} eps)"
        for name, error in worst.items()
        if error < MANY * EPSILON.get(name, 0)
    }
    small = [f"{percent(error)}{units.get(name, '')} in {name}" for name, error in worst.items() if error < 1]
    large = [name for name, error in worst.items() if error >= 1]
    said = [f"by at most {listed(small)}"] if small else []
    return listed([*said, *([f"by its own length or more in {listed(large)}"] if large else [])])


def _growth(case: Case) -> str:
    """How the error grows with the number of steps, in the usual arithmetic."""
    line, model = case.line(MAML, ROUNDING, case.usual), case.line(MODEL, ROUNDING, case.usual)
    if len(line) < 2:
        return ""
    start, end = line.index[0], line.index[-1]
    expected = f"; the model from the loop's growth rate gives {_part(model[end])}" if end in model else ""
    moves = "grows" if line[end] > TELLING * line[start] else "shrinks" if TELLING * line[end] < line[start] else "goes"
    return (
        f" MAML's in {case.usual} {moves} from {percent(line[start])} after {steps(start)} to {_part(line[end])} "
        f"after {end:g}{expected}."
    )


def _part(error: float) -> str:
    return percent(error) if error < 1 else "all of it"


def _run_out(case: Case) -> str:
    """Where MAML's digits run out, and where the growth rate of the loop says that they should."""
    sentence = ""
    for name, line in case.lines(MAML, "moved").items():
        start, predicted = _lost(line), _predicted(case, name)
        if start is not None:
            sentence += (
                f" In {name} no digit of it is left {on(start, line)}; {predicted or 'the model expects it later'}."
            )
        elif "growth rate" in predicted:
            sentence += f" In {name} digits are left after {steps(line.index[-1])}, although {predicted}."
    return sentence


def _predicted(case: Case, name: str) -> str:
    """When theory has the digits run out; empty where that is later than any loop that was run."""
    model = case.line(MODEL, ROUNDING, name)
    rate = case.line(MODEL, ROUNDING, name, "growth_rate").max()
    if rate > 0 and name in EPSILON:
        there = log(2 / EPSILON[name]) / rate
        near = there <= model.index.max()
        return f"the growth rate of {plain(rate)} a step predicts it at step {there:.0f}" if near else ""
    start = _lost(model)
    return "" if start is None else f"the model expects it {on(start, model)}"


def _lost(line: pd.Series) -> float | None:
    """The number of steps from which on no digit is left."""
    place = first((line > LOST).tolist())
    return None if place is None else float(line.index[place])


def _failed(case: Case) -> str:
    """Overflow and underflow, by arithmetic."""
    sentence = ""
    for kind, method, what in FAILED:
        failed = case.failed[(case.failed["method"] == method) & (case.failed["outcome"] == kind)]
        said = [
            _hit(row) for name in case.arithmetics for row in failed[failed["precision"] == name].to_dict("records")
        ]
        if not said:
            continue
        sentence += f" The {what} {listed(said)}."
        ours = finest(case.rows[~case.rows["theory"] & (case.rows["method"] == method)])
        if ours["precision"].isin(FINE).all() and tasks_where(ours, kind)[0] >= failed["hit"].max():
            sentence += " It does so in the finest arithmetic too, and more digits are no remedy."
        sentence += f" {ADVICE[kind]}"
    return sentence


def _hit(found: Mapping[Hashable, Any]) -> str:
    where = f"in {found['precision']} in {of_tasks(found['hit'], found['tasks'])}, from {steps(found['loop'])} on"
    if isnan(found["step"]):
        return where
    return (
        f"{where} (at step {found['step']:g}{' of the way there or back' if found['outcome'] == 'underflow' else ''})"
    )


def _alone(case: Case) -> str:
    """The answer where there is no difference between the methods to speak of."""
    lines = case.lines(MAML, "moved")
    lost = {name: _lost(line) for name, line in lines.items()}
    gone = in_turn({name: on(start, lines[name]) for name, start in lost.items() if start is not None})
    kept = [f"{percent(lines[name].max())} in {name}" for name, start in lost.items() if start is None]
    said = [f"no digit of MAML's gradient is left {listed(list(gone.values()))}"] if gone else []
    return "; ".join([*said, *([f"rounding moves MAML's gradient by at most {listed(kept)}"] if kept else [])])


def _trust(case: Case) -> str:
    """What the references are, and how many errors they cannot tell."""
    errors = case.rows[case.rows["target"].eq(ROUNDING) & ~case.rows["theory"]]
    untold = int(errors["untold"].sum())
    sentence = f" Exact arithmetic is {case.exact} here" if case.exact else ""
    if untold:
        sentence += (
            f"; {untold} of {len(errors)} rounding errors are too small for it to tell, and only their size counts"
        )
    return sentence + "." if sentence else ""
