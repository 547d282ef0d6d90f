"""Lines of medians with their intervals, and the legend that explains them."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures.axes import ErrorScale
from figures.names import method_name, printable
from figures.style import dash, look

THEORY = "#8c8c8c"
THEORY_DASH = {True: (0, (1, 1.3)), False: (0, (4, 2))}
HOLLOW = "hollow: most tasks indefinite"


def draw_line(
    panel: Axes,
    table: pd.DataFrame,
    along: str,
    value: str,
    method: str,
    precision: str = "float64",
    *,
    scale: ErrorScale | None = None,
    plain: bool = False,
    marker: str | None = None,
    color: str | None = None,
    size: float | None = None,
    width: float | None = None,
) -> None:
    """Medians `value` over `along`, with the band of their intervals; hollow markers where most tasks are indefinite.

    `table` is a summary with one row for each place on `along`. A `plain` line has neither markers nor a band.
    """
    table = table.sort_values(along)
    style = look(method)
    color = color or style.color
    x = table[along].to_numpy(dtype=float)
    middle, low, high = (table[value + end].to_numpy(dtype=float) for end in ("", "_low", "_high"))
    if scale is not None:
        middle, low, high = scale.place(middle), scale.place(low), scale.place(high)
    panel.plot(x, middle, color=color, linestyle=dash(precision), linewidth=0.9 if plain else width, zorder=3)
    if plain:
        return
    panel.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0, zorder=1.5)
    hollow = table["mostly_indefinite"].to_numpy(dtype=bool) if "mostly_indefinite" in table else np.zeros(len(x), bool)
    for chosen, face in ((~hollow, color), (hollow, "white")):
        panel.plot(
            x[chosen], middle[chosen], linestyle="none", marker=marker or style.marker, color=color,
            markerfacecolor=face, markersize=size, zorder=4, clip_on=False,
        )  # fmt: skip


def draw_theory(panel: Axes, table: pd.DataFrame, along: str, value: str, scale: ErrorScale, *, bound: bool) -> None:
    """A line that theory gives, thin and grey; dotted for a bound, dashed for a prediction.

    What lies off the scale is left out: a bound of 1e9 says nothing.
    """
    table = table.sort_values(along)
    x, y = table[along].to_numpy(dtype=float), table[value].to_numpy(dtype=float)
    shown = np.isfinite(y) & (y > scale.low * 1.3) & (y < scale.high)
    panel.plot(x, np.where(shown, y, np.nan), color=THEORY, linewidth=1.0, linestyle=THEORY_DASH[bound], zorder=5)


def theory_handle(label: str, *, bound: bool) -> Line2D:
    """The legend entry of a line that theory gives."""
    return Line2D([], [], color=THEORY, linewidth=1.0, linestyle=THEORY_DASH[bound], label=label)


def method_handles(methods: Sequence[str], more: Mapping[str, str] = MappingProxyType({})) -> list[Line2D]:
    """A legend entry for each method, with what `more` adds to its name."""
    return [
        Line2D([], [], color=look(name).color, marker=look(name).marker, label=method_name(name) + more.get(name, ""))
        for name in methods
    ]


def precision_handles(precisions: Sequence[str]) -> list[Line2D]:
    """A legend entry for each arithmetic, where there is more than one."""
    if len(precisions) < 2:
        return []
    return [Line2D([], [], color="#444444", linestyle=dash(name), label=printable(name)) for name in precisions]


def warning_handles(table: pd.DataFrame, value: str) -> list[Artist]:
    """The legend entries of the interval and of hollow markers, where a summary has any."""
    color = look("exact").color
    band = Patch(facecolor="#444444", alpha=0.18, label="95% interval of the median")
    hollow = Line2D([], [], color=color, marker="D", markerfacecolor="white", linestyle="none", label=HOLLOW)
    has_band = table[f"{value}_low"].notna().any()
    has_hollow = "mostly_indefinite" in table and table["mostly_indefinite"].eq(True).any()
    return [*([band] if has_band else []), *([hollow] if has_hollow else [])]
