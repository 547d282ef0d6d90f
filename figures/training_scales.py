"""Axes of the pictures of training: performance, differences of it, and exactness of a gradient."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from figures.axes import power_of_ten
from figures.style import GREY
from figures.training_view import EXACT, Case

FEW = 6  # ticks
LINEAR = 0.1  # differences beyond this are drawn on a logarithm, where there are such as are much larger
ROUND = [1, 2, 2.5, 5, 10]  # what ticks are multiples of


@dataclass(frozen=True)
class Performance:
    """The scale of a row of panels: losses on a logarithm where all are above 0, accuracies in percent.

    What is beyond, an infinite loss or the end of a wide interval, is drawn at the edge; `over` says that some loss is
    infinite, which the uppermost tick then does.
    """

    measure: str
    low: float
    high: float
    log: bool
    over: bool

    def place(self, values: np.ndarray) -> np.ndarray:
        """Where values are drawn; NaN stays NaN."""
        return np.clip(values, self.low, self.high)


def performance(case: Case, values: Iterable[float]) -> Performance:
    """A scale that holds these values of a case."""
    every = np.asarray(list(values), dtype=float)
    real = every[np.isfinite(every)]
    over = bool(np.isposinf(every).any())
    if case.measure == "accuracy":
        low, high = (real.min(), real.max()) if real.size else (0.0, 1.0)
        margin = max(0.08 * (high - low), 0.02)
        return Performance("accuracy", max(low - margin, 0.0), min(high + margin, 1.0), False, False)
    low, high = (real.min(), real.max()) if real.size else (0.1, 1.0)
    if low > 0:
        margin = max((high / low) ** 0.1, 1.15) * (1.5 if over else 1.0)
        return Performance("loss", low / margin, high * margin, True, over)
    margin = max(0.1 * (high - low), 1e-12)
    return Performance("loss", low - margin, high + margin, False, over)


def performance_axis(panel: Axes, scale: Performance, *, label: str = "") -> None:
    """Make the vertical axis of a panel this scale."""
    if scale.log:
        panel.set_yscale("log")
    panel.set_ylim(scale.low, scale.high)
    panel.set_ylabel(label)
    if scale.log:
        places = _nice(scale.low, scale.high)
        names = [f"{place:g}" if 1e-3 <= place < 1e4 else _scientific(place) for place in places]
    else:
        places = _round(scale.low, scale.high, FEW - 1)
        names = [f"{100 * x:g}%" if scale.measure == "accuracy" else f"{x:g}" for x in np.round(places, 12)]
    if scale.over:
        edge = (
            scale.high / (scale.high / scale.low) ** 0.1 if scale.log else scale.high - 0.1 * (scale.high - scale.low)
        )
        kept = [(x, name) for x, name in zip(places, names, strict=True) if x < edge]
        places, names = [*(x for x, _ in kept), scale.high], [*(name for _, name in kept), "over"]
    panel.yaxis.set_major_locator(FixedLocator(places))
    panel.yaxis.set_major_formatter(FixedFormatter(names))
    panel.yaxis.set_minor_locator(NullLocator())


def _nice(low: float, high: float) -> list[float]:
    """The 1, 2, 5 of each decade, or fewer of many decades, or round numbers in part of one."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for leads in ((1, 2, 5), (1, 3), (1,)):
        found = [lead * 10.0**decade for decade in decades for lead in leads]
        found = [place for place in found if low <= place <= high]
        if len(found) <= FEW:
            break
    if len(found) < 3:
        return _round(low, high, FEW - 1)
    return found[:: -(-len(found) // FEW)]


def _round(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two."""
    return [float(x) for x in MaxNLocator(most, steps=ROUND).tick_values(low, high) if low <= x <= high]


def plain_axis(panel: Axes, greatest: float, label: str) -> None:
    """A horizontal axis from 0 on."""
    greatest = greatest if greatest > 0 else 1.0
    panel.set_xlim(-0.04 * greatest, 1.04 * greatest)
    panel.xaxis.set_major_locator(FixedLocator(_round(0.0, 1.04 * greatest, 4)))
    panel.set_xlabel(label, labelpad=1.5)


def _scientific(place: float) -> str:
    exponent = int(np.floor(np.log10(place) + 1e-9))
    lead = place / 10.0**exponent
    return (
        power_of_ten(exponent) if abs(lead - 1) < 1e-9 else f"{lead:g}\N{MULTIPLICATION SIGN}{power_of_ten(exponent)}"
    )


@dataclass(frozen=True)
class Exactness:
    """A logarithmic scale for 1 - cosine, where all below `EXACT` stands at `edge`, a place of its own."""

    least: float
    most: float
    edge: float | None

    @staticmethod
    def of(distances: Iterable[float]) -> "Exactness":
        """A scale that holds these."""
        every = np.asarray(list(distances), dtype=float)
        real = every[every > EXACT]
        least, most = (float(real.min()), float(real.max())) if real.size else (1e-3, 1.0)
        least, most = least / 1.5, max(most * 1.5, least * 10)
        edge = least / (most / least) ** 0.2
        return (
            Exactness(edge / (most / least) ** 0.07, most, edge)
            if (every <= EXACT).any()
            else Exactness(least, most, None)
        )

    def place(self, distances: np.ndarray) -> np.ndarray:
        """Where they are drawn."""
        return distances if self.edge is None else np.where(distances <= EXACT, self.edge, distances)

    def ticks(self) -> tuple[list[float], list[str]]:
        """Places and names."""
        start = self.least if self.edge is None else self.edge * (self.most / self.edge) ** 0.12
        decades = [d for d in range(-12, 2) if start <= 10.0**d <= self.most]
        decades = decades[:: max(1, -(-len(decades) // FEW))]
        places, names = [10.0**d for d in decades], [power_of_ten(d) for d in decades]
        if len(places) < 2:
            places = [x for d in range(-12, 2) for x in (10.0**d, 3 * 10.0**d) if start <= x <= self.most]
            names = [f"{x:g}" for x in places]
        if self.edge is None:
            return places, names
        known = "\N{LESS-THAN OR EQUAL TO}" + power_of_ten(round(np.log10(EXACT)))
        return [self.edge, *places], [known, *names]


def exactness_axis(panel: Axes, which: str, scale: Exactness) -> None:
    """Make an axis this scale; across, the more exact is to the right, and up it is below."""
    axis = panel.xaxis if which == "x" else panel.yaxis
    if which == "x":
        panel.set_xscale("log")
        panel.set_xlim(scale.most, scale.least)
    else:
        panel.set_yscale("log")
        panel.set_ylim(scale.least, scale.most)
    places, names = scale.ticks()
    axis.set_major_locator(FixedLocator(places))
    axis.set_major_formatter(FixedFormatter(names))
    axis.set_minor_locator(NullLocator())
    if scale.edge is not None:
        border = scale.edge * (scale.most / scale.edge) ** 0.08
        (panel.axvline if which == "x" else panel.axhline)(
            border, color=GREY, linewidth=0.5, linestyle=(0, (1, 2)), zorder=0.5
        )


def difference_axis(panel: Axes, ends: np.ndarray) -> None:
    """A vertical axis for differences, with a line at 0; where some are large it is logarithmic beyond `LINEAR`."""
    real = ends[np.isfinite(ends)]
    low, high = min(real.min(), 0.0), max(real.max(), 0.0)
    if max(-low, high) > 4 * LINEAR:
        panel.set_yscale("symlog", linthresh=LINEAR, linscale=1)
        forward = panel.yaxis.get_transform()
        ends = forward.transform(np.array([low, high]))
        margin = 0.06 * (ends[1] - ends[0])
        panel.set_ylim(*forward.inverted().transform(ends + [-margin, margin]))
        low, high = panel.get_ylim()
        whole = [sign * 10.0**d for sign in (-1, 1) for d in range(-1, 7)]
        places = sorted(place for place in [0.0, *whole] if low <= place <= high)
        if len(places) < 4:
            places = sorted([*places, *(x for x in (-0.5, -0.25, 0.25, 0.5) if low <= x <= high)])
        panel.yaxis.set_major_locator(FixedLocator(places))
    else:
        margin = max(0.08 * (high - low), 1e-9)
        panel.set_ylim(low - margin, high + margin)
        panel.yaxis.set_major_locator(FixedLocator(_round(low - margin, high + margin, 5)))
    panel.yaxis.set_major_formatter(lambda value, _: _percent(value))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.axhline(0.0, color=GREY, linewidth=0.9, zorder=1)


def _percent(difference: float) -> str:
    """`+1,000%`, `-2.5%`, `0`."""
    if abs(difference) <= 1e-12:
        return "0"
    return f"{100 * difference:+,.0f}%" if abs(difference) >= 1 else f"{100 * difference:+.3g}%"
