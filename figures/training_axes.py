"""What the pictures of training share: means with their intervals, floors, remarks and the legend."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from figures.axes import line_or_level
from figures.names import printable
from figures.style import GREY
from figures.training_lines import Line
from figures.training_scales import Performance
from figures.training_view import Case

FLOOR_DASH = (0, (8, 3))
FLOOR_NAMES = {"untrained": "untrained", "nearest_neighbour": "nearest neighbour"}
NEAR, FAR = 0.011, 0.06  # of the width of a panel, between the bars of two lines


def shares(table: pd.DataFrame, case: Case, value: str) -> pd.DataFrame:
    """Differences to the reference as they are drawn: of losses as a share of its loss, of accuracies as they are."""
    if case.measure == "accuracy" or case.reference is None:
        return table
    own = case.as_trained[case.as_trained["line"] == case.reference.name].set_index("inner_steps")["loss"]
    size = table["inner_steps"].map(own).abs().to_numpy(dtype=float)
    return table.assign(**{name: table[name] / size for name in (value, f"{value}_half")})


def shifted(panel: Axes, x: np.ndarray, share: float) -> np.ndarray:
    """Places moved along the axis by a share of its length."""
    forward, low, high = panel.xaxis.get_transform(), *panel.get_xlim()
    ends = forward.transform(np.array([low, high], dtype=float))
    return forward.inverted().transform(forward.transform(np.asarray(x, dtype=float)) + share * (ends[1] - ends[0]))


def draw_means(
    panel: Axes, table: pd.DataFrame, along: str, value: str, line: Line, case: Case, scale: Performance | None,
    place: tuple[int, int] = (0, 1), *, alone: bool = False,
) -> None:  # fmt: skip
    """Means over seeds, with their intervals as bars that are moved a little apart.

    `place` is the line's among all that share the panel: the later are drawn smaller, upon the earlier. Where there is
    one place only (`alone`) the points are moved apart with their bars, and far.
    """
    style = line.look(case.usual)
    middle = table[value].to_numpy(dtype=float)
    half = table[f"{value}_half"].to_numpy(dtype=float)
    aside = place[0] - (place[1] - 1) / 2
    x = table[along].to_numpy(dtype=float)
    bars = shifted(panel, x, (FAR if alone else NEAR) * aside)
    low, high = middle - half, middle + half
    if scale is not None:
        middle, low, high = scale.place(middle), scale.place(low), scale.place(high)
    panel.vlines(bars, low, high, color=style.color, linewidth=0.9, alpha=0.75, zorder=2.5)
    size = 4.6 - 2.0 * place[0] / max(place[1] - 1, 1)
    panel.plot(bars if alone else x, middle, color=style.color, linestyle=line.dash, linewidth=1.1,
               marker=style.marker, markersize=size, zorder=3, label=line.name, clip_on=False)  # fmt: skip


def draw_floor(panel: Axes, case: Case, along: str, scale: Performance) -> None:
    """What training must beat: the untrained network over steps, and nearest neighbours at one height."""
    for name, rows in case.floors[case.floors["scaling"] == "none"].groupby("estimator"):
        if rows[case.measure].isna().all():
            continue
        if name == "nearest_neighbour":
            panel.axhline(
                float(rows[case.measure].iloc[0]), color=GREY, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1
            )
            continue
        rows = rows[rows["test_steps"].isin(case.steps)] if along == "inner_steps" else rows
        rows = rows.sort_values("test_steps")
        x, heights = rows["test_steps"].to_numpy(float), scale.place(rows[case.measure].to_numpy(float))
        line_or_level(panel, x, heights, FLOOR_DASH, color=GREY, linewidth=0.8, zorder=1)


def line_handles(cases: Sequence[Case]) -> list[Artist]:
    """A legend entry for each line of any case."""
    found = {}
    for case in cases:
        for line in case.lines:
            style = line.look(case.usual)
            found.setdefault(
                line.name,
                Line2D([], [], color=style.color, linestyle=line.dash, linewidth=1.1, marker=style.marker,
                       markersize=3.6, label=printable(line.name)),
            )  # fmt: skip
    return list(found.values())


def floor_handles(cases: Sequence[Case]) -> list[Artist]:
    """The legend entries of the floors that there are."""
    seen = {name for case in cases for name in case.floors.dropna(subset=case.measure)["estimator"]}
    looks = {"untrained": FLOOR_DASH, "nearest_neighbour": (0, (1, 1.5))}
    return [
        Line2D([], [], color=GREY, linewidth=0.8, linestyle=looks[name], label=label)
        for name, label in FLOOR_NAMES.items()
        if name in seen
    ]


def remark(case: Case) -> str:
    """What must not be overlooked: runs that diverged, and test tasks whose loop did."""
    runs = case.each.drop_duplicates(["line", "inner_steps", "seed"])
    lost = int(case.each.loc[case.each["test_steps"] == case.each["inner_steps"], "lost"].sum())
    said = [f"{int(runs['diverged'].sum())} of {len(runs)} runs diverged"] if runs["diverged"].any() else []
    said += [f"the loop diverged in {lost} test tasks"] if lost else []
    return "; ".join(said)
