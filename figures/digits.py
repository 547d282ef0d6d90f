"""Where an unrolled gradient loses its digits: by inner step, forward and back, and by kind of operation (Q1)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analyses.summary import median_interval, summarise
from figures.axes import ErrorScale, epsilon_lines, error_axis, error_scale
from figures.caution import tasks_where
from figures.digits_verdicts import verdicts
from figures.lines import draw_line, draw_theory, theory_handle
from figures.names import printable
from figures.page import Layout, blank, page, say_instead
from figures.section import Section, sections
from figures.style import GREY, INK, drawing
from figures.table_view import cases
from figures.traces import (
    ADJOINT,
    ADJOINT_LOCAL,
    ALL_KINDS,
    BY_STATES,
    BY_SWEEP,
    COLUMNS,
    KINDS,
    STATE,
    STATE_LOCAL,
    arithmetics,
    growth_rates,
    stretched,
    traced,
)
from figures.wording import of_tasks

STATES, SWEEP = "#3f7fc6", "#c96b12"
STATES_ALONE, SWEEP_ALONE = "#a9c8ea", "#efc08d"
FORWARD = {STATE_LOCAL: STATES_ALONE, STATE: STATES}
BACKWARD = {ADJOINT_LOCAL: SWEEP_ALONE, ADJOINT: INK, BY_STATES: STATES, BY_SWEEP: SWEEP}
BANDS = (STATE, BY_STATES, BY_SWEEP)
WIDTHS = {STATE: 1.7, ADJOINT: 2.6, BY_STATES: 1.2, BY_SWEEP: 1.2, STATE_LOCAL: 1.0, ADJOINT_LOCAL: 1.0}
TICKS = {"rounded_product": "products", "rounded_sum": "sums", "rounded_elementary": "functions",
         "rounded_arithmetic": "elementw.", ALL_KINDS: "all"}  # fmt: skip
WORDS = {
    STATE: "state, accumulated", STATE_LOCAL: "state, each step alone", ADJOINT: "adjoint, accumulated",
    ADJOINT_LOCAL: "adjoint, each pull alone", BY_STATES: "adjoint, from wrong states",
    BY_SWEEP: "adjoint, from the sweep", ALL_KINDS: "gradient, all kinds rounded",
} | {name: f"gradient, {words} rounded" for name, words in KINDS.items()}  # fmt: skip
READING = (
    "The longest inner loop, traced in the finest and in the coarsest arithmetic that it was run in; all panels of a "
    "row have one scale of relative errors (lower is better). Left: the states on the way forward, as accumulated and "
    "of each step alone; where the first rises above the second, steps stretch what earlier ones got wrong, which "
    "theory expects to go along the dashed grey line where it rises. Middle: the adjoint on the way back, to be read "
    "from right to left: of its error, what the wrong states make, and what the sweep itself rounds. Right: the "
    "gradient's error where one kind of operation alone is rounded, and where all are."
)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Median errors of the last state, of the adjoint that arrives at the start, and of the gradient by kind."""
    rows = traced(frame)
    rows = rows[rows["method"].isin(list(WORDS))]
    last = rows.groupby("case")["inner_steps"].transform("max")
    backward = rows["method"].isin(list(BACKWARD))
    rows = rows[rows["inner_steps"].eq(last.where(~backward, 0.0))]
    rows = rows.assign(error_of=rows["method"].map(WORDS))
    return summarise(rows, ["case", "precision", "inner_steps", "error_of"], ["relative_error"])


def draw(frame: pd.DataFrame) -> Figure:
    """The figure."""
    rows = traced(frame)
    with drawing():
        names = [case for case in cases(rows) if arithmetics(rows[rows["case"] == case])]
        if not names:
            return blank("no loop was traced")
        places = [(case, precision) for case in names for precision in _ends(rows[rows["case"] == case])]
        sheet = page(len(places), Layout(columns=3, gap=0.42, left=0.66, right=0.74, legend=0.72))
        for place, (case, precision) in enumerate(places):
            here = rows[rows["case"] == case]
            ours = here[(here["precision"] == precision) & ~here["theory"]]
            table = summarise(ours, ["method", "inner_steps"], ["relative_error"])
            start = table["method"].isin(list(FORWARD)) & (table["inner_steps"] == 0)
            table = table[~start]  # the start is the same in every arithmetic
            scale = error_scale(table["relative_error"], [precision])
            sheet.name_row(place, case)
            sheet.note(place, _note(ours))
            forward, backward, kinds = sheet.panels[place]
            _trace(forward, table, FORWARD, scale, "forward: the states", "state")
            _trace(backward, table, BACKWARD, scale, "backward: the adjoint", "state (read from right to left)")
            _kinds(kinds, table, scale)
            _growth(forward, here, precision, scale)
            for panel in sheet.panels[place]:
                if ours["relative_error"].isna().all():
                    say_instead(panel, "no number")
            for panel in (backward, kinds):
                panel.tick_params(labelleft=False)
            epsilon_lines(forward, [precision], label="")
            epsilon_lines(backward, [precision], label="")
            epsilon_lines(kinds, [precision], label="outside")
            forward.set_ylabel(f"relative error, {printable(precision)}")
        sheet.legend(_handles(), 3)
        return sheet.figure


def _ends(here: pd.DataFrame) -> list[str]:
    """The finest and the coarsest arithmetic of a case: more would not fit on a page."""
    names = arithmetics(here)
    return list(dict.fromkeys([names[0], names[-1]]))


def _note(ours: pd.DataFrame) -> str:
    said = [
        f"{name} in {of_tasks(*hits)}" for name in ("diverged", "not finite") if (hits := tasks_where(ours, name))[0]
    ]
    return "; ".join(said)


def _trace(panel: Axes, table: pd.DataFrame, colors: dict[str, str], scale: ErrorScale, title: str, label: str) -> None:
    """Lines over the states."""
    panel.set_title(title, fontsize=7.5)
    error_axis(panel, scale)
    _state_axis(panel, table["inner_steps"].tolist(), label)
    for method, color in colors.items():
        line = table[table["method"] == method]
        if method not in BANDS:
            line = line.assign(relative_error_low=np.nan, relative_error_high=np.nan)
        marker = "o" if len(line) < 3 else "None"
        draw_line(
            panel, line, "inner_steps", "relative_error", "", scale=scale, color=color, width=WIDTHS[method],
            marker=marker,
        )  # fmt: skip


def _state_axis(panel: Axes, counts: Sequence[float], label: str) -> None:
    """A linear axis: what grows by a factor a step is then a straight line."""
    last = max([1.0, *counts])
    panel.set_xlim(-0.03 * last, 1.03 * last)
    ticks = MaxNLocator(5, integer=True).tick_values(0, last)
    panel.set_xticks([tick for tick in ticks if 0 <= tick <= last])
    panel.set_xlabel(label, labelpad=1.5)


def _growth(panel: Axes, here: pd.DataFrame, precision: str, scale: ErrorScale) -> None:
    """What theory makes of one rounding, by the median growth rate."""
    rate = median_interval(growth_rates(here))[0]
    last = here["inner_steps"].max()
    steps = np.linspace(0.0, last, 200)
    line = pd.DataFrame({"step": steps, "error": [stretched(rate, precision, step) for step in steps]})
    floor = scale.low if scale.zero is None else 3 * scale.zero  # not into the place of an error of 0
    draw_theory(panel, line[line["error"] > floor], "step", "error", scale, bound=False)


def _kinds(panel: Axes, table: pd.DataFrame, scale: ErrorScale) -> None:
    """A point a kind of operation, with its interval."""
    panel.set_title("gradient, by operation", fontsize=7.5)
    error_axis(panel, scale)
    panel.set_xlim(-0.6, len(TICKS) - 0.4)
    panel.set_xticks(range(len(TICKS)), list(TICKS.values()), fontsize=6, rotation=30)
    for place, name in enumerate(TICKS):
        found = table[table["method"] == name]
        middle, low, high = (
            scale.place(found["relative_error" + end].to_numpy(dtype=float)) for end in ("", "_low", "_high")
        )
        at = np.full(len(found), place)
        panel.vlines(at, low, high, color=INK, linewidth=1.0, alpha=0.5)
        panel.plot(at, middle, linestyle="none", marker="D" if name == ALL_KINDS else "o", color=INK, clip_on=False)


def _handles() -> list[Artist]:
    lines = (
        (STATES, WIDTHS[STATE], "wrong states: accumulated, and in the adjoint"),
        (STATES_ALONE, 1.0, "each step alone"),
        (SWEEP, WIDTHS[BY_SWEEP], "the sweep's own part"),
        (SWEEP_ALONE, 1.0, "each pull back alone"),
        (INK, WIDTHS[ADJOINT], "adjoint: accumulated"),
        (GREY, 0.7, "epsilon"),
    )
    handles: list[Artist] = [Line2D([], [], color=color, linewidth=width, label=label) for color, width, label in lines]
    return [*handles, theory_handle("one rounding, by the growth rate", bound=False)]


sections.register("digits")(
    Section(
        name="digits",
        questions=("Q1",),
        title="In which step, on the way forward or back, and in which operations are digits lost?",
        reading=READING,
        columns=COLUMNS,
        draw=draw,
        verdicts=verdicts,
        summary=summary,
        order=6,
    )
)
