"""Learning curves over iterations and over time, beside the exactness of the gradient along training (Q4, Q6)."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.seeds import over_seeds
from figures.page import Layout, blank, page, say_instead
from figures.style import drawing
from figures.training_axes import line_handles, remark
from figures.training_lines import Line
from figures.training_scales import Exactness, Performance, exactness_axis, performance, performance_axis, plain_axis
from figures.training_view import Case, studied

MARKERS = 6  # along a line, so that lines can be told apart in grey
READING = (
    "A row for each number of inner steps in training. Left: performance on the validation tasks, mean over seeds, "
    "over outer iterations. Middle: the same over seconds of training, reckoned as the iteration times the median "
    "seconds that one takes, over the seeds and the times between validations (on a CPU the processor's): the machine "
    "may have done other work meanwhile, so that seconds compare roughly. Right: 1 - "
    "cosine between the mean gradient that training follows and the exact derivative of the same loop, at the theta of "
    "the iteration, for some fixed tasks, mean over seeds, with all below 1e-6 on one line, as rounding. Lines without "
    "intervals: those are in the first picture. A cross: a run diverged there, and the mean goes on without it."
)


def draw(frame: pd.DataFrame) -> Figure:
    """The figure."""
    cases = studied(frame)
    with drawing():
        if not cases:
            return blank("no training run was validated")
        rows = [(case, steps) for case in cases for steps in case.steps]
        handles = line_handles(cases)
        sheet = page(
            len(rows),
            Layout(columns=3, panel_height=1.3, right=0.16, legend=0.2 + 0.165 * -(-len(handles) // 3)),
        )
        for place, (case, steps) in enumerate(rows):
            if steps == case.steps[0]:
                sheet.name_row(place, case.name)
                sheet.note(place, remark(case))
            _row(sheet.panels[place], case, steps)
        sheet.legend(handles, 3)
        return sheet.figure


def _row(panels: list[Axes], case: Case, steps: float) -> None:
    over_iterations, over_time, exact = panels
    curves = mean_curves(case, steps)
    lines = [line for line in _under_first(case) if line.name in set(curves["line"])]
    scale = performance(case, curves[case.measure])
    seconds = curves.assign(x=curves["iteration"] * curves["seconds"])
    trained = f"trained with {steps:g} step" + ("" if steps == 1 else "s")
    for panel, table, title in (
        (over_iterations, curves.assign(x=curves["iteration"]), trained),
        (over_time, seconds, "the same over time"),
    ):
        panel.set_title(title, fontsize=7.5)
        performance_axis(panel, scale, label=f"validation {case.measure}" if panel is over_iterations else "")
        label = "outer iterations" if panel is over_iterations else "seconds of training"
        plain_axis(panel, float(np.nanmax([0.0, *table["x"]])), label)
        for place, line in enumerate(lines):
            _line(panel, table[table["line"] == line.name], case.measure, line, case, scale, place)
    _crosses(over_iterations, curves, case, scale)
    _exactness(exact, case, steps)


def mean_curves(case: Case, steps: float) -> pd.DataFrame:
    """Means over seeds by line and iteration, with the `seconds` of an iteration, and what of the seeds diverged."""
    here = case.curves[case.curves["inner_steps"] == steps]
    here = here.assign(diverged=here["iteration"].groupby([here["line"], here["seed"]]).transform("max"))
    here = here.assign(diverged=(here["diverged"] == here["iteration"]) & _diverged(here, case))
    found = over_seeds(here, ["line", "iteration"])
    pace = case.pace[case.pace.index.get_level_values("inner_steps") == steps].droplevel("inner_steps")
    return found.assign(seconds=found["line"].map(pace).astype("float64")).sort_values(["line", "iteration"])


def mean_distances(case: Case, steps: float) -> pd.DataFrame:
    """The means over seeds of 1 - cosine, by line and iteration."""
    here = case.probes[case.probes["inner_steps"] == steps]
    return over_seeds(here, ["line", "iteration"], ["cosine_distance"]).sort_values(["line", "iteration"])


def _diverged(here: pd.DataFrame, case: Case) -> np.ndarray:
    runs = case.each.loc[case.each["diverged"], ["line", "inner_steps", "seed"]].drop_duplicates()
    known = set(runs.itertuples(index=False, name=None))
    return np.array([key in known for key in here[["line", "inner_steps", "seed"]].itertuples(index=False, name=None)])


def _line(
    panel: Axes, table: pd.DataFrame, value: str, line: Line, case: Case, scale: Performance | Exactness, place: int
) -> None:
    style = line.look(case.usual)
    y = table[value].to_numpy(dtype=float)
    every = max(1, -(-len(table) // MARKERS))
    panel.plot(
        table["x"], scale.place(y), color=style.color, linestyle=line.dash, linewidth=1.1, marker=style.marker,
        markersize=3.0, markevery=(place % every, every), zorder=3,
    )  # fmt: skip


def _crosses(panel: Axes, curves: pd.DataFrame, case: Case, scale: Performance) -> None:
    looks = {line.name: line.look(case.usual) for line in case.lines}
    for row in curves[curves["diverged"] > 0].to_dict("records"):
        panel.plot(row["iteration"], scale.place(np.array([row[case.measure]])), marker="x", markersize=6,
                   markeredgewidth=1.4, color=looks[row["line"]].color, linestyle="none", zorder=5)  # fmt: skip


def _exactness(panel: Axes, case: Case, steps: float) -> None:
    table = mean_distances(case, steps)
    panel.set_title("gradient: 1 - cosine", fontsize=7.5)
    panel.set_xlabel("outer iterations", labelpad=1.5)
    if table["cosine_distance"].isna().all():
        panel.set_xticks([])
        say_instead(panel, "not probed" if table.empty else "no probe has a number")
        return
    scale = Exactness.of(table["cosine_distance"])
    exactness_axis(panel, "y", scale)
    plain_axis(panel, float(table["iteration"].max()), "outer iterations")
    for place, line in enumerate(_under_first(case)):
        rows = table[table["line"] == line.name].assign(x=table["iteration"])
        if len(rows):
            _line(panel, rows, "cosine_distance", line, case, scale, place)


def _under_first(case: Case) -> list[Line]:
    """The lines in the order of drawing: solid ones of other arithmetics below the dashed ones that they would hide."""
    return [*case.variants, *case.plain]


CURVES = (READING, draw)
