"""What rescaled data change: MAML's rounding, its difference from iMAML, and the gradient itself (Q2)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.summary import summarise
from figures.axes import count_axis, epsilon_lines, error_axis, error_scale
from figures.caution import nothing_to_compare
from figures.lines import draw_line
from figures.names import printable
from figures.page import Layout, blank, page, say_instead
from figures.rescaling_verdicts import verdicts
from figures.scalings import (
    COLUMNS,
    EXACT_LOOP,
    NO_NUMBER,
    PLAIN,
    coarsest,
    exactly,
    mostly,
    rounding,
    scalings,
    studied,
)
from figures.section import Section, sections
from figures.style import GREY, Look, drawing
from figures.table_view import cases, precisions

LOOKS = {
    PLAIN: Look("#000000", "o"),
    EXACT_LOOP: Look("#e0a100", "D"),
    "standardize": Look("#3f7fc6", "^"),
    "whiten": Look("#6b3fa0", "s"),
}
FACTORS = (Look("#5a2f16", "v"), Look("#35b0a8", "P"), Look("#8a8f00", "X"), Look("#c06060", "h"))
# Many lines agree: each is drawn thinner than those that it lies on.
SIZES, WIDTHS = {PLAIN: 7.2, EXACT_LOOP: 3.0}, {PLAIN: 3.4, EXACT_LOOP: 1.4}
SIZE, WIDTH, THINNER = 5.0, 1.6, 0.85
LABELS = {PLAIN: "none: the data as they are", EXACT_LOOP: "power_of_two: the same loop"}
MARK = "#444444"
KEYS = ["scaling", "inner_steps"]
READING = (
    "The same inner loop on rescaled data, over the number of inner steps, a line per rescaling. Left: MAML's rounding "
    "error, its unrolled gradient in the coarsest arithmetic measured against the same in extended precision (lower is "
    "better). Middle: how far MAML and iMAML (with the most CG iterations) are apart without rounding, relative to "
    "MAML. Right: the exact unrolled gradient, carried back to the original coordinates, against that of the problem "
    "as it was. Under power_of_two the loop is the same in other units, and what is left there on the right is the "
    "rounding of the data to numbers that every arithmetic holds; the other rescalings precondition the loop and make "
    "another problem. Band: 95% interval of the median without rescaling. Hollow markers: underflow in most tasks; a "
    "cross on the upper edge: overflow in most tasks. A difference below 1e-18 is drawn at 0."
)


@dataclass(frozen=True)
class Line:
    """How one rescaling is drawn."""

    look: Look
    size: float
    width: float


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Median relative error of what is drawn."""
    rows = studied(frame)
    drawn = [part for case in cases(rows) for part in _parts(rows[rows["case"] == case]).values()]
    keys = ["case", "target", "method", "precision", *KEYS]
    return summarise(pd.concat(drawn) if drawn else rows, keys, ["relative_error"])


def _parts(here: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each panel of a case, by the panel's target."""
    return {
        "exact_arithmetic": coarsest(rounding(here)),
        "unrolled": exactly(here, "cg_unchecked", "unrolled"),
        "original": exactly(here, "unrolled_adjoint", "original"),
    }


def draw(frame: pd.DataFrame) -> Figure:
    """The figure."""
    rows = studied(frame)
    with drawing():
        names = [case for case in cases(rows) if len(rounding(rows[rows["case"] == case]))]
        if not names:
            return blank("no rounding error was measured")
        sheet = page(len(names), Layout(columns=3, gap=0.5, left=0.66, right=0.3, legend=0.6))
        lines = _lines(scalings(rows))
        for place, case in enumerate(names):
            here = rows[rows["case"] == case]
            sheet.name_row(place, case)
            parts = _parts(here)
            coarse = precisions(parts["exact_arithmetic"])
            titles = (f"MAML's rounding, {printable(coarse[0])}", "MAML against iMAML, exact", "carried back, exact")
            for panel, title, (target, part) in zip(sheet.panels[place], titles, parts.items(), strict=True):
                panel.set_title(title, fontsize=7.5)
                count_axis(panel, here["inner_steps"].tolist(), "inner steps")
                _panel(panel, part, lines, coarse if target == "exact_arithmetic" else [])
                if part["relative_error"].isna().all():
                    say_instead(panel, _why_empty(here, target))
            sheet.panels[place][0].set_ylabel("relative difference")
        sheet.legend(_handles(lines, rows), 3)
        return sheet.figure


def _panel(panel: Axes, part: pd.DataFrame, lines: dict[str, Line], arithmetics: list[str]) -> None:
    """A line a rescaling, with its marks."""
    table = summarise(part, KEYS, ["relative_error"])
    scale = error_scale(table["relative_error"], arithmetics)
    error_axis(panel, scale)
    epsilon_lines(panel, arithmetics, label="")
    underflow, lost = mostly(part, ["underflow"]), mostly(part, NO_NUMBER)
    for name, drawn in lines.items():
        line = table[table["scaling"] == name]
        if name != PLAIN:  # the bands of all would hide each other
            line = line.assign(relative_error_low=np.nan, relative_error_high=np.nan)
        hollow = [bool(underflow[name, count]) for count in line["inner_steps"]]
        draw_line(
            panel, line.assign(mostly_indefinite=hollow), "inner_steps", "relative_error", "", scale=scale,
            marker=drawn.look.marker, color=drawn.look.color, size=drawn.size, width=drawn.width,
        )  # fmt: skip
        gone = [count for count in line["inner_steps"] if lost[name, count]]
        panel.plot(
            gone, np.full(len(gone), scale.high), linestyle="none", marker="x", markersize=4.5,
            color=drawn.look.color, clip_on=False, zorder=4,
        )  # fmt: skip


def _why_empty(here: pd.DataFrame, target: str) -> str:
    if target == "unrolled" and (here["strength"] == 0).all():
        return "strength 0:\nno implicit gradient"
    if target == "original":
        return "nothing to carry back"
    return nothing_to_compare(here, target)


def _lines(names: list[str]) -> dict[str, Line]:
    """The line of each rescaling; factors take their looks in turn."""
    others = [name for name in names if name not in LOOKS]
    spare = {name: FACTORS[place % len(FACTORS)] for place, name in enumerate(others)}
    return {
        name: Line(
            LOOKS.get(name) or spare[name],
            SIZES.get(name, SIZE * THINNER**place),
            WIDTHS.get(name, WIDTH * THINNER**place),
        )
        for place, name in enumerate(names)
    }


def _handles(lines: dict[str, Line], rows: pd.DataFrame) -> list[Artist]:
    handles: list[Artist] = [
        Line2D(
            [], [], color=drawn.look.color, marker=drawn.look.marker, markersize=drawn.size,
            linewidth=drawn.width,
            label=printable(LABELS.get(name, name)),
        )
        for name, drawn in lines.items()
    ]  # fmt: skip
    marks = (
        (["underflow"], "o", "hollow: underflow in most tasks"),
        (NO_NUMBER, "x", "cross: overflow in most tasks"),
    )
    epsilon = Line2D([], [], color=GREY, linewidth=0.7, label="epsilon of that arithmetic")
    return [*handles, epsilon] + [
        Line2D([], [], color=MARK, marker=marker, markerfacecolor="white", linestyle="none", label=label)
        for outcomes, marker, label in marks
        if rows["outcome"].isin(list(outcomes)).any()
    ]


sections.register("rescaling")(
    Section(
        name="rescaling",
        questions=("Q2",),
        title="Would rescaled data change what rounding does to MAML, in the same inner loop?",
        reading=READING,
        columns=COLUMNS,
        draw=draw,
        verdicts=verdicts,
        summary=summary,
        order=5,
    )
)
