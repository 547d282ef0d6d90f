"""Does a more exact gradient train a better model? Performance against the exactness of the gradient (Q2, Q4)."""

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analyses.seeds import over_seeds
from figures.page import Layout, Page, blank, page, say_instead
from figures.style import GREY, drawing
from figures.training_axes import line_handles, remark, shares
from figures.training_lines import PLAIN
from figures.training_scales import (
    Exactness,
    Performance,
    difference_axis,
    exactness_axis,
    performance,
    performance_axis,
)
from figures.training_view import Case, studied

SIZES = (2.6, 7.0)  # of the markers, from the fewest to the most inner steps
READING = (
    "Each point is a setting: a method with a number of inner steps (the larger the marker, the more), in training and "
    "at test. Across: 1 - cosine between the mean gradient that was followed and the exact derivative of the same "
    "loop, mean over the probes along training, more exact to the right; below 1e-6 gradients count as equally exact, "
    "since what is left is rounding. Up: performance on the test tasks, with 95% intervals; left as it is, thin lines "
    "joining settings of equal inner steps, right less MAML's with equal inner steps on the same seeds and tasks. If "
    "exactness were all that matters, thin lines would improve to the right. They join methods that differ in other "
    "ways too: nothing here proves a cause. Rescaled data are left out, whose loop is another one."
)


def draw(frame: pd.DataFrame) -> Figure:
    """The figure."""
    every = studied(frame)
    cases = [case for case in every if len(case.exactness)]
    with drawing():
        if not cases:
            return blank("no gradient was probed along training" if every else "no training run was tested")
        steps = sorted({count for case in cases for count in case.steps})
        handles = [*_lines(cases), *_size_handles(steps)]
        sheet = page(
            len(cases),
            Layout(columns=2, panel_height=2.1, right=0.16, gap=0.62, legend=0.2 + 0.165 * -(-len(handles) // 3)),
        )
        for place, case in enumerate(cases):
            _row(sheet, place, case, steps)
        sheet.legend(handles, 3)
        return sheet.figure


def points(case: Case) -> pd.DataFrame:
    """A row a setting: mean `distance`, performance and its half interval, and the `gap` to MAML with its own."""
    found = over_seeds(case.exactness, ["line", "inner_steps"], ["distance", case.measure])
    gaps = case.gaps[["line", "inner_steps", case.measure, f"{case.measure}_half"]]
    gaps = gaps.rename(columns={case.measure: "gap", f"{case.measure}_half": "gap_half"})
    return found.merge(gaps, on=["line", "inner_steps"], how="left")


def _row(sheet: Page, place: int, case: Case, steps: list[float]) -> None:
    sheet.name_row(place, case.name)
    sheet.note(place, remark(case))
    raw, less = sheet.panels[place]
    table = points(case)
    middle, half = (table[case.measure + end].to_numpy(dtype=float) for end in ("", "_half"))
    scale = performance(
        case, [*middle, *(middle - half)[middle - half > 0.5 * middle], *(middle + half)[half < middle]]
    )
    raw.set_title(f"test {case.measure}", fontsize=7.5)
    performance_axis(raw, scale, label=f"test {case.measure}")
    percent = "" if case.measure == "accuracy" else ", in % of it"
    less.set_title(f"less MAML's with equal inner steps{percent}", fontsize=7.5)
    across = Exactness.of(table["distance"])
    table = table.assign(x=_apart(across.place(table["distance"].to_numpy(dtype=float)), table, case, across))
    for panel in (raw, less):
        exactness_axis(panel, "x", across)
        panel.set_xlabel("1 - cosine to the exact gradient (more exact \N{RIGHTWARDS ARROW})", labelpad=1.5)
    for _, rows in table.sort_values("x").groupby("inner_steps"):
        raw.plot(rows["x"], scale.place(rows[case.measure].to_numpy(float)), color=GREY, linewidth=0.5, zorder=1)
    _scatter(raw, table, case, case.measure, steps, scale)
    table = shares(table, case, "gap")
    known = table[np.isfinite(table["gap"].to_numpy(dtype=float))]
    if known.empty:
        say_instead(less, "no MAML\nto compare with" if case.reference is None else "nothing to compare")
        return
    ends = [known["gap"] + sign * known["gap_half"].fillna(0.0) for sign in (-1, 1)]
    difference_axis(less, np.concatenate(ends))
    _scatter(less, known, case, "gap", steps, None)


def _apart(x: np.ndarray, table: pd.DataFrame, case: Case, across: Exactness) -> np.ndarray:
    """The places, with lines that are equally exact moved apart a little: their points would hide each other."""
    if across.edge is None:
        return x
    equal = [line.name for line in case.lines if (x[(table["line"] == line.name).to_numpy()] == across.edge).any()]
    width = (across.most / across.least) ** 0.035
    shift = {name: width ** (place - (len(equal) - 1) / 2) for place, name in enumerate(equal)}
    return np.where(x == across.edge, x * table["line"].map(shift).to_numpy(dtype=float, na_value=1.0), x)


def _scatter(
    panel: Axes, table: pd.DataFrame, case: Case, value: str, steps: list[float], scale: Performance | None
) -> None:
    looks = {line.name: line.look(case.usual) for line in case.lines}
    for name, rows in table.groupby("line", sort=False):
        style = looks[str(name)]
        for row in rows.to_dict("records"):
            middle, half = row[value], row[f"{value}_half"]
            ends = np.array([middle - half, middle, middle + half])
            low, middle, high = ends if scale is None else scale.place(ends)
            panel.vlines(row["x"], low, high, color=style.color, linewidth=0.8, alpha=0.6, zorder=2)
            panel.plot(row["x"], middle, color=style.color, marker=style.marker, linestyle="none", zorder=3,
                       markersize=_size(float(row["inner_steps"]), steps), clip_on=False)  # fmt: skip


def _size(count: float, steps: list[float]) -> float:
    share = steps.index(count) / max(len(steps) - 1, 1)
    return SIZES[0] + share * (SIZES[1] - SIZES[0])


def _lines(cases: list[Case]) -> list[Artist]:
    """The lines' legend without lines, for here they are points."""
    shown = {line.name for case in cases for line in case.lines if line.scaling == PLAIN}
    handles = [handle for handle in line_handles(cases) if handle.get_label() in shown]
    for handle in handles:
        handle.set(linestyle="none")
    return handles


def _size_handles(steps: list[float]) -> list[Artist]:
    return [
        Line2D([], [], color=GREY, marker="o", linestyle="none", markersize=_size(count, steps),
               label=f"{count:g} inner step" + ("" if count == 1 else "s"))
        for count in steps
    ]  # fmt: skip


EXACTNESS = (READING, draw)
