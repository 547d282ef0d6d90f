"""What the pictures of costs share: names, looks, and axes with units."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from figures.cost_view import LOOP, TEXTS
from figures.style import Look, look

LOOKS = {LOOP: Look("#a8a8a8", "_"), "checkpointed": Look("#2f7d4f", "X")}
NAMES = {"seconds": "seconds", "peak_bytes": "peak bytes"}


def look_of(method: str) -> Look:
    """The look of an estimator, or of the inner loop alone."""
    return LOOKS.get(method) or look(method)


def page_height(panel: Axes) -> float:
    """Inches of the figure that a panel belongs to."""
    figure = panel.get_figure(root=True)
    assert figure is not None, "a panel belongs to a figure"
    return figure.get_figheight()


def cost_axis(panel: Axes, which: str, values: pd.Series, by: str) -> None:
    """A logarithmic axis for a cost, with its unit on the ticks: 1, 10, 100 of it, and 3 where few fit."""
    found = values.dropna()
    found = found[found > 0]
    low, high = (found.min(), found.max()) if len(found) else (1e-3, 1.0)
    middle, half = np.sqrt(low * high), max(np.sqrt(high / low), 1.6) * 1.35
    low, high = middle / half, middle * half
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks = [x for d in decades for x in (10.0**d, 3 * 10.0**d) if low <= x <= high]
    room = 5 if which == "y" else 3
    if len(ticks) > room:
        whole = [10.0**d for d in decades if low <= 10.0**d <= high]
        ticks = whole[:: max(1, int(np.ceil(len(whole) / room)))]
    axis = panel.yaxis if which == "y" else panel.xaxis
    (panel.set_yscale if which == "y" else panel.set_xscale)("log")
    (panel.set_ylim if which == "y" else panel.set_xlim)(low, high)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([TEXTS[by](tick) for tick in ticks]))
    axis.set_minor_locator(NullLocator())
