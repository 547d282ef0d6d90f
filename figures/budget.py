"""The error of each gradient, split into the parts that add up to it: their sizes, and which is the largest (Q7)."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from analyses.summary import summarise
from figures.axes import ErrorScale, count_axis, epsilon_lines, error_axis, error_scale
from figures.budget_verdicts import verdicts
from figures.budget_view import (
    COLUMNS,
    FIRST_ORDER,
    GRADIENT,
    IMPLICIT,
    NONE,
    PARTS,
    TOTAL,
    UNROLLED,
    few_and_most,
    iteration_counts,
    medians,
    splits,
    target_of,
)
from figures.caution import nothing_to_compare, row_note
from figures.lines import draw_line, precision_handles
from figures.names import TARGETS, printable
from figures.page import Layout, Page, blank, page, say_instead
from figures.section import Section, sections
from figures.style import WIDTH, Look
from figures.style import drawing as style
from figures.table_view import EPSILON, cases, precisions, view
from figures.wording import percent

# Lightness (CIE L*) 0, 25, 50, 65 and 82, so that they keep apart in grey; in the maps a letter says it besides.
LOOKS = {
    TOTAL: Look("#000000", "o"),
    "inner": Look("#4b1d91", "D"),
    "truncation": Look("#4b1d91", "D"),
    "solver": Look("#c8511b", "^"),
    "rounding": Look("#3fa7d6", "v"),
    "first_order": Look("#ecc83a", "P"),
}
LETTERS = {"inner": "I", "truncation": "T", "solver": "S", "rounding": "R", "first_order": "F"}
LEGEND = {
    TOTAL: "the error",
    "inner": "I: inner loop not converged;  T: truncated",
    "solver": "S: linear solve not finished",
    "rounding": "R: rounding",
    "first_order": "F: second-order terms left out",
}
NARROWEST, ROOMY = 0.1, 0.4  # inches of a cell that holds a letter, and of one that holds the error too
LABEL = 8.0  # points between two labels
RAISED = 0.16  # inches by which a row of maps is moved towards the lines that it belongs to
FLOOR = 1e-3  # of the finest epsilon: what is shorter is drawn on the lower edge
LAYOUT = Layout(columns=4, panel_height=1.05, left=0.62, right=0.72, gap=0.13, head=0.4, below=0.42, legend=0.72)
READING = (
    "Each error is split into vectors that add up to it, one for each ingredient that is not exact. Top: the lengths "
    "of the parts, relative to the exact gradient, for conjugate gradients with a middling number and with the most "
    "iterations, for the unrolled gradient and for the first-order one. A part can be longer than the error (black): "
    "parts that point against each other cancel. Those too short for the scale lie on its lower "
    "edge. Bottom: the largest part for every gradient in each arithmetic, and the error where there is room; "
    "hatched where parts cancel, so that the largest one is more than twice the error and mending it alone makes the "
    "gradient worse. White: no number. Only rounding, and the error with it, depends on the arithmetic (dashes)."
)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Median relative length of the error and of each of its parts."""
    rows = splits(frame)
    rows = rows.assign(iterations=rows["iterations"].where(rows["iterations"] != NONE))
    present = [part for part in PARTS if rows[part].notna().any()]
    return summarise(rows, ["case", *GRADIENT[1:], "inner_steps"], [TOTAL, *present])


def draw(frame: pd.DataFrame) -> Figure:
    """The figure."""
    rows = splits(frame)
    everything = view(frame, COLUMNS, "budget", apart=("part",))
    with style():
        names = cases(rows)
        if not names:
            return blank("no error was split into its parts")
        table = medians(rows)
        sheet = page(2 * len(names), LAYOUT)
        for place, case in enumerate(names):
            here, whole = rows[rows["case"] == case], everything[everything["case"] == case]
            target = target_of(here)
            shown = table[(table["case"] == case) & (table["target"] == target)]
            sheet.name_row(2 * place, case)
            sheet.note(2 * place, f"against the {TARGETS[target]}" + _remark(row_note(whole)))
            arithmetics = precisions(here)
            _sizes(sheet.panels[2 * place], shown, arithmetics, nothing_to_compare(whole, target))
            _maps(sheet.panels[2 * place + 1], shown, arithmetics)
        _legend(sheet, rows)
        return sheet.figure


def _remark(note: str) -> str:
    return f"; {note}" if note else ""


def _sizes(panels: list[Axes], shown: pd.DataFrame, arithmetics: list[str], why: str) -> None:
    """The lengths of the parts over inner steps, a gradient a panel."""
    drawn = [(IMPLICIT, count) for count in few_and_most(iteration_counts(shown))]
    drawn += [(method, NONE) for method in (UNROLLED, FIRST_ORDER) if (shown["method"] == method).any()]
    places = shown[[TOTAL, *PARTS]]
    lengths = places.to_numpy(dtype=float).ravel()
    floor = FLOOR * min((EPSILON[name] for name in arithmetics if name in EPSILON), default=0.0)
    scale = error_scale(np.where(lengths > 0, np.maximum(lengths, floor), lengths), arithmetics)
    steps = sorted(set(shown["inner_steps"]))
    for number, panel in enumerate(panels):
        if number >= len(drawn):
            panel.set_axis_off()
            continue
        method, count = drawn[number]
        panel.set_title(_title(method, count), fontsize=7.5)
        error_axis(panel, scale)
        count_axis(panel, steps, "inner steps")
        if number:
            panel.tick_params(labelleft=False)
        else:
            panel.set_ylabel("length / exact gradient")
        epsilon_lines(panel, arithmetics, label="")
        if number == len(drawn) - 1:
            epsilon_lines(panel, _apart(arithmetics, scale), label="outside")
        lines = shown[(shown["method"] == method) & (shown["iterations"] == count)]
        if lines[TOTAL].isna().all():
            say_instead(panel, why)
            continue
        _lines(panel, lines, arithmetics, scale)


def _apart(arithmetics: list[str], scale: ErrorScale) -> list[str]:
    """The arithmetics whose epsilons can be named without touching, the coarsest first."""
    points = LAYOUT.panel_height * 72 / np.log(scale.high / (scale.zero or scale.low))
    kept: list[str] = []
    for name in sorted((name for name in arithmetics if name in EPSILON), key=lambda name: -EPSILON[name]):
        if not kept or points * np.log(EPSILON[kept[-1]] / EPSILON[name]) >= LABEL:
            kept.append(name)
    return kept


def _title(method: str, count: float) -> str:
    return {UNROLLED: "unrolled", FIRST_ORDER: "first order"}.get(
        method, f"implicit, {count:g} CG iteration" + ("" if count == 1 else "s")
    )


def _lines(panel: Axes, lines: pd.DataFrame, arithmetics: list[str], scale: ErrorScale) -> None:
    for part in (*PARTS, TOTAL):
        # The other parts are those of the exact arithmetic, the same in every one; the first that knows them will do.
        apart = part in (TOTAL, "rounding")
        known = [name for name in arithmetics if lines.loc[lines["precision"] == name, part].notna().any()]
        for number, name in enumerate(known):
            line = lines[lines["precision"] == name]
            draw_line(
                panel, line, "inner_steps", part, part, name if apart else "float64", scale=scale, plain=number > 0,
                color=LOOKS[part].color, marker=LOOKS[part].marker, size=2.6 if part == TOTAL else 4.0,
            )  # fmt: skip
            if not apart:
                break


def _maps(panels: list[Axes], shown: pd.DataFrame, arithmetics: list[str]) -> None:
    """The largest part over inner steps and gradients, an arithmetic a panel."""
    gradients = [(IMPLICIT, count) for count in iteration_counts(shown)]
    gradients = [
        *((method, NONE) for method in (FIRST_ORDER, UNROLLED) if (shown["method"] == method).any()),
        *gradients,
    ]
    steps = sorted(set(shown["inner_steps"]))
    _move(panels, wide=len(arithmetics) <= 2)
    for number, panel in enumerate(panels):
        if number >= len(arithmetics):
            panel.set_axis_off()
            continue
        title = "largest part and the error" if len(arithmetics) <= 2 else "largest part"
        panel.set_title(f"{title}, {printable(arithmetics[number])}", fontsize=7.5)
        _map(panel, shown[shown["precision"] == arithmetics[number]], gradients, steps, named=number == 0)


def _move(panels: list[Axes], *, wide: bool) -> None:
    """Bring a row of maps closer to its lines, and make two of them as wide as four."""
    boxes = [panel.get_position() for panel in panels]
    figure = panels[0].get_figure(root=True)
    assert figure is not None, "a panel belongs to a figure"
    up = RAISED / figure.get_figheight()
    for number, (panel, box) in enumerate(zip(panels, boxes, strict=True)):
        first, last = (boxes[2 * number], boxes[2 * number + 1]) if wide and number < 2 else (box, box)
        panel.set_position((first.x0, box.y0 + up, last.x1 - first.x0, box.height))


def _map(
    panel: Axes, shown: pd.DataFrame, gradients: list[tuple[str, float]], steps: list[float], *, named: bool
) -> None:
    width = panel.get_position().width * WIDTH / len(steps)
    height = LAYOUT.panel_height / len(gradients)
    short = {UNROLLED: "unrolled", FIRST_ORDER: "first order"}
    columns = ("method", "iterations", "inner_steps", "largest", "cancels", TOTAL)
    cells = {tuple(row[:3]): tuple(row[3:]) for row in zip(*(shown[name].tolist() for name in columns), strict=True)}
    for y, (method, count) in enumerate(gradients):
        for x, step in enumerate(steps):
            part, cancels, error = cells.get((method, count, step), (None, False, 0.0))
            if part not in LETTERS:
                continue
            color = LOOKS[part].color
            panel.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor="white", linewidth=0.6))
            if cancels:
                panel.add_patch(
                    Rectangle(
                        (x, y), 1, 1, facecolor="none", edgecolor="#ffffff", linewidth=0, hatch="/////", alpha=0.6
                    )
                )
            if min(width, height) >= NARROWEST:
                dark = np.dot(to_rgb(color), (0.299, 0.587, 0.114)) < 0.5
                said = f"{LETTERS[part]} {_short(error)}" if width >= ROOMY else LETTERS[part]
                panel.text(
                    x + 0.5, y + 0.47, said, ha="center", va="center", fontsize=6,
                    color="white" if dark else "black", path_effects=[withStroke(linewidth=1.6, foreground=color)],
                )  # fmt: skip
    if shown["largest"].isna().all():
        say_instead(panel, "no number")
    panel.grid(False)
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    panel.set_xlim(0, len(steps))
    panel.set_ylim(0, len(gradients))
    stride = max(1, int(np.ceil(0.06 * (1 + len(f"{steps[-1]:g}")) / width)))
    kept = np.arange(len(steps))[::-stride][::-1]  # the last must be named
    panel.set_xticks(kept + 0.5, [f"{steps[place]:g}" for place in kept])
    panel.set_xlabel("inner steps", labelpad=1.5)
    names = [short.get(method, f"{count:g} CG") for method, count in gradients] if named else []
    panel.set_yticks(np.arange(len(names)) + 0.5, names)


def _short(error: float) -> str:
    return percent(error).replace(" times", "\N{MULTIPLICATION SIGN}")


def _legend(sheet: Page, rows: pd.DataFrame) -> None:
    present = {part for part in PARTS if rows[part].notna().any()}
    present |= {"inner"} if "truncation" in present else set()
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=LOOKS[part].color, marker=LOOKS[part].marker, label=label)
        for part, label in LEGEND.items()
        if part == TOTAL or part in present
    ]
    handles.append(Patch(facecolor="#6a6a6a", edgecolor="white", hatch="/////", label="hatched: parts cancel"))
    sheet.legend([*handles, *precision_handles(precisions(rows))], 3)


sections.register("budget")(
    Section(
        name="budget",
        questions=("Q7",),
        title="Which part of the error is whose?",
        reading=READING,
        columns=COLUMNS,
        draw=draw,
        verdicts=verdicts,
        summary=summary,
        order=40,
    )
)
