"""What costs buy: the accuracy of every setting against its cost, with the front of those that nothing beats."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from figures.axes import error_axis, error_scale
from figures.cost_axes import NAMES, cost_axis, look_of, page_height
from figures.cost_view import COSTS, NONE, front
from figures.names import TARGETS, printable
from figures.page import say_instead
from figures.style import GREY, WIDTH


def draw_bought(panels: list[Axes], settings: pd.DataFrame, target: str, why: str) -> None:
    """A panel for each cost; `why` is said where no setting has an accuracy."""
    for panel, by in zip(panels, COSTS, strict=True):
        panel.set_title(f"against the {TARGETS[target]}" + _of_steps(settings, target), fontsize=7.5)
        known = settings[settings[by].notna() & settings["cosine_distance"].notna()].reset_index(drop=True)
        if known.empty:
            panel.set_xticks([])
            say_instead(panel, why)
            continue
        scale = error_scale(known["cosine_distance"])
        error_axis(panel, scale)
        cost_axis(panel, "x", known[by], by)
        panel.set_xlabel(NAMES[by], labelpad=1.5)
        panel.set_ylabel("1 - cosine" if by == COSTS[0] else "")
        heights = scale.place(known["cosine_distance"].to_numpy(dtype=float))
        best = front(known[by].tolist(), known["cosine_distance"].tolist())
        panel.step(known.loc[best, by], heights[best], where="post", color=GREY, linewidth=0.9, zorder=2)
        for place in range(len(known)):
            row = known.iloc[place]
            style, on = look_of(str(row["method"])), place in best
            face = "white" if bool(row["mostly_indefinite"]) else style.color
            panel.plot(row[by], heights[place], linestyle="none", marker=style.marker, color=style.color,
                       markerfacecolor=face, markersize=4.6 if on else 3.0, zorder=4 if on else 3,
                       alpha=1.0 if on else 0.55)  # fmt: skip
        several = known["inner_optimizer"].nunique() > 1
        _name(panel, known, best, heights, by, several)


def _name(panel: Axes, known: pd.DataFrame, best: list[int], heights: np.ndarray, by: str, several: bool) -> None:
    """Name the settings on a front, the most accurate first, as long as the names do not touch."""
    box = panel.get_position()
    size = np.array([box.width * WIDTH, box.height * page_height(panel)]) * 72
    taken: list[tuple[float, float, float]] = []
    for place in reversed(best):
        text = _setting(known.iloc[place], several)
        spot = panel.transScale.transform(np.array([known[by].iloc[place], heights[place]], dtype=float))
        corners = panel.transScale.transform(list(zip(panel.get_xlim(), panel.get_ylim(), strict=True)))
        x, y = (spot - corners[0]) / (corners[1] - corners[0]) * size
        length = 3.4 * len(text)
        left = x + 3 + length > size[0] + 20  # beyond the panel it would meet the next one
        start = x - 3 - length if left else x + 3
        if any(abs(y - other) < 7 and start < end and begin < start + length for begin, end, other in taken):
            continue
        taken.append((start, start + length, y))
        panel.annotate(text, (known.loc[place, by], heights[place]), xytext=(-3 if left else 3, 2.5),
                       textcoords="offset points", ha="right" if left else "left", fontsize=6, zorder=5)  # fmt: skip


def _of_steps(settings: pd.DataFrame, target: str) -> str:
    return f", {settings['inner_steps'].iloc[0]:g} steps" if target == "unrolled" and len(settings) else ""


def _setting(row: pd.Series, several: bool) -> str:
    name = f"{row['inner_steps']:g}" + ("" if row["iterations"] == NONE else f"/{row['iterations']:g}")
    return f"{printable(str(row['inner_optimizer']), 8)} {name}" if several else name
