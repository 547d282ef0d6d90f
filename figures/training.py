"""What training with each meta-gradient comes to, over inner steps in training and at test time (Q2, Q4, Q5)."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.axes import count_axis
from figures.page import Layout, Page, blank, page, say_instead
from figures.section import Picture, Section, sections
from figures.style import GREY, drawing
from figures.training_axes import draw_floor, draw_means, floor_handles, line_handles, remark, shares
from figures.training_curves import CURVES
from figures.training_exactness import EXACTNESS
from figures.training_scales import Performance, difference_axis, performance, performance_axis
from figures.training_table import basis, summary, told
from figures.training_verdicts import verdicts
from figures.training_view import COLUMNS, Case, line_rows, studied

COLUMNS_OF_PANELS = 3
READING = (
    "Performance on the test tasks (loss, lower is better; accuracy where there are classes, higher is better) with "
    "bars of 95% intervals, which are moved apart a little. First row of a problem: as many inner steps at test as in "
    "training; left the methods, middle what arithmetic and rescaling change, right each line less MAML on the same "
    "seeds and tasks, where a bar that crosses 0 cannot tell the two apart (losses in percent of MAML's, accuracies in "
    "points of percent; where some are large, beyond 10% on a logarithm). Below: the same networks with other numbers "
    "of inner steps at test, a panel for each number in training (the dotted line). Long dashes: the untrained network "
    "after the same steps. Every interval is at 95% by itself, so that one in twenty misses by chance."
)


def draw(frame: pd.DataFrame) -> Figure:
    """The figure."""
    cases = studied(frame)
    with drawing():
        if not cases:
            return blank("no training run was tested")
        handles = [*line_handles(cases), *floor_handles(cases)]
        rows = [(case, kind) for case in cases for kind in range(1 + -(-len(case.steps) // COLUMNS_OF_PANELS))]
        sheet = page(
            len(rows), Layout(columns=COLUMNS_OF_PANELS, right=0.16, legend=0.2 + 0.165 * -(-len(handles) // 3))
        )
        for place, (case, kind) in enumerate(rows):
            panels = sheet.panels[place]
            if kind == 0:
                _head(sheet, place, case)
            else:
                _at_test(panels, case, case.steps[(kind - 1) * COLUMNS_OF_PANELS : kind * COLUMNS_OF_PANELS])
        sheet.legend(handles, 3)
        return sheet.figure


def _head(sheet: Page, place: int, case: Case) -> None:
    sheet.name_row(place, case.name)
    sheet.note(place, remark(case))
    methods, variants, gaps = sheet.panels[place]
    shown = case.as_trained
    scale = performance(case, [*_ends(shown, case), *_floor(case)])
    for panel, lines, title in (
        (methods, case.plain, "as many steps at test as in training"),
        (variants, [*_originals(case), *case.variants], "other arithmetic or rescaling"),
    ):
        panel.set_title(title, fontsize=7.5)
        count_axis(panel, case.steps, "inner steps")
        performance_axis(panel, scale, label=f"test {case.measure}" if panel is methods else "")
        drawn = [line for line in lines if len(line_rows(shown, line, "inner_steps"))]
        if not drawn or (panel is variants and not case.variants):
            say_instead(panel, "none was tried" if panel is variants else "never tested with\nits own number of steps")
            continue
        draw_floor(panel, case, "inner_steps", scale)
        for count, line in enumerate(drawn):
            draw_means(panel, line_rows(shown, line, "inner_steps"), "inner_steps", case.measure, line, case, scale,
                       (count, len(drawn)), alone=len(case.steps) == 1)  # fmt: skip
    _gaps(gaps, case)


def _originals(case: Case) -> list:
    """The plain lines of the methods that have variants."""
    methods = {line.method for line in case.variants}
    return [line for line in case.plain if line.method in methods]


def _gaps(panel: Axes, case: Case) -> None:
    lines = [line for line in case.lines if len(line_rows(case.gaps, line, "inner_steps"))]
    percent = "" if case.measure == "accuracy" else ", in % of it"
    panel.set_title(f"less the {case.measure} of MAML{percent}", fontsize=7.5)
    count_axis(panel, case.steps, "inner steps")
    table = shares(case.gaps, case, case.measure)
    ends = np.concatenate([table[case.measure] + sign * table[f"{case.measure}_half"].fillna(0.0) for sign in (-1, 1)])
    real = ends[np.isfinite(ends)]
    if not lines or not real.size:
        say_instead(panel, "no MAML\nto compare with" if case.reference is None else "nothing to compare")
        return
    difference_axis(panel, ends)
    for count, line in enumerate(lines):
        draw_means(panel, line_rows(table, line, "inner_steps"), "inner_steps", case.measure, line, case, None,
                   (count, len(lines)), alone=len(case.steps) == 1)  # fmt: skip


def _at_test(panels: list[Axes], case: Case, steps: list[float]) -> None:
    """A panel for each number of steps in training, all on one scale."""
    names = [line.name for line in case.plain]
    scale = performance(case, _ends(case.tests[case.tests["line"].isin(names)], case))
    for place, panel in enumerate(panels):
        if place >= len(steps):
            panel.set_axis_off()
            continue
        _of_steps(panel, case, steps[place], scale, first=place == 0)


def _of_steps(panel: Axes, case: Case, steps: float, scale: Performance, *, first: bool) -> None:
    here = case.tests[case.tests["inner_steps"] == steps]
    panel.set_title(f"trained with {steps:g} step" + ("" if steps == 1 else "s"), fontsize=7.5)
    count_axis(panel, sorted(set(case.tests["test_steps"])), "inner steps at test")
    performance_axis(panel, scale, label=f"test {case.measure}" if first else "")
    panel.axvline(steps, color=GREY, linewidth=0.7, linestyle=(0, (1, 1.5)), zorder=0.9)
    draw_floor(panel, case, "test_steps", scale)
    lines = [line for line in case.plain if len(line_rows(here, line, "test_steps"))]
    for count, line in enumerate(lines):
        draw_means(panel, line_rows(here, line, "test_steps"), "test_steps", case.measure, line, case, scale,
                   (count, len(lines)))  # fmt: skip


def _ends(table: pd.DataFrame, case: Case) -> np.ndarray:
    """The means, and those ends of their intervals that are not far off: a wide one must not flatten all else."""
    middle, half = (table[case.measure + end].to_numpy(dtype=float) for end in ("", "_half"))
    low, high = middle - half, middle + half
    if case.measure == "loss" and len(middle) and (middle > 0).all() and np.isfinite(middle).any():
        low = np.where(low > 0.5 * np.nanmin(middle), low, np.nan)
        high = np.where(high < 2 * np.nanmax(np.where(np.isinf(middle), np.nan, middle)), high, np.nan)
    return np.concatenate([middle, low, high])


def _floor(case: Case) -> list[float]:
    rows = case.floors[case.floors["test_steps"].isin(case.steps) | case.floors["test_steps"].isna()]
    return rows[case.measure].dropna().tolist()


sections.register("training")(
    Section(
        name="training",
        questions=("Q2", "Q4", "Q5"),
        title="Does a more exact gradient train a better model?",
        reading=READING,
        columns=COLUMNS,
        draw=draw,
        verdicts=verdicts,
        summary=summary,
        order=70,
        further=(Picture("exactness", *EXACTNESS), Picture("curves", *CURVES)),
        basis=basis,
        told=told,
    )
)
