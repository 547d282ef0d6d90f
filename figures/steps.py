"""Error of every meta-gradient over the number of inner steps, against both exact gradients (Q3)."""

import pandas as pd
from matplotlib.figure import Figure

from analyses.summary import summarise
from figures.axes import count_axis, epsilon_lines, error_axis, error_scale
from figures.caution import mostly_indefinite, nothing_to_compare, row_note
from figures.lines import (
    draw_line,
    draw_theory,
    method_handles,
    precision_handles,
    theory_handle,
    warning_handles,
)
from figures.names import TARGETS
from figures.page import Layout, blank, page, say_instead
from figures.section import Section, sections
from figures.steps_verdicts import verdicts
from figures.style import drawing
from figures.table_view import cases, finest, iteration_counts, precisions, view

COLUMNS = ("solver", "solver_iterations", "target", "relative_error", "min_eigenvalue")
DRAWN = ("first_order", "exact", "cg_unchecked", "unrolled_adjoint", "unrolled")  # the last is on top
SIZES = {"unrolled_adjoint": 5.6}  # it lies under `unrolled` where the two agree
TARGET_ORDER = ("unrolled", "stationary")
THEORY = {"predicted_unrolled": False, "predicted_implicit": False, "bound_unrolled": True}  # whether it is a bound
READING = (
    "Relative error of each meta-gradient (lower is better) over the number of inner steps: on the left against the "
    "exact derivative of the algorithm with that many steps, on the right against the exact derivative of the "
    "minimiser. An error of exactly 0, which the arithmetic of the reference itself has, is drawn on the line at the "
    "bottom, one too large for the scale on its upper edge (over). Hollow markers warn that the inner Hessian has a "
    "negative eigenvalue in most tasks, so that the implicit formula does not apply. Grey lines are theory, not "
    "measurements: dashed where it is exact (quadratic problems), dotted for the upper bound of Grazzi et al. (2020) "
    "for convex ones."
)


def chosen(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that the figure shows: of the CG runs those with a middling number of iterations."""
    usual = frame["method"].isin(DRAWN) & (frame["method"].ne("cg_unchecked") | frame["iterations"].eq(middling(frame)))
    return frame[(usual | frame["method"].isin(THEORY)) & frame["target"].isin(TARGET_ORDER)]


def middling(frame: pd.DataFrame) -> int:
    """The number of CG iterations whose line is drawn: the middling one of those that every case was run with."""
    each = [set(iteration_counts(rows)) for _, rows in frame.groupby("case")]
    shared = sorted(set.intersection(*[counts for counts in each if counts] or [set()])) or iteration_counts(frame)
    return shared[len(shared) // 2] if shared else -1


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Median relative error and cosine of what is drawn."""
    rows = chosen(view(frame, (*COLUMNS, "cosine"), "steps"))
    keys = ["case", "target", "method", "precision", "iterations", "inner_steps"]
    return summarise(rows[~rows["theory"]], keys, ["relative_error", "cosine"])


def draw(frame: pd.DataFrame) -> Figure:
    """The figure."""
    everything = view(frame, COLUMNS, "steps")
    rows = chosen(everything)
    with drawing():
        names = cases(rows)
        if not names:
            return blank("no meta-gradient was measured")
        keys = ["case", "target", "method", "precision", "inner_steps"]
        table = summarise(rows, keys, ["relative_error"]).merge(mostly_indefinite(rows, keys), on=keys, how="left")
        sheet = page(len(names), Layout(columns=2, gap=1.0, legend=0.75))
        arithmetics = precisions(rows)
        for place, case in enumerate(names):
            sheet.name_row(place, case)
            here = table[table["case"] == case]
            measured = here[~here["method"].isin(THEORY)]
            sheet.note(place, row_note(everything[everything["case"] == case]))
            for panel, target in zip(sheet.panels[place], TARGET_ORDER, strict=True):
                ours = measured.loc[measured["target"] == target, ["relative_error", "relative_error_high"]]
                scale = error_scale(ours.to_numpy().ravel(), arithmetics)
                panel.set_title(f"against the {TARGETS[target]}", fontsize=7.5)
                error_axis(panel, scale)
                count_axis(panel, here["inner_steps"].tolist(), "inner steps")
                epsilon_lines(panel, arithmetics, label="outside")
                shown = here[here["target"] == target]
                _lines(panel, shown[~shown["method"].isin(THEORY)], scale, precisions(measured))
                _theory(panel, finest(shown[shown["method"].isin(THEORY)]), scale)
                if shown["relative_error"].isna().all():
                    say_instead(panel, nothing_to_compare(everything[everything["case"] == case], target))
            sheet.panels[place][0].set_ylabel("relative error")
        present = [name for name in DRAWN[::-1] if name in set(rows["method"])]
        more = {"cg_unchecked": f", {middling(everything)} iterations"}
        handles = [
            *method_handles(present, more),
            *precision_handles(arithmetics),
            *warning_handles(table, "relative_error"),
        ]
        drawn = set(rows["method"])
        if drawn & {"predicted_unrolled", "predicted_implicit"}:
            handles.append(theory_handle("theory (exact for quadratics)", bound=False))
        if "bound_unrolled" in drawn:
            handles.append(theory_handle("bound on unrolled (Grazzi)", bound=True))
        sheet.legend(handles, 3)
        return sheet.figure


def _lines(panel, shown: pd.DataFrame, scale, arithmetics: list[str]) -> None:
    """The case's lines; those of its finest arithmetic have the markers, with their warnings, and the intervals."""
    for method in DRAWN:
        for precision in arithmetics:
            line = shown[(shown["method"] == method) & (shown["precision"] == precision)]
            if not line["relative_error"].isna().all():
                plain = precision != arithmetics[0]
                draw_line(
                    panel,
                    line,
                    "inner_steps",
                    "relative_error",
                    method,
                    precision,
                    scale=scale,
                    plain=plain,
                    size=SIZES.get(method),
                )


def _theory(panel, shown: pd.DataFrame, scale) -> None:
    for method, bound in THEORY.items():
        line = shown[shown["method"] == method]
        if len(line):
            draw_theory(panel, line, "inner_steps", "relative_error", scale, bound=bound)


sections.register("steps")(
    Section(
        name="steps",
        questions=("Q3",),
        title="How accurate is each meta-gradient, and how does that depend on the number of inner steps?",
        reading=READING,
        columns=COLUMNS,
        draw=draw,
        verdicts=verdicts,
        summary=summary,
        order=10,
    )
)
