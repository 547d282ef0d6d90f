"""What the split says of each problem: which part of the error is the largest, where, and which parts cancel."""

import pandas as pd

from figures.budget_view import (
    COLUMNS,
    FIRST_ORDER,
    IMPLICIT,
    TOTAL,
    UNROLLED,
    WORDS,
    Line,
    few_and_most,
    iteration_counts,
    medians,
    splits,
    target_of,
)
from figures.caution import nothing_to_compare
from figures.names import TARGETS
from figures.section import Verdict
from figures.table_view import cases, precisions, view
from figures.wording import iterations, listed, percent, steps, steps_of, with_interval


def verdicts(frame: pd.DataFrame) -> tuple[Verdict, ...]:
    """One verdict for each case."""
    everything = view(frame, COLUMNS, "budget", apart=("part",))
    everything = everything[~everything["theory"]]
    if everything.empty:
        return ()
    rows = splits(frame)
    table = medians(rows)
    return tuple(
        _verdict(case, rows[rows["case"] == case], table[table["case"] == case], everything[everything["case"] == case])
        for case in cases(everything)
    )


def _verdict(case: str, rows: pd.DataFrame, table: pd.DataFrame, everything: pd.DataFrame) -> Verdict:
    if rows.empty:
        return Verdict(case, "not measured", "No error was split into its parts.")
    target = target_of(rows)
    table = table[table["target"] == target]
    if table["largest"].isna().all():
        why = nothing_to_compare(everything, target).replace("\n", " ")
        return Verdict(case, "no number", f"No error could be split: {why}.")
    known = [name for name in precisions(rows) if table.loc[table["precision"] == name, "largest"].notna().any()]
    fine = known[0]
    sentence, answer = "", ""
    chosen = few_and_most(iteration_counts(rows))
    for number, count in enumerate(chosen):
        line = Line.of(table, IMPLICIT, fine, count)
        if not line:
            continue
        name = f"the implicit gradient with {iterations(count)}"
        sentence += _ruled(line, name, f" in {fine}, against the {TARGETS[target]}," if not sentence else "")
        sentence += _end(line) + _cancelled(line)
        answer = answer or f"implicit ({iterations(count)}, {fine}): {_runs(line)}"
        sentence += _coarser(table, known[1:], count) if number == len(chosen) - 1 else ""
    for method, name in ((UNROLLED, "the unrolled gradient"), (FIRST_ORDER, "the first-order gradient")):
        line = Line.of(table, method, fine)
        if line and (len(line.parts()) > 1 or not sentence):
            sentence += _ruled(line, name, f" in {fine}, against the {TARGETS[target]}," if not sentence else "")
            sentence += _end(line) if method == UNROLLED else ""
            answer = answer or f"{name.removeprefix('the ')} ({fine}): {_runs(line)}"
    return Verdict(case, answer, sentence.strip())


def _runs(line: Line) -> str:
    """`the unconverged inner loop up to 50 inner steps, rounding from 100 on`."""
    rulers = line.rulers()
    if len(rulers) == 1:
        return (
            f"{WORDS[next(iter(rulers))]} at every number of steps"
            if len(line.steps) > 1
            else (f"{WORDS[next(iter(rulers))]} at {steps(line.steps[0])}")
        )
    said = []
    for part, at in rulers.items():
        if at == line.steps[: len(at)] and len(at) > 1:
            said.append(f"{WORDS[part]} up to {steps(at[-1])}")
        elif at == line.steps[-len(at) :] and len(at) > 1:
            said.append(f"{WORDS[part]} from {steps(at[0])} on")
        else:
            said.append(f"{WORDS[part]} at {steps_of(at, line.steps)}")
    return listed([said[0], *(text.replace(" inner steps", "").replace(" inner step", "") for text in said[1:])])


def _ruled(line: Line, name: str, where: str) -> str:
    return f" The largest part of the error of {name}{where} is {_runs(line)}."


def _end(line: Line) -> str:
    """All parts at the most steps."""
    end = line.steps[-1]
    parts = listed([f"{WORDS[part]} {percent(line.size(part, end)[0])}" for part in line.parts()])
    return f" After {steps(end)} the error is {with_interval(line.size(TOTAL, end), percent)}: {parts}."


def _cancelled(line: Line) -> str:
    """Where parts cancel, with the place at which they do most."""
    places = line.cancelling()
    if not places:
        return ""
    worst = max(places, key=lambda count: float(line.table["times"][count]))
    largest = sorted(line.parts(), key=lambda part: -line.size(part, worst)[0])[:2]
    said = listed([f"{WORDS[part]} {percent(line.size(part, worst)[0])}" for part in largest])
    return (
        f" Parts cancel at {steps_of(places, line.steps)}: after {steps(worst)} {said} make an error of only "
        f"{percent(line.size(TOTAL, worst)[0])}, so that to mend one of them alone makes the gradient worse."
    )


def _coarser(table: pd.DataFrame, names: list[str], count: float) -> str:
    """Where rounding is the largest part in the coarser arithmetics."""
    said = []
    for name in names:
        line = Line.of(table, IMPLICIT, name, count)
        if not line:
            continue
        at = line.rulers().get("rounding", [])
        if not at:
            said.append(f"never in {name}")
        elif at == line.steps and len(at) > 1:
            said.append(f"at every number of steps in {name}")
        else:
            said.append(f"at {steps_of(at, line.steps)} in {name}")
    return f" With {iterations(count)} rounding is the largest part {listed(said)}." if said else ""
