"""How far the inner loop has come and what its Hessian is like, beside the error of the implicit gradient (Q8)."""

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from analyses.summary import summarise
from figures.axes import count_axis, error_axis, error_scale
from figures.caution import mostly_indefinite, row_note
from figures.curvature_verdicts import verdicts
from figures.ends import ends
from figures.lines import draw_line, warning_handles
from figures.page import Layout, blank, page, say_instead
from figures.section import Section, sections
from figures.style import GREY, drawing, look
from figures.table_view import cases, finest, view

COLUMNS = (
    "solver", "solver_iterations", "target", "relative_error", "stationarity", "min_eigenvalue", "max_eigenvalue",
)  # fmt: skip
SMALLEST, LARGEST, NEUTRAL = "#c8511b", "#1f4e79", "#333333"
ERRORS = {"unrolled": ("#4b1d91", "D"), "stationary": ("#3fa7d6", "o")}
READING = (
    "Where the inner loop ended after each number of steps. First column: norm of the inner gradient relative to its "
    "first (0 at a minimiser). Second: smallest and largest eigenvalue of the inner Hessian, medians over tasks; "
    "below the zero line the point is no minimum, and above the dashed line (2 divided by the inner step) gradient "
    "descent is unstable. Third: in how many tasks the Hessian is indefinite, and in how many conjugate gradients "
    "(CG) met negative curvature. Fourth: relative error of the implicit gradient with its system solved exactly "
    "(lower is better); hollow where most tasks are indefinite."
)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """What was measured at the ends of the loops, with the counts."""
    return ends(view(frame, COLUMNS, "curvature")).drop(columns=["warned", "unfinished"])


def draw(frame: pd.DataFrame) -> Figure:
    """The figure."""
    rows = view(frame, COLUMNS, "curvature")
    rows = finest(rows[~rows["theory"]])
    with drawing():
        names = cases(rows)
        if not names:
            return blank("no inner loop was measured")
        at_ends = ends(rows)
        exact = rows[(rows["method"] == "exact") & rows["target"].isin(list(ERRORS))]
        keys = ["case", "target", "inner_steps"]
        errors = summarise(exact, keys, ["relative_error"]).merge(mostly_indefinite(exact, keys), on=keys)
        sheet = page(len(names), Layout(columns=4, panel_height=1.25, left=0.45, right=0.1, gap=0.44, legend=0.6))
        for place, case in enumerate(names):
            sheet.name_row(place, case)
            here = at_ends[at_ends["case"] == case]
            sheet.note(place, row_note(rows[rows["case"] == case]))
            stationarity, eigenvalues, share, error = sheet.panels[place]
            for panel, title in zip(
                sheet.panels[place],
                ("inner gradient / its first", "Hessian eigenvalues", "share of tasks", "relative error, implicit"),
                strict=True,
            ):
                panel.set_title(title, fontsize=7.5)
                count_axis(panel, here["inner_steps"].tolist(), "inner steps")
            _stationarity(stationarity, here)
            _eigenvalues(eigenvalues, here, rows.loc[rows["case"] == case])
            _share(share, here)
            _errors(error, errors[errors["case"] == case])
        sheet.legend([*_handles(), *warning_handles(errors, "relative_error")], 3)
        return sheet.figure


def _stationarity(panel: Axes, here: pd.DataFrame) -> None:
    scale = error_scale(here["stationarity"])
    error_axis(panel, scale)
    if here["stationarity"].isna().all():
        say_instead(panel, "not a number")
    draw_line(panel, here, "inner_steps", "stationarity", "", scale=scale, marker="o", color=NEUTRAL)


def _eigenvalues(panel: Axes, here: pd.DataFrame, rows: pd.DataFrame) -> None:
    every = here[["min_eigenvalue", "min_eigenvalue_low", "max_eigenvalue", "max_eigenvalue_high"]].to_numpy().ravel()
    sizes = np.abs(every[np.isfinite(every) & (every != 0)])
    if not sizes.size:
        panel.set_yticks([])
        say_instead(panel, "not measured")
        return
    start = 10.0 ** np.floor(np.log10(sizes.min()))
    start = max(start, sizes.max() / 1e4)
    panel.set_yscale("symlog", linthresh=start, linscale=0.6)
    step = rows["inner_lr"].dropna().unique() if "inner_lr" in rows else []
    limit = 2 / step[0] if len(step) == 1 and step[0] > 0 else np.nan
    top = max(np.nanmax(every), limit if limit < 30 * np.nanmax(every) else 0) * 2
    bottom = min(np.nanmin(every) * 2, -start / 2)
    panel.set_ylim(bottom, top)
    panel.yaxis.set_major_locator(FixedLocator(_apart(panel, start, bottom, top)))
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}"))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.axhspan(bottom, 0, color="#f3e3da", zorder=0.2, linewidth=0)
    panel.axhline(0, color=GREY, linewidth=0.8, zorder=0.6)
    if limit < top:
        panel.axhline(limit, color=GREY, linewidth=0.9, linestyle=(0, (4, 2)), zorder=0.6)
    for name, color, marker in (("max_eigenvalue", LARGEST, "^"), ("min_eigenvalue", SMALLEST, "v")):
        draw_line(panel, here, "inner_steps", name, "", marker=marker, color=color)


def _apart(panel: Axes, start: float, bottom: float, top: float) -> list[float]:
    """Ticks at 0 and at powers of ten, the largest first, as many as their labels leave room for."""
    decades = 10.0 ** np.arange(np.floor(np.log10(max(top, -bottom))), np.log10(start) - 0.5, -1)
    wanted = [tick for tick in (0.0, *(sign * size for size in decades for sign in (1, -1))) if bottom <= tick <= top]
    forward = panel.yaxis.get_transform().transform
    low, high = forward(np.array([bottom, top]))
    ticks: list[float] = []
    for tick in wanted:
        spot = forward(np.array([tick]))[0]
        if all(abs(spot - forward(np.array([other]))[0]) > 0.11 * (high - low) for other in ticks):
            ticks.append(float(tick))
    return sorted(ticks)


def _share(panel: Axes, here: pd.DataFrame) -> None:
    panel.set_ylim(0, 1)
    panel.set_yticks([0, 0.5, 1], ["0", "50%", "100%"])
    # The two mostly agree: the second lies, smaller, on the first.
    for name, color, marker, size in (("indefinite", SMALLEST, "v", 6.5), ("broke_down", look("cg").color, "s", 2.6)):
        known = here["tasks"] - here["min_eigenvalue_missing"]
        share = (here[name] / known).where(known > 0)
        table = here.assign(**{name: share, f"{name}_low": share, f"{name}_high": share})
        draw_line(panel, table, "inner_steps", name, "", marker=marker, color=color, size=size)


def _errors(panel: Axes, here: pd.DataFrame) -> None:
    scale = error_scale(here["relative_error"])
    error_axis(panel, scale)
    if here["relative_error"].isna().all():
        say_instead(panel, "no number")
    for target, (color, marker) in ERRORS.items():
        line = here[here["target"] == target]
        if len(line):
            draw_line(panel, line, "inner_steps", "relative_error", "", scale=scale, marker=marker, color=color)


def _handles() -> list[Artist]:
    entries = (
        (LARGEST, "^", "largest eigenvalue"),
        (SMALLEST, "v", "smallest; share: indefinite"),
        (look("cg").color, "s", "share: CG met negative curvature"),
        (ERRORS["unrolled"][0], ERRORS["unrolled"][1], "error to the unrolled gradient"),
        (ERRORS["stationary"][0], ERRORS["stationary"][1], "error to the stationary gradient"),
    )
    limit = Line2D([], [], color=GREY, linestyle=(0, (4, 2)), label="2 / inner step: limit of stability")
    lines = [Line2D([], [], color=color, marker=marker, label=label) for color, marker, label in entries]
    return [*lines, limit]


sections.register("curvature")(
    Section(
        name="curvature",
        questions=("Q8",),
        title="When does the implicit formula not apply?",
        reading=READING,
        columns=COLUMNS,
        draw=draw,
        verdicts=verdicts,
        summary=summary,
        order=80,
    )
)
