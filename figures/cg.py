"""Error of the implicit gradient over the iterations of conjugate gradients, at a few numbers of inner steps (Q3)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.summary import summarise
from figures.axes import ErrorScale, count_axis, epsilon_lines, error_axis, error_scale
from figures.caution import mostly_indefinite, nothing_to_compare, row_note
from figures.cg_verdicts import verdicts
from figures.lines import draw_line, draw_theory, theory_handle, warning_handles
from figures.names import TARGETS
from figures.page import Layout, blank, page, say_instead
from figures.section import Section, sections
from figures.style import drawing
from figures.table_view import cases, finest, precisions, view
from figures.wording import steps

COLUMNS = ("solver", "solver_iterations", "target", "relative_error", "min_eigenvalue")
TARGET_ORDER = ("exact_solve", "stationary", "unrolled")
BOUNDS = ("bound_cg", "bound_implicit")
SOLVERS = {
    "cg_unchecked": "CG as released: goes on past negative curvature",
    "cg": "CG that stops there (only where it differs)",
}
MARKERS = ("o", "s", "D")
SHADES = {"cg_unchecked": ("#eda27f", "#c8511b", "#7a2c0a"), "cg": ("#a3d8ef", "#3fa7d6", "#14658c")}
SIZES, WIDTHS = {"cg_unchecked": 3.8, "cg": 2.8}, {"cg_unchecked": 1.5, "cg": 0.8}  # apart in grey too
SAME = 0.01  # medians closer than this, relatively, are one line
READING = (
    "Relative error of the implicit gradient (lower is better) over the iterations of conjugate gradients (CG), in "
    "the finest arithmetic measured, at a few numbers of inner steps (marker and shade). Left: against the same "
    "formula solved exactly, the error that CG alone makes. Middle and right: against the gradients that one wants; "
    "where a line is flat, more CG does not help, because the inner loop has not converged; where it rises, more CG "
    "hurts. CG that stops at negative curvature is drawn only where it differs. Hollow markers warn that the inner "
    "Hessian has a negative eigenvalue in most tasks. Dotted grey: upper bounds from theory at the most steps drawn, "
    "for the tasks whose Hessian is positive definite (Chebyshev), and for convex problems (Grazzi et al. 2020)."
)


def drawn_steps(counts: Sequence[float]) -> list[float]:
    """At most three of the numbers of steps: few, middling, most."""
    counts = sorted(set(counts))
    return sorted({counts[len(counts) // 4], counts[len(counts) // 2], counts[-1]}) if counts else []


def chosen(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that the figure shows."""
    kept = frame["method"].isin(list(SHADES)) | frame["theory"] & frame["method"].isin(BOUNDS)
    rows = finest(frame[kept & frame["iterations"].notna()])
    few = {case: drawn_steps(counts) for case, counts in rows.groupby("case")["inner_steps"].unique().items()}
    wanted = [count in few[case] for case, count in zip(rows["case"], rows["inner_steps"], strict=True)]
    return rows[np.array(wanted, dtype=bool)]


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Median relative error and cosine of what is drawn."""
    rows = chosen(view(frame, (*COLUMNS, "cosine"), "cg"))
    keys = ["case", "target", "method", "precision", "inner_steps", "iterations"]
    return summarise(rows[~rows["theory"]], keys, ["relative_error", "cosine"])


def draw(frame: pd.DataFrame) -> Figure:
    """The figure."""
    everything = view(frame, COLUMNS, "cg")
    rows = chosen(everything)
    with drawing():
        names = cases(rows[~rows["theory"]])
        if not names:
            return blank("no implicit gradient by conjugate gradients was measured")
        keys = ["case", "target", "method", "inner_steps", "iterations"]
        table = summarise(rows, keys, ["relative_error"]).merge(mostly_indefinite(rows, keys), on=keys, how="left")
        sheet = page(len(names), Layout(columns=3, panel_height=1.5, gap=0.4, legend=0.72))
        arithmetics = precisions(rows)
        for place, case in enumerate(names):
            here = table[table["case"] == case]
            counts = drawn_steps(here["inner_steps"].tolist())
            measured = here[here["method"].isin(list(SHADES))]
            whole = everything[everything["case"] == case]
            sheet.name_row(place, case)
            sheet.note(place, row_note(whole))
            alone = measured["target"] == "exact_solve"  # reaches down to rounding, which the other two seldom do
            scales = [error_scale(measured.loc[rows_of, "relative_error"], arithmetics) for rows_of in (alone, ~alone)]
            for panel, target in zip(sheet.panels[place], TARGET_ORDER, strict=True):
                first = target == TARGET_ORDER[0]
                scale = scales[0 if first else 1]
                panel.set_title("against " + ("its exact solve" if first else f"the {TARGETS[target]}"), fontsize=7.5)
                error_axis(panel, scale)
                count_axis(panel, here["iterations"].tolist(), "CG iterations")
                epsilon_lines(panel, arithmetics, label="inside")
                shown = here[here["target"] == target]
                _lines(panel, shown, counts, scale)
                if shown.loc[shown["method"].isin(list(SHADES)), "relative_error"].isna().all():
                    say_instead(panel, nothing_to_compare(whole, target))
            sheet.panels[place][0].set_ylabel("relative error")
            _direct_steps(sheet.panels[place][-1], here, counts, scales[1])
        sheet.legend(_handles(table), 2)
        return sheet.figure


def _lines(panel: Axes, shown: pd.DataFrame, counts: list[float], scale: ErrorScale) -> None:
    by_method = {name: shown[shown["method"] == name] for name in (*SHADES, *BOUNDS)}
    for count, place in zip(counts, _places(counts), strict=True):
        released, stopping = (by_method[name][by_method[name]["inner_steps"] == count] for name in SHADES)
        for method, line in (("cg", stopping), ("cg_unchecked", released)):
            if line["relative_error"].isna().all() or (method == "cg" and not _differs(line, released)):
                continue
            draw_line(
                panel, line, "iterations", "relative_error", method, scale=scale, marker=MARKERS[place],
                color=SHADES[method][place], size=SIZES[method], width=WIDTHS[method],
            )  # fmt: skip
    for name in BOUNDS:
        line = by_method[name][by_method[name]["inner_steps"] == counts[-1]]
        if len(line):
            draw_theory(panel, line, "iterations", "relative_error", scale, bound=True)


def _places(counts: list[float]) -> list[int]:
    """The look of each: the most steps always get the darkest."""
    return list(range(len(MARKERS) - len(counts), len(MARKERS)))


def _differs(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    if one.empty or other.empty:
        return True
    both = one.merge(other, on="iterations", suffixes=("", "_other"))
    apart = (both["relative_error"] - both["relative_error_other"]).abs() > SAME * both["relative_error_other"]
    return bool(apart.any())


def _direct_steps(panel: Axes, here: pd.DataFrame, counts: list[float], scale: ErrorScale) -> None:
    """Name the number of steps at the end of each line, pushed apart where they would overlap."""
    ends = here[(here["target"] == TARGET_ORDER[-1]) & here["method"].isin(["cg_unchecked"])]
    ends = ends[ends["iterations"] == ends["iterations"].max()].dropna(subset="relative_error")
    if ends.empty:
        return
    low, high = np.log10(scale.low), np.log10(scale.high)
    heights = [(np.log10(scale.place(np.array([y]))[0]) - low) / (high - low) for y in ends["relative_error"]]
    for (_, row), height in zip(ends.iterrows(), _spread(heights, 0.075), strict=True):
        place = _places(counts)[counts.index(row["inner_steps"])]
        panel.annotate(
            steps(row["inner_steps"]).replace("inner ", ""), (1, height), xycoords="axes fraction", xytext=(5, 0),
            textcoords="offset points", va="center", fontsize=6.5, color=SHADES["cg_unchecked"][place],
            annotation_clip=False,
        )  # fmt: skip


def _spread(heights: list[float], apart: float) -> list[float]:
    """The heights moved up as little as keeps them `apart`, and inside the panel."""
    order = np.argsort(heights)
    placed = np.array(heights, dtype=float)
    for before, after in zip(order, order[1:], strict=False):
        placed[after] = max(placed[after], placed[before] + apart)
    return list(placed - max(0.0, placed.max() - 1.0)) if len(placed) else []


def _handles(table: pd.DataFrame) -> list[Artist]:
    used = {place for _, here in table.groupby("case") for place in _places(drawn_steps(here["inner_steps"].tolist()))}
    solvers = [
        Line2D([], [], color=SHADES[name][1], marker="s", label=label)
        for name, label in SOLVERS.items()
        if name in set(table["method"])
    ]
    shades = [
        Line2D(
            [],
            [],
            color=SHADES["cg_unchecked"][place],
            marker=MARKERS[place],
            label=f"{label} inner steps (labelled at the right)",
        )
        for place, label in enumerate(("few", "middling", "most"))
        if place in used
    ]
    bounds = (
        [theory_handle("bound (left: Chebyshev, middle: Grazzi)", bound=True)]
        if table["method"].isin(BOUNDS).any()
        else []
    )
    return [*solvers, *warning_handles(table, "relative_error"), *shades, *bounds]


sections.register("cg")(
    Section(
        name="cg",
        questions=("Q3",),
        title="How accurate is the implicit gradient, and how does that depend on conjugate-gradient iterations?",
        reading=READING,
        columns=COLUMNS,
        draw=draw,
        verdicts=verdicts,
        summary=summary,
        order=20,
    )
)
