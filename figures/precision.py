"""Rounding errors of MAML and iMAML over inner steps in every arithmetic, beside how far the two are apart (Q1, Q2)."""

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.axes import ErrorScale, count_axis, epsilon_lines, error_axis, error_scale
from figures.caution import mostly_indefinite, nothing_to_compare, row_note
from figures.lines import draw_line, draw_theory, theory_handle, warning_handles
from figures.names import printable
from figures.page import Layout, Page, blank, page, say_instead
from figures.precision_verdicts import verdicts
from figures.rounding_view import (
    CELL,
    COLUMNS,
    DIFFERENCE,
    IMAML,
    MAML,
    MODEL,
    NAMES,
    ROUNDING,
    STATIONARY,
    coarsest_first,
    failures,
    medians,
    one_of_each_epsilon,
    study,
)
from figures.section import Section, sections
from figures.style import INK, arithmetic_color, dash, drawing, look
from figures.table_view import cases, precisions

DEEPEST = 1e-17  # what falls deeper than any rounding error leaves a panel at the bottom
PALE = 0.35  # of the wide lines in exact arithmetic, on which the others lie
SIZES = {"float64": 2.2, "float32": 2.8, "float16": 3.4, "bfloat16": 4.2}
FARTHEST = 10.0  # a rounding error beyond says no more than that no digit is left
MARKS = {"diverged": ("x", "overflow"), "not finite": ("x", "overflow"), "underflow": ("1", "underflow")}
READING = (
    "Left: distance to the stationary gradient, the exact derivative of the minimiser, of MAML (squares) and iMAML "
    "(triangles, with the most CG iterations measured) over the number of inner steps, in each arithmetic (colour and "
    "dash) and in exact arithmetic (wide and pale). Where all lines of a method lie on each other, more digits change "
    "nothing. Middle and right: rounding alone, that is the distance of each gradient to the same one in exact "
    "arithmetic, relative to it. The thick black line is how far MAML and iMAML are apart in exact arithmetic: where "
    "a coloured line comes within two decades of it, rounding explains a visible part (1%) of that. Dashed grey: what "
    "the growth rate of the loop predicts, up to constants. Exact arithmetic is extended precision, or float64 where "
    "that was out of reach. Hollow markers warn that the inner Hessian has a negative eigenvalue in most tasks."
)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Median errors, and the shares of the MAML-iMAML difference that they make up."""
    table = medians(study(frame, "precision"))
    shares = {f"share{end}": f"share_of_difference{end}" for end in ("", "_low", "_high")}
    errors = [f"relative_error{end}" for end in ("", "_low", "_high", "_missing")]
    names = [name for name in CELL if name != "exact"] + ["rows", "warned", "unfinished", *errors, *shares]
    return table.loc[table["method"] != MODEL, names].rename(columns=shares)


def draw(frame: pd.DataFrame) -> Figure:
    """The figure."""
    rows = study(frame, "precision")
    arithmetics = coarsest_first(rows)
    with drawing():
        names = cases(rows[rows["precision"].isin(arithmetics) & rows["target"].eq(ROUNDING) & ~rows["theory"]])
        if not names:
            return blank("no rounding error was measured")
        table = medians(rows).merge(mostly_indefinite(rows, CELL), on=CELL, how="left")
        failed = failures(rows).query("2 * hit > tasks")
        handles = _handles(rows[rows["case"].isin(names)], table, failed)
        sheet = page(
            len(names), Layout(columns=3, panel_height=1.75, gap=0.42, legend=0.2 + 0.165 * -(-len(handles) // 3))
        )
        for place, case in enumerate(names):
            _row(sheet, place, case, rows[rows["case"] == case], table[table["case"] == case], failed)
        sheet.legend(handles, 3)
        return sheet.figure


def _row(sheet: Page, place: int, case: str, rows: pd.DataFrame, table: pd.DataFrame, failed: pd.DataFrame) -> None:
    sheet.name_row(place, case)
    sheet.note(place, row_note(rows))
    settled, *alone = sheet.panels[place]
    known = table[table["method"] != MODEL]
    apart = known[known["exact"] & (known["target"] == DIFFERENCE)]
    gap = {MAML: apart["relative_error"], IMAML: apart["own_difference"]}
    rounding = known[known["target"] == ROUNDING]
    errors = np.concatenate([rounding["relative_error"], *(_deep_enough(values) for values in gap.values())])
    scale = error_scale(np.minimum(errors, FARTHEST), precisions(rounding))
    scale = replace(scale, over=bool(np.any(errors > scale.high)))
    counts = known["inner_steps"].tolist()
    _stationary(settled, known[known["target"] == STATIONARY], counts, rows)
    for panel, method in zip(alone, NAMES, strict=True):
        lines = rounding[rounding["method"] == method]
        panel.set_title(f"rounding of {NAMES[method]} alone", fontsize=7.5)
        error_axis(panel, scale)
        count_axis(panel, counts, "inner steps")
        last = rounding.loc[rounding["relative_error"].notna(), "method"].isin([IMAML]).any()
        label = "outside" if method == (IMAML if last else MAML) else ""
        epsilon_lines(panel, one_of_each_epsilon(precisions(lines)), label=label)
        if method == MAML:
            for _, line in table[table["method"] == MODEL].groupby("precision"):
                draw_theory(panel, line, "inner_steps", "relative_error", scale, bound=False)
        _arithmetics(panel, lines, method, scale)
        wanted = gap[method].to_numpy(dtype=float)
        wanted = np.where(wanted == 0, scale.place(wanted), wanted)
        panel.plot(apart["inner_steps"], wanted, color=INK, linewidth=2.2, solid_capstyle="butt", zorder=3.5)
        _marks(panel, failed[(failed["case"] == case) & (failed["method"] == method)], scale)
        if lines["relative_error"].isna().all():
            _say(panel, rows, method, ROUNDING)


def _stationary(panel: Axes, shown: pd.DataFrame, counts: list[float], rows: pd.DataFrame) -> None:
    panel.set_title("distance to stationary gradient", fontsize=7.5)
    panel.set_ylabel("relative error")
    ours = shown["relative_error"].where(~shown["exact"], _deep_enough(shown["relative_error"]))
    scale = error_scale(ours)
    error_axis(panel, scale)
    count_axis(panel, counts, "inner steps")
    for method in NAMES:
        exact = shown[shown["exact"] & (shown["method"] == method)].sort_values("inner_steps")
        y = exact["relative_error"].to_numpy(dtype=float)
        y = np.where(y == 0, scale.place(y), y)
        panel.plot(exact["inner_steps"], y, color=look(method).color, linewidth=4, alpha=PALE, zorder=2)
        ours = shown[~shown["exact"] & (shown["method"] == method)]
        _arithmetics(panel, ours.assign(relative_error_low=np.nan, relative_error_high=np.nan), method, scale)
    if shown["relative_error"].isna().all():
        _say(panel, rows, MAML, STATIONARY)


def _arithmetics(panel: Axes, lines: pd.DataFrame, method: str, scale: ErrorScale) -> None:
    for name in precisions(lines)[::-1]:
        line = lines[lines["precision"] == name]
        if not line["relative_error"].isna().all():
            size = SIZES.get(name.removesuffix("_pure"), 3.2)  # the finer lie on the coarser
            draw_line(
                panel, line, "inner_steps", "relative_error", method, name, scale=scale, size=size,
                color=arithmetic_color(name), width=1.1,
            )  # fmt: skip


def _deep_enough(values: pd.Series) -> pd.Series:
    """The values that the scale must hold."""
    return values.where((values == 0) | (values > DEEPEST))


def _marks(panel: Axes, failed: pd.DataFrame, scale: ErrorScale) -> None:
    """Where arithmetics fail, in a row below the upper edge for each."""
    low, high = panel.get_xlim()
    for line, name in enumerate(precisions(failed)):
        height = scale.high / (scale.high / scale.low) ** (0.05 + 0.07 * line)
        for _, found in failed[failed["precision"] == name].iterrows():
            step = found["loop"] if found["outcome"] == "underflow" or np.isnan(found["step"]) else found["step"]
            marker, _ = MARKS[found["outcome"]]
            panel.plot(
                np.clip(step, low, high), height, marker=marker, color=arithmetic_color(name), markersize=6,
                markeredgewidth=1.4, linestyle="none", zorder=6,
            )  # fmt: skip


def _say(panel: Axes, rows: pd.DataFrame, method: str, target: str) -> None:
    if not (rows["method"] == IMAML).any() and (method == IMAML or target == STATIONARY):
        say_instead(panel, "no implicit gradient")
        panel.set_axis_off()
        panel.set_xlabel("")
        return
    say_instead(panel, nothing_to_compare(rows[rows["method"] == method], target))


def _handles(rows: pd.DataFrame, table: pd.DataFrame, failed: pd.DataFrame) -> list[Artist]:
    shown = set(rows["method"])
    most = rows.loc[rows["method"] == IMAML, "iterations"].dropna().unique()
    given = f" ({most[0]:g} CG iterations)" if len(most) == 1 else ""
    names = {MAML: "MAML (unrolled)", IMAML: f"iMAML{given}"}
    lines: list[Artist] = [
        Line2D(
            [], [], color=look(name).color, marker=look(name).marker, linewidth=4, alpha=PALE, label=label + ", exact"
        )
        for name, label in names.items()
        if name in shown
    ]
    lines += [
        Line2D([], [], color=arithmetic_color(name), linestyle=dash(name), linewidth=1.1, label=printable(name))
        for name in coarsest_first(rows)[::-1]
    ]
    if (rows["exact"] & (rows["target"] == DIFFERENCE)).any():
        lines.append(Line2D([], [], color=INK, linewidth=2.2, label="MAML-iMAML difference, exact"))
    if MODEL in shown:
        lines.append(theory_handle("predicted from the growth rate", bound=False))
    seen = {MARKS[outcome] for outcome in failed["outcome"]}
    marks = [
        Line2D([], [], color=INK, marker=marker, markersize=6, linestyle="none", label=f"{label} in most tasks")
        for marker, label in sorted(seen)
    ]
    return [*lines, *warning_handles(table, "relative_error"), *marks]


sections.register("precision")(
    Section(
        name="precision",
        questions=("Q1", "Q2"),
        title="How much of each gradient's error is the arithmetic's?",
        reading=READING,
        columns=COLUMNS,
        draw=draw,
        verdicts=verdicts,
        summary=summary,
        order=4,
    )
)
