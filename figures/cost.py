"""What each meta-gradient costs in time and in memory, and the accuracy that it buys (Q6)."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.axes import count_axis
from figures.caution import nothing_to_compare, row_note
from figures.cost_axes import NAMES, cost_axis, look_of, page_height
from figures.cost_front import draw_bought
from figures.cost_verdicts import verdicts
from figures.cost_view import (
    COLUMNS,
    COSTS,
    IMPLICIT,
    LEVELS,
    TARGET_ORDER,
    accuracies,
    cheapest,
    compared,
    costs,
    first_optimizer,
    growth,
    line_of,
    power_text,
    priced,
    way_name,
    ways,
)
from figures.lines import HOLLOW, draw_line
from figures.names import printable
from figures.page import Layout, Page, blank, page, say_instead
from figures.section import Section, sections
from figures.style import GREY
from figures.style import drawing as style
from figures.table_view import cases, view

LAYOUT = Layout(columns=2, panel_height=1.5, left=0.62, right=0.75, gap=1.3, head=0.42, below=0.44, legend=0.72)
LABEL = 8.0  # points between two labels at the ends of lines
READING = (
    "Costs are those of one gradient of the whole batch of tasks, inner loop included. First row: seconds (median, "
    "band of quartiles) and the most bytes alive, over inner steps; beside each line the power p in the a + b K^p that "
    "fits it best, K the number of steps. Second row, where there are several inner optimizers: the same at the "
    "most steps. Then what the costs buy: 1 - cosine to the exact gradient (lower is better) against seconds and "
    "against bytes, a point for every setting, with the line of those that no other beats in both, named by inner "
    "steps, and CG iterations after a slash. All settings share one stationary gradient; the unrolled gradient is "
    "another for each number of steps, so that settings are compared at the most steps only. Of batches of several "
    "sizes only the largest is shown."
)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """The cheapest setting that reaches each cosine, by seconds and by bytes, for each target."""
    columns = ["case", "target", "cosine wanted", "least", "gradient", "optimizer", "inner_steps", "seconds",
               "peak_bytes", "cosine", "warning"]  # fmt: skip
    found = []
    rows = priced(frame)
    known = costs(rows).dropna(subset="seconds")
    table = accuracies(rows) if len(known) else pd.DataFrame()
    for case in cases(known):
        optimizer = first_optimizer(known[known["case"] == case])
        for target in TARGET_ORDER:
            here = compared(table[table["case"] == case], target, optimizer)
            for level in LEVELS if len(here) else ():
                for by in COSTS:
                    best = cheapest(here, level, by)
                    asked = [case, target, level, NAMES[by]]
                    if best is None:
                        found.append([*asked, "none measured", "", *[float("nan")] * 4, ""])
                        continue
                    name, warning = way_name(best["method"], best["iterations"]), best["mostly_indefinite"]
                    numbers = [float(best[key]) for key in ("inner_steps", *COSTS, "cosine")]
                    found.append([*asked, name, best["inner_optimizer"], *numbers, "indefinite" if warning else ""])
    return pd.DataFrame(found, columns=columns)


def draw(frame: pd.DataFrame) -> Figure:
    """The figure."""
    rows = priced(frame)
    everything = view(frame, COLUMNS, "cost", apart=("inner_optimizer",))
    with style():
        if rows["seconds"].isna().all():
            return blank("no cost was measured")
        table, judged = costs(rows), accuracies(rows)
        plan = [
            (case, kind)
            for case in cases(table.dropna(subset="seconds"))
            for kind in _kinds(table[table["case"] == case])
        ]
        sheet = page(len(plan), LAYOUT)
        for place, (case, kind) in enumerate(plan):
            here, whole = table[table["case"] == case], everything[everything["case"] == case]
            panels = sheet.panels[place]
            if kind == "steps":
                sheet.name_row(place, case)
                sheet.note(place, _basis(here))
                _over_steps(panels, here)
            elif kind == "optimizers":
                _over_optimizers(panels, here)
            else:
                sheet.note(place, row_note(whole) if kind == "stationary" else "")
                draw_bought(
                    panels,
                    compared(judged[judged["case"] == case], kind, first_optimizer(here)),
                    kind,
                    nothing_to_compare(whole, kind),
                )
        _legend(sheet, table, judged)
        return sheet.figure


def _kinds(here: pd.DataFrame) -> list[str]:
    several = here.loc[here["seconds"].notna(), "inner_optimizer"].nunique() > 1
    return ["steps", *(["optimizers"] if several else []), *TARGET_ORDER]


def _basis(here: pd.DataFrame) -> str:
    tasks = sorted({int(count) for count in here["tasks"].dropna()})
    return f"one gradient of {tasks[0]:g} task{'' if tasks[0] == 1 else 's'}" if len(tasks) == 1 else ""


def _over_steps(panels: list[Axes], here: pd.DataFrame) -> None:
    optimizer = first_optimizer(here)
    for panel, by in zip(panels, COSTS, strict=True):
        panel.set_title(f"{NAMES[by]} over inner steps, {printable(optimizer)}", fontsize=7.5)
        cost_axis(panel, "y", here.loc[here["inner_optimizer"] == optimizer, by], by)
        count_axis(panel, here["inner_steps"].tolist(), "inner steps")
        ends: list[tuple[float, str, str]] = []
        for way in ways(here):
            line = line_of(here, optimizer, way)
            if line[by].isna().all():
                continue
            style = look_of(way[0])
            draw_line(panel, line, "inner_steps", by, way[0], color=style.color, marker=style.marker, size=4.0)
            power = growth(line, by)
            text = "" if np.isnan(power) else power_text(power)
            ends.append((float(line[by].iloc[-1]), text, style.color))
        _write_beside(panel, ends)
        if not ends:
            say_instead(panel, "not measured")


def _write_beside(panel: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Labels at the right end of lines, in the order of their ends, pushed apart where they would touch."""
    low, high = np.log(panel.get_ylim())
    points = panel.get_position().height * page_height(panel) * 72
    lowest = -np.inf
    for value, text, color in sorted(ends):
        if not text:
            continue
        lowest = max((np.log(value) - low) / (high - low) * points, lowest + LABEL)
        panel.annotate(
            text, (1.0, 0.0), xycoords="axes fraction", xytext=(4, lowest), textcoords="offset points", fontsize=6.5,
            va="center", color=color, annotation_clip=False,
        )  # fmt: skip


def _over_optimizers(panels: list[Axes], here: pd.DataFrame) -> None:
    known = here[here["seconds"].notna()]
    optimizers = list(dict.fromkeys(known["inner_optimizer"]))
    shared = set.intersection(*[set(known.loc[known["inner_optimizer"] == name, "inner_steps"]) for name in optimizers])
    if not shared:
        for panel in panels:
            panel.set_xticks([])
            say_instead(panel, "no number of steps\nwas measured with all inner optimizers")
        return
    steps = max(shared)
    for panel, by in zip(panels, COSTS, strict=True):
        at = known[known["inner_steps"] == steps]
        panel.set_title(f"{NAMES[by]} of inner optimizers, {steps:g} steps", fontsize=7.5)
        cost_axis(panel, "y", at[by], by)
        for way in ways(here):
            lines = {name: line_of(at, name, way) for name in optimizers}
            heights = [float(line[by].iloc[0]) if len(line) else np.nan for line in lines.values()]
            style = look_of(way[0])
            panel.plot(range(len(optimizers)), heights, color=style.color, marker=style.marker, markersize=4.5,
                       linewidth=0.5, linestyle=(0, (1, 2)))  # fmt: skip
        panel.set_xlim(-0.4, len(optimizers) - 0.6)
        panel.set_xticks(range(len(optimizers)), [printable(name, 12) for name in optimizers])


def _legend(sheet: Page, table: pd.DataFrame, judged: pd.DataFrame) -> None:
    handles = []
    for method, count in ways(table):
        style = look_of(method)
        one = table.loc[table["method"] == method, "iterations"].nunique() == 1 or method != IMPLICIT
        label = way_name(method, count) if one else way_name(method, count) + " (points: all)"
        handles.append(Line2D([], [], color=style.color, marker=style.marker, label=printable(label)))
    handles.append(Line2D([], [], color=GREY, linewidth=0.9, label="nothing beats these"))
    if judged["mostly_indefinite"].eq(True).any():
        style = look_of(IMPLICIT)
        handles.append(Line2D([], [], color=style.color, marker=style.marker, markerfacecolor="white",
                              linestyle="none", label=HOLLOW))  # fmt: skip
    sheet.legend(handles, 3)


sections.register("cost")(
    Section(
        name="cost",
        questions=("Q6",),
        title="What does each meta-gradient cost, and what does that buy?",
        reading=READING,
        columns=COLUMNS,
        draw=draw,
        verdicts=verdicts,
        summary=summary,
        order=60,
    )
)
