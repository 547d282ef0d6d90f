"""What the training runs say: performance over inner steps, whether arithmetic explains it, and whether exactness does.

A difference counts only where its 95% interval over seeds, on the same tasks, leaves out 0; otherwise it is said that
it cannot be told. No sentence calls a correlation a cause.
"""

from math import isnan

import numpy as np
import pandas as pd

from analyses.seeds import over_seeds
from figures.caution import ADVICE
from figures.section import Verdict
from figures.training_arithmetic import arithmetic
from figures.training_gaps import (
    IMPLICIT_SOLVERS,
    best_of,
    clearest,
    difference_text,
    gap_text,
    implicit_line,
    judged_gaps,
    mean_text,
)
from figures.training_lines import PLAIN
from figures.training_view import Case, problems, studied
from figures.training_wording import NO_NUMBER, against
from figures.wording import listed, steps


def verdicts(frame: pd.DataFrame) -> tuple[Verdict, ...]:
    """One verdict for each case, and one for each problem without a finished run."""
    cases = studied(frame)
    found = []
    for problem in problems(frame):
        here = [case for case in cases if case.problem == problem]
        found += [_verdict(case) for case in here]
        found += [] if here else [Verdict(problem, "not trained", "No training run was tested.")]
    return tuple(found)


def _verdict(case: Case) -> Verdict:
    if case.as_trained.empty:
        return Verdict(case.name, "no answer", "No network was tested with as many inner steps as it was trained with.")
    sentence = _levels(case) + _dependence(case) + _methods(case) + arithmetic(case)[1] + _exactness(case)
    return Verdict(case.name, _answer(case), (sentence + _at_test(case) + _diverged(case)).strip())


def _answer(case: Case) -> str:
    line = implicit_line(case)
    if case.reference is None or line is None:
        best = best_of(case.as_trained, case)
        return f"{best['line']} with {steps(float(best['inner_steps']))} is the best of what was trained"
    said = judged_gaps(case, line)
    words = against(said, "MAML") if said else "was not tried where MAML was"
    if case.each["seed"].nunique() == 1:
        words = "cannot be compared with MAML by one seed"
    known = [what for _, what in said]
    if known and all(what == NO_NUMBER for what in known):
        words = "has no number to compare with MAML's"
    return f"{line.name} {words}{arithmetic(case)[0]}"


def _levels(case: Case) -> str:
    """How well each plain line does with the fewest and the most steps."""
    said = []
    for line in case.plain:
        rows = case.as_trained[case.as_trained["line"] == line.name].sort_values("inner_steps")
        if rows.empty:
            continue
        ends = [rows.iloc[0]] if len(rows) == 1 else [rows.iloc[0], rows.iloc[-1]]
        counts = [steps(float(ends[0]["inner_steps"])), *(f"{float(row['inner_steps']):g}" for row in ends[1:])]
        parts = [f"{mean_text(row, case)} at {count}" for row, count in zip(ends, counts, strict=True)]
        said.append(f"{line.name} {listed(parts)}")
    if not said:
        return ""
    seeds = int(case.each["seed"].nunique())
    over = "one seed, which shows no spread" if seeds == 1 else f"{seeds} seeds"
    return (
        f" Test {case.measure} after as many inner steps as in training (mean over {over}): {'; '.join(said)}"
        f"{_floor(case)}."
    )


def _floor(case: Case) -> str:
    said = []
    rows = case.floors[case.floors["scaling"] == PLAIN]
    untrained = rows[(rows["estimator"] == "untrained") & (rows["test_steps"] == case.steps[-1])]
    nearest = rows[rows["estimator"] == "nearest_neighbour"]
    if len(untrained):
        said.append(f"the untrained network {mean_text(untrained.iloc[0], case)} at {case.steps[-1]:g}")
    if len(nearest) and case.measure == "accuracy":
        said.append(f"nearest neighbours {mean_text(nearest.iloc[0], case)}")
    return f" ({listed(said)})" if said else ""


def _dependence(case: Case) -> str:
    """How much more inner steps change, for plain MAML and each implicit line."""
    lines = [line for line in case.plain if line is case.reference or line.method in IMPLICIT_SOLVERS]
    said = []
    for line in lines:
        each = case.each[(case.each["line"] == line.name) & (case.each["test_steps"] == case.each["inner_steps"])]
        counts = sorted(set(each["inner_steps"]))
        if len(counts) < 2:
            continue
        grid = each.pivot_table(index="seed", columns="inner_steps", values=case.measure, aggfunc="first", dropna=False)
        change = (grid[counts[-1]] - grid[counts[0]]).to_frame("change").assign(all=0)
        mean, half = over_seeds(change, ["all"], ["change"]).iloc[0][["change", "change_half"]]
        told = "" if abs(mean) > half or isnan(half) else " (cannot be told from 0)"
        said.append(f"{line.name} by {difference_text(mean, half, case)}{told}")
    if not said:
        return ""
    return f" From {case.steps[0]:g} to {steps(case.steps[-1])} it changes for {'; for '.join(said)}."


def _methods(case: Case) -> str:
    """Each other plain line against MAML."""
    if case.reference is None:
        return ""
    said = []
    for line in case.plain:
        found = judged_gaps(case, line)
        if line is case.reference or not found:
            continue
        found_at = clearest(case.gaps[case.gaps["line"] == line.name], case)
        words = against(found, "MAML")
        if not words or found_at is None:
            said.append(f"{line.name} has no number to compare with")
            continue
        where = f"{gap_text(found_at, case)} at {float(found_at['inner_steps']):g}"
        said.append(f"{line.name} {words} ({where})")
    return f" On the same seeds and tasks, {'; '.join(said)}." if said else ""


def _exactness(case: Case) -> str:
    """The rank correlations of exactness and performance."""
    if case.exactness.empty:
        return " The gradients were not probed along training."
    parts = []
    for within, where in ((True, "among methods with equal inner steps"), (False, "among all settings")):
        mean, half = case.correlation(within=within)
        if isnan(mean):
            continue
        low, high = max(mean - half, -1.0), min(mean + half, 1.0)
        interval = "" if isnan(half) else f" [{low:.2f}, {high:.2f}]"
        unclear = "; cannot be told from 0" if not abs(mean) > half else ""
        parts.append(f"{mean:.2f}{interval} {where}{unclear}")
    if not parts:
        return " Too few settings differ in the exactness of their gradients for a correlation with performance."
    return (
        f" Rank correlation of the gradient's exactness along training with performance: {', and '.join(parts)} (1: "
        "the more exact, the better; it does not tell a cause)."
    )


def _at_test(case: Case) -> str:
    """With how many steps at test each number in training does best, for MAML and the implicit line."""
    said = []
    for line in [line for line in (case.reference, implicit_line(case)) if line is not None]:
        rows = case.tests[case.tests["line"] == line.name]
        rows = rows[np.isfinite(rows[case.measure].to_numpy(dtype=float))]
        if rows["test_steps"].nunique() < 2:
            continue
        best = best_of(rows, case)
        fewest = best_of(rows[rows["inner_steps"] == rows["inner_steps"].min()], case)
        told = f"{line.name} is best trained with {float(best['inner_steps']):g} and tested with "
        told += f"{float(best['test_steps']):g} ({mean_text(best, case)})"
        if fewest["inner_steps"] != best["inner_steps"]:
            told += f", and trained with {float(fewest['inner_steps']):g} it is best tested with "
            told += f"{float(fewest['test_steps']):g} ({mean_text(fewest, case)})"
        said.append(told)
    return f" With other numbers of inner steps at test, {'; '.join(said)}." if said else ""


def _diverged(case: Case) -> str:
    runs = case.each.drop_duplicates(["line", "inner_steps", "seed"])
    said = [
        f"{int(rows['diverged'].sum())} of {len(rows)} runs of {name}"
        for name, rows in runs.groupby("line", sort=False)
        if rows["diverged"].any()
    ]
    sentence = f" Diverged: {listed(said)}; they count with their best theta of before." if said else ""
    own = case.each[(case.each["test_steps"] == case.each["inner_steps"]) & (case.each["lost"] > 0)]
    if len(own):
        lost = own.groupby("line", sort=False)["lost"].sum()
        which = listed([f"{int(count)} of {name}" for name, count in lost.items()])
        counts = "counts as wrong" if case.measure == "accuracy" else "has an infinite loss"
        sentence += f" The loop diverged in test tasks ({which}); such a task {counts}. {ADVICE['diverged']}"
        sentence += "" if sentence.endswith(".") else "."
    return sentence
