"""Base against novel accuracy after training with each gradient, and their harmonic mean over inner steps (Q5)."""

import re

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation

from analyses.generalized_summary import OF_MEANS, over_seeds
from figures.axes import count_axis, line_or_level
from figures.generalized_verdicts import verdicts
from figures.generalized_view import (
    COLUMNS,
    FLOOR_DASHES,
    FLOOR_LOOKS,
    FLOORS,
    PLAIN,
    TUNED,
    UNTRAINED,
    Case,
    Way,
    studied,
)
from figures.names import printable, problem_name
from figures.page import Layout, Page, blank, page, say_instead
from figures.section import Section, sections
from figures.style import GREY, INK, dash
from figures.style import drawing as style
from figures.training_wording import with_half
from figures.wording import aligned

BASE, NOVEL = "base_accuracy", "novel_accuracy"
SHOWN = (BASE, NOVEL, OF_MEANS)
OF_TASKS = "mean_of_harmonics"
ENDS = (f"{OF_MEANS}_low", f"{OF_MEANS}_high")
APART = 3.2  # points between two lines that share their places
HOLLOW_DASH = (0, (1, 1.2))
HEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LAYOUT = Layout(columns=3, panel_height=1.75, left=0.5, right=0.12, gap=0.5, head=0.42, below=0.42, legend=0.62)
READING = (
    "Left: accuracy on novel against accuracy on base classes, both with all classes to choose from, a marker for each "
    "number of inner steps (written beside the filled ones) that a network was trained and tested with, the mean over "
    "seeds. Hollow: scores as they are. Filled: a bias, tuned on validation episodes, is subtracted from the base "
    "classes' scores. Grey curves have one harmonic mean. Middle and right: the harmonic mean of the mean base and "
    "mean novel accuracy of a seed, without and with that bias, over inner steps. Bars are 95% intervals over seeds, "
    "each a network of its own on tasks of its own (Student's t); they are drawn side by side. Grey and broken: what "
    "was not trained; by pixels, each base class is remembered by as many training drawings as a novel class has shots."
)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Every mean over seeds with its interval, the floors' too."""
    cases = [case for case in studied(frame) if len(case.means) or len(case.floors)]
    if not cases:
        return pd.DataFrame(columns=["case", "gradient"])
    tables = []
    for case in cases:
        floors = [case.floor(name, kind) for name in FLOORS for kind in (PLAIN, TUNED)]
        floors = pd.concat(floors).assign(inner_steps=np.nan) if floors else case.floors
        every = pd.concat([case.means, floors])
        named = {way: case.name_of(way) for way in case.ways}
        names = [FLOORS[way.method] if way.method in FLOORS else named[way] for way in every["way"]]
        by = ["case", "gradient", "inner_steps", "test_steps", "calibration"]
        values = [OF_MEANS, BASE, NOVEL, "harmonic_mean", "delta1", "delta2", "area", "bias"]
        tables.append(over_seeds(every.assign(gradient=names), by, values))
    # the column is each task's own harmonic mean; a mean of it is another number than H(mean base, mean novel)
    return pd.concat(tables, ignore_index=True).rename(columns=lambda name: re.sub("^harmonic_mean", OF_TASKS, name))


def told(frame: pd.DataFrame) -> tuple[str, ...]:
    """The test with the steps of training and the bias tuned, and the floors, as a table of text."""
    rows: list[tuple[str, ...]] = [("problem", "method", "inner steps", "harmonic mean", "base", "novel", "seeds")]
    found = summary(frame)
    for row in found[found["calibration"] == TUNED].to_dict("records") if len(found) else []:
        floor, steps = row["gradient"] in FLOORS.values(), row["test_steps"]
        if steps != row["inner_steps"] and not (floor and (np.isnan(steps) or steps in set(found["inner_steps"]))):
            continue
        base, novel, both = (
            with_half(row[name], (row[f"{name}_high"] - row[f"{name}_low"]) / 2, percent=True) for name in SHOWN
        )
        count = "" if np.isnan(steps) else f"{steps:g}"
        rows.append((problem_name(row["case"]), row["gradient"], count, both, base, novel, f"{row['seeds']}"))
    return aligned(rows)


def basis(frame: pd.DataFrame) -> str:
    """Over what the means are taken."""
    cases = [case for case in studied(frame) if len(case.means)]
    if not cases:
        return "Nothing was measured."
    seeds = [case.means["seed"].nunique() for case in cases]
    low, high = min(seeds), max(seeds)
    many = f"{low if low == high else f'{low} to {high}'} seed{'' if high == 1 else 's'}"
    text = f"Means over the tasks of a seed, then over {many}."
    return text + (" One seed says nothing of others: there are no intervals." if high == 1 else "")


def draw(frame: pd.DataFrame) -> Figure:
    """The figure."""
    cases = studied(frame)
    with style():
        if not any(len(case.means) for case in cases):
            return blank("nothing was trained and tested among base and novel classes")
        sheet = page(len(cases), LAYOUT)
        for row, case in enumerate(cases):
            sheet.name_row(row, case.name)
            sheet.note(row, _remark(case))
            _row(sheet.panels[row], case)
        _legend(sheet, cases)
        return sheet.figure


def _remark(case: Case) -> str:
    lost = int((case.ends["outcome"] == "diverged").sum())
    return f"{lost} of {len(case.ends)} runs diverged" if lost else ""


def _row(panels: list[Axes], case: Case) -> None:
    plane, plain, tuned = panels
    kinds = {kind: case.at_own_steps(kind) for kind in (PLAIN, TUNED)}
    plane.set_title("accuracy on both kinds", fontsize=7.5)
    plain.set_title("harmonic mean, scores as they are", fontsize=7.5)
    tuned.set_title("harmonic mean, bias tuned", fontsize=7.5)
    if not len(kinds[TUNED]):
        for panel in panels:
            panel.set_xticks([])
            say_instead(panel, "not measured")
        return
    means = {kind: over_seeds(rows, ["way", "inner_steps"], SHOWN) for kind, rows in kinds.items()}
    _plane(plane, case, means)
    for panel, kind in ((plain, PLAIN), (tuned, TUNED)):
        _over_steps(panel, case, means[kind], kind)
    top = max(panel.get_ylim()[1] for panel in (plain, tuned))
    for panel in (plain, tuned):
        panel.set_ylim(0, top)


def _plane(panel: Axes, case: Case, means: dict[str, pd.DataFrame]) -> None:
    """Base against novel accuracy."""
    floors = {(name, kind): _mean_floor(case, name, kind) for name in FLOORS for kind in (PLAIN, TUNED)}
    numbers = [table[name].to_numpy(dtype=float) for table in means.values() for name in (BASE, NOVEL)]
    numbers += [floor[[BASE, NOVEL]].to_numpy(dtype=float).ravel() for floor in floors.values()]
    known = np.concatenate(numbers)
    top = min(1.02, 1.12 * max(float(np.nanmax(known)) if np.isfinite(known).any() else 1.0, 0.05))
    _iso_curves(panel, top)
    for (name, kind), floor in floors.items():
        looks = FLOOR_LOOKS[name]
        panel.plot(
            floor[BASE], floor[NOVEL], linestyle="none", marker=looks.marker, color=looks.color,
            markersize=3.0 if kind == PLAIN else 5.0, zorder=3,
        )  # fmt: skip
    for way in sorted(set(means[TUNED]["way"])):
        for kind, table in means.items():
            line = _line(table, way)
            tuned = kind == TUNED
            panel.plot(
                line[BASE], line[NOVEL], color=way.look.color, marker=way.look.marker, linewidth=1.0 if tuned else 0.6,
                markerfacecolor=way.look.color if tuned else "white", markersize=4.2 if tuned else 3.4, zorder=4,
                linestyle=_dash(case, way) if tuned else HOLLOW_DASH, clip_on=False,
            )  # fmt: skip
            for x, y, count in zip(line[BASE], line[NOVEL], line["inner_steps"], strict=True):
                if tuned:
                    panel.annotate(f"{count:g}", (x, y), xytext=(3.5, 2.5), textcoords="offset points", fontsize=5.5,
                                   color=INK, zorder=5)  # fmt: skip
    panel.set_xlim(0, top)
    panel.set_ylim(0, top)
    panel.set_xlabel("base accuracy", labelpad=1.5)
    panel.set_ylabel("novel accuracy")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(_percent))


def _iso_curves(panel: Axes, top: float) -> None:
    """Where the harmonic mean is one number: U = h S / (2 S - h)."""
    panel.grid(False)
    every = 1 if top < 0.55 else 2
    for height in HEIGHTS[every - 1 :: every]:
        if height >= top:
            break
        base = np.linspace(height * top / (2 * top - height), top, 100)
        panel.plot(base, height * base / (2 * base - height), color="#d4d4d4", linewidth=0.6, zorder=0.5)
        panel.annotate(f"{height:.0%}", (top, base[0]), xytext=(2, 0), textcoords="offset points", fontsize=5.5,
                       color=GREY, va="center", annotation_clip=False)  # fmt: skip


def _over_steps(panel: Axes, case: Case, means: pd.DataFrame, kind: str) -> None:
    """The harmonic mean over inner steps, and the floors."""
    counts, ways = sorted(set(means["inner_steps"])), sorted(set(means["way"]))
    figure = panel.get_figure(root=True)
    assert figure is not None, "a panel belongs to a figure"
    for place, way in enumerate(ways):
        line = _line(means, way)
        x, y, low, high = (line[name].to_numpy(dtype=float) for name in ("inner_steps", OF_MEANS, *ENDS))
        beside = ScaledTranslation(APART * (place - (len(ways) - 1) / 2) / 72, 0, figure.dpi_scale_trans)
        panel.plot(
            x, y, color=way.look.color, marker=way.look.marker, linestyle=_dash(case, way), zorder=4, clip_on=False,
            transform=panel.transData + beside,
        )  # fmt: skip
        panel.vlines(
            x, low, high, color=way.look.color, linewidth=0.9, alpha=0.75, zorder=3,
            transform=panel.transData + beside,
        )  # fmt: skip
    count_axis(panel, counts, "inner steps, in training and test")
    for name in FLOORS:
        floor = _mean_floor(case, name, kind)
        if name == UNTRAINED:
            floor = floor[floor["test_steps"].isin(counts)].sort_values("test_steps")
        x, y = floor["test_steps"].to_numpy(dtype=float), floor[OF_MEANS].to_numpy(dtype=float)
        line_or_level(panel, x, y, FLOOR_DASHES[name], color=FLOOR_LOOKS[name].color, linewidth=0.9, zorder=2)
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in panel.lines]
    drawn = np.concatenate([*lines, means[list(ENDS)].to_numpy(dtype=float).ravel()])
    highest = drawn[np.isfinite(drawn)].max(initial=0.0)
    panel.set_ylim(0, min(1.02, 1.06 * highest) if highest > 0 else 1.02)
    panel.yaxis.set_major_locator(MaxNLocator(5))
    panel.yaxis.set_major_formatter(FuncFormatter(_percent))


def _dash(case: Case, way: Way) -> tuple[int, tuple[float, ...]]:
    """Solid in the arithmetic that most runs of a case are in, so that floors alone are broken as a rule."""
    usual = case.means["precision"].mode().iloc[0]
    return (0, ()) if way.precision == usual else dash(way.precision)


def _line(table: pd.DataFrame, way: Way) -> pd.DataFrame:
    return table[[other == way for other in table["way"]]].sort_values("inner_steps")


def _mean_floor(case: Case, name: str, kind: str) -> pd.DataFrame:
    """A floor's means over seeds, a row for each number of test steps; at the steps of training for the network."""
    rows = case.floor(name, kind)
    if name == UNTRAINED:
        rows = rows[rows["test_steps"].isin(set(case.means["inner_steps"]))]
    return over_seeds(rows, ["test_steps"], SHOWN)


def _percent(value: float, _: object = None) -> str:
    return f"{100 * value:g}%"


def _legend(sheet: Page, cases: list[Case]) -> None:
    named = {way.method: (case.name_of(way), way) for case in cases for way in reversed(case.ways)}
    handles: list[Artist] = [
        Line2D([], [], color=way.look.color, marker=way.look.marker, label=printable(name))
        for name, way in sorted(named.values(), key=lambda item: item[1])
    ]
    handles += [
        Line2D([], [], color=FLOOR_LOOKS[name].color, marker=FLOOR_LOOKS[name].marker, linestyle=FLOOR_DASHES[name],
               linewidth=0.9, label=words)
        for name, words in FLOORS.items() if any((case.floors["method"] == name).any() for case in cases)
    ]  # fmt: skip
    handles += [
        Line2D([], [], color=INK, marker="o", markerfacecolor="white", linestyle=HOLLOW_DASH, linewidth=0.6,
               label="hollow: scores as they are"),
        Line2D([], [], color=INK, marker="o", label="filled: bias tuned on validation"),
    ]  # fmt: skip
    sheet.legend(handles, 3)


sections.register("generalized")(
    Section(
        name="generalized",
        questions=("Q5",),
        title="Does it hold where base and novel classes are asked for together?",
        reading=READING,
        columns=COLUMNS,
        draw=draw,
        verdicts=verdicts,
        summary=summary,
        order=75,
        basis=basis,
        told=told,
    )
)
