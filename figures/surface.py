"""The implicit gradient over inner steps and CG iterations at once: a map of the median cosine (Q3)."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from analyses.summary import summarise
from figures.axes import power_of_ten
from figures.caution import mostly_indefinite, nothing_to_compare, row_note
from figures.names import TARGETS
from figures.page import Layout, Page, blank, page, say_instead
from figures.section import Section, sections
from figures.style import WIDTH, drawing
from figures.surface_verdicts import verdicts
from figures.table_view import cases, finest, view

COLUMNS = ("solver", "solver_iterations", "target", "cosine", "cosine_distance", "min_eigenvalue")
TARGET_ORDER = ("unrolled", "stationary")
NORM = LogNorm(1e-5, 1.0, clip=True)
COLORS = "cividis_r"  # light is near; made for the colour-blind, and its lightness is even, so it survives grey
NARROWEST = 0.27  # inches of a cell that holds a number
READING = (
    "Median cosine between the implicit gradient by CG as released (it goes on past negative curvature) and the "
    "exact gradient, for every number of inner steps and CG iterations: 1 is right, dark is wrong. The colour is 1 - "
    "cosine on a logarithmic scale. Hatched: the inner Hessian has a negative eigenvalue in most tasks, so that the "
    "implicit formula does not apply, however good the number looks. White: no number."
)


def chosen(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that the figure shows: conjugate gradients as released, or where absent, those that stop."""
    rows = finest(
        frame[frame["method"].isin(("cg", "cg_unchecked")) & frame["target"].isin(TARGET_ORDER) & ~frame["theory"]]
    )
    released = (rows["method"] == "cg_unchecked").groupby(rows["case"]).transform("any")
    return rows[(rows["method"] == "cg_unchecked") | ~released]


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Median cosine, relative error and norm ratio of every cell of the map."""
    rows = chosen(view(frame, (*COLUMNS, "relative_error", "norm_ratio"), "surface"))
    keys = ["case", "target", "method", "precision", "inner_steps", "iterations"]
    return summarise(rows, keys, ["cosine", "relative_error", "norm_ratio"])


def draw(frame: pd.DataFrame) -> Figure:
    """The figure."""
    everything = view(frame, COLUMNS, "surface")
    rows = chosen(everything)
    with drawing():
        names = cases(rows)
        if not names:
            return blank("no implicit gradient by conjugate gradients was measured")
        keys = ["case", "target", "inner_steps", "iterations"]
        table = summarise(rows, keys, ["cosine", "cosine_distance"]).merge(mostly_indefinite(rows, keys), on=keys)
        most = max(here["iterations"].nunique() for _, here in table.groupby("case"))
        height = min(max(0.19 * most, 0.6), 2.2)
        sheet = page(len(names), Layout(columns=2, panel_height=height, left=0.5, right=0.12, gap=0.42, legend=0.62))
        for place, case in enumerate(names):
            sheet.name_row(place, case)
            here = table[table["case"] == case]
            whole = everything[everything["case"] == case]
            sheet.note(place, row_note(whole))
            for panel, target in zip(sheet.panels[place], TARGET_ORDER, strict=True):
                panel.set_title(f"median cosine to the {TARGETS[target]}", fontsize=7.5)
                shown = here[here["target"] == target]
                if shown["cosine"].isna().all():
                    panel.set_xticks([])
                    panel.spines[:].set_visible(False)
                    say_instead(panel, nothing_to_compare(whole, target))
                    continue
                _heat(panel, shown, sheet.layout)
            sheet.panels[place][0].set_ylabel("CG iterations")
        _key(sheet)
        return sheet.figure


def _heat(panel: Axes, shown: pd.DataFrame, layout: Layout) -> None:
    steps, counts = (sorted(set(shown[name])) for name in ("inner_steps", "iterations"))
    cells = shown.set_index(["iterations", "inner_steps"])
    mesh = cells["cosine_distance"].unstack().reindex(index=counts, columns=steps).to_numpy(dtype=float)
    colors = panel.pcolormesh(
        np.arange(len(steps) + 1), np.arange(len(counts) + 1), np.clip(mesh, NORM.vmin, NORM.vmax), norm=NORM,
        cmap=COLORS,
        edgecolors="white", linewidth=0.6,
    )  # fmt: skip
    panel.grid(False)
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    stride = int(np.ceil(0.06 * (1 + len(f"{steps[-1]:g}")) / (layout.panel_width / len(steps))))
    shown_steps = np.arange(len(steps))[:: max(stride, 1)]
    panel.set_xticks(shown_steps + 0.5, [f"{steps[place]:g}" for place in shown_steps])
    panel.set_yticks(np.arange(len(counts)) + 0.5, [f"{count:g}" for count in counts])
    panel.set_xlabel("inner steps", labelpad=1.5)
    room = layout.panel_width / len(steps) >= NARROWEST and layout.panel_height / len(counts) >= 0.12
    for (count, step), row in cells.iterrows():  # pyright: ignore[reportGeneralTypeIssues]
        x, y = steps.index(step), counts.index(count)
        if row["mostly_indefinite"]:
            panel.add_patch(
                Rectangle((x, y), 1, 1, facecolor="none", edgecolor="#ffffff", linewidth=0, hatch="////", alpha=0.55)
            )
        if room and np.isnan(row["cosine"]):
            panel.text(x + 0.5, y + 0.48, "none", ha="center", va="center", fontsize=6, color="#8a2b00", style="italic")
        elif room:
            color = colors.cmap(NORM(np.clip(row["cosine_distance"], NORM.vmin, NORM.vmax)))
            dark = np.dot(color[:3], (0.299, 0.587, 0.114)) < 0.5
            text = panel.text(
                x + 0.5, y + 0.48, short(row["cosine"]), ha="center", va="center", fontsize=6,
                color="white" if dark else "black",
            )  # fmt: skip
            if row["mostly_indefinite"]:
                text.set_path_effects([withStroke(linewidth=2, foreground=color)])


def short(cosine: float) -> str:
    """A cosine in at most five characters, that says 1 only of 1."""
    if cosine >= 0.99995:
        return "1.000" if cosine > 1 - 1e-6 else ">.999"
    digits = 4 if cosine >= 0.9995 else 3 if cosine >= 0.95 else 2
    return f"{cosine:.{digits}f}".replace("0.", ".", 1).replace("-", "\N{MINUS SIGN}")


def _key(sheet: Page) -> None:
    """The colour scale and the hatch, at the top."""
    figure, height = sheet.figure, sheet.figure.get_figheight()
    axes = figure.add_axes((sheet.layout.left / WIDTH, 1 - 0.2 / height, 2.6 / WIDTH, 0.1 / height))
    ramp = np.geomspace(1e-5, 1, 128)[None, :]
    edges = np.geomspace(1e-5, 1, 129)
    axes.pcolormesh(edges, [0, 1], ramp, norm=NORM, cmap=COLORS)
    axes.set_xscale("log")
    axes.set_yticks([])
    axes.grid(False)
    decades = range(-5, 1)
    named = [power_of_ten(d) for d in decades]
    axes.set_xticks([10.0**d for d in decades], [f"\u2264 {named[0]}", *named[1:-1], "\u2265 1"])
    axes.minorticks_off()
    axes.set_xlabel("colour: 1 - cosine, lower is better", labelpad=1, fontsize=7)
    hatch = Patch(
        facecolor="#9a9684",
        edgecolor="white",
        hatch="////",
        label="Hessian indefinite in most tasks:\nthe formula does not apply",
    )
    figure.legend(handles=[hatch], loc="upper left", bbox_to_anchor=(3.6 / WIDTH, 1 - 0.08 / height), handleheight=1.6)


sections.register("surface")(
    Section(
        name="surface",
        questions=("Q3",),
        title="Which inner steps and CG iterations make an implicit gradient that can be trusted?",
        reading=READING,
        columns=COLUMNS,
        draw=draw,
        verdicts=verdicts,
        summary=summary,
        order=30,
    )
)
