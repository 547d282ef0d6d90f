"""Axes for errors and for counts of steps: logarithmic, with room for what a logarithm cannot show."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from figures.names import printable
from figures.style import GREY
from figures.table_view import EPSILON

SMALLEST, LARGEST = 1e-18, 1e6  # errors outside are drawn at the edge of the scale
RAISED = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")


@dataclass(frozen=True)
class ErrorScale:
    """A logarithmic scale for the errors of a row of panels.

    An error of exactly 0 is drawn on a line of its own at `zero`, which has the tick label 0; one beyond `high`, an
    infinite one included, on the upper edge, which then has the tick label "over".
    """

    low: float
    high: float
    zero: float | None
    over: bool = False

    def place(self, errors: np.ndarray) -> np.ndarray:
        """Where the errors are drawn; NaN stays NaN."""
        placed = np.where(np.isnan(errors), np.nan, np.clip(errors, self.low * 1.3, self.high))
        return placed if self.zero is None else np.where(errors < SMALLEST, self.zero, placed)


def error_scale(errors: Iterable[float], epsilons: Sequence[str] = ()) -> ErrorScale:
    """A scale that holds all errors, at least two decades of it, and the named epsilons that come close to them."""
    every = np.asarray(list(errors), dtype=float)
    real = every[np.isfinite(every) & (every >= SMALLEST)]
    low, high = (real.min(), real.max()) if real.size else (1e-3, 1.0)
    near = [EPSILON[name] for name in epsilons if name in EPSILON and low / 30 <= EPSILON[name] <= high * 30]
    low, high = min([low, *near]) / 3, min(max([high, *near]) * 3, LARGEST)
    low = min(low, high / 1e2)
    has_zero = bool(np.any(every < SMALLEST))
    below = low / (high / low) ** 0.12
    over = bool(np.any(every > high))
    return ErrorScale(below / 2 if has_zero else low, high, below if has_zero else None, over)


def power_of_ten(exponent: int) -> str:
    """Ten to this power, with raised digits that are characters: drawn several times faster than mathtext."""
    return "10" + str(exponent).translate(RAISED)


def error_axis(panel: Axes, scale: ErrorScale) -> None:
    """Make the vertical axis of a panel this scale."""
    panel.set_yscale("log")
    panel.set_ylim(scale.low, scale.high)
    decades = np.arange(
        np.ceil(np.log10(scale.low if scale.zero is None else scale.low * 8)), np.log10(scale.high) + 1e-9
    )
    stride = max(1, int(np.ceil(len(decades) / 6)))
    chosen = [d for d in decades if int(d) % stride == 0]
    places, labels = [10.0**d for d in chosen], [power_of_ten(int(d)) for d in chosen]
    if scale.zero is not None:
        apart = scale.zero * (scale.high / scale.low) ** 0.1  # the label of the lowest decade must not touch the 0
        places, labels = [x for x in places if x > apart], [y for x, y in zip(places, labels, strict=True) if x > apart]
        places, labels = [scale.zero, *places], ["0", *labels]
        panel.axhline(scale.zero * 2.2, color=GREY, linewidth=0.5, linestyle=(0, (1, 2)), zorder=0.5)
    if scale.over:
        apart = scale.high / (scale.high / scale.low) ** 0.08
        kept = [(x, y) for x, y in zip(places, labels, strict=True) if x < apart]
        places, labels = [*(x for x, _ in kept), scale.high], [*(y for _, y in kept), "over"]
    panel.yaxis.set_major_locator(FixedLocator(places))
    panel.yaxis.set_major_formatter(FixedFormatter(labels))
    panel.yaxis.set_minor_locator(NullLocator())


def epsilon_lines(panel: Axes, precisions: Sequence[str], *, label: str) -> None:
    """A thin line at the machine epsilon of each arithmetic that the axis reaches.

    `label` is "outside" (at the right), "inside" (at the left end, for panels whose curves fall) or empty.
    """
    low, high = panel.get_ylim()
    for name in precisions:
        epsilon = EPSILON.get(name)
        if epsilon is None or not low < epsilon < high:
            continue
        panel.axhline(epsilon, color=GREY, linewidth=0.7, zorder=0.6)
        if label:
            outside = label == "outside"
            panel.annotate(
                f"{printable(name)} eps", (1 if outside else 0.02, epsilon), xycoords=("axes fraction", "data"),
                xytext=(3, 0) if outside else (0, 1), textcoords="offset points", fontsize=6.5, color="#555555",
                va="center" if outside else "bottom", annotation_clip=False,
            )  # fmt: skip


def count_axis(panel: Axes, counts: Sequence[float], label: str) -> None:
    """A horizontal axis for counts of steps or iterations, logarithmic beyond 1, with a place for 0.

    Ticks stand at the counts that were measured, as many as there is room for.
    """
    counts = sorted(set(counts))
    panel.set_xlabel(printable(label), labelpad=1.5)
    if not counts:
        panel.set_xticks([])
        return
    panel.set_xscale("symlog", linthresh=1, linscale=0.5)
    forward = panel.xaxis.get_transform().transform
    spots = forward(np.asarray(counts, dtype=float))
    margin = max((spots[-1] - spots[0]) * 0.05, 0.05)
    backward = panel.xaxis.get_transform().inverted().transform
    panel.set_xlim(*backward(np.array([spots[0] - margin, spots[-1] + margin])))
    width = spots[-1] - spots[0] + 2 * margin
    shown, last = [], np.inf
    for count, spot in zip(reversed(counts), reversed(list(spots)), strict=True):  # the largest first: it must be named
        inches = panel.get_position().width * _figure_width(panel)
        room = (0.045 + 0.06 * len(f"{count:g}")) / inches * width
        if last - spot >= room:
            shown.append(count)
            last = spot
    panel.xaxis.set_major_locator(FixedLocator(shown))
    panel.xaxis.set_major_formatter(FixedFormatter([f"{count:g}" for count in shown]))
    panel.xaxis.set_minor_locator(NullLocator())


def line_or_level(
    panel: Axes, x: np.ndarray, y: np.ndarray, dash: str | tuple[float, tuple[float, ...]], *,
    color: str, linewidth: float, zorder: float,
) -> None:  # fmt: skip
    """A line through the points; of one alone, which a line would not show, a level across the panel."""
    if len(y) == 1:
        panel.axhline(float(y[0]), color=color, linestyle=dash, linewidth=linewidth, zorder=zorder)
    elif len(y):
        panel.plot(x, y, color=color, linestyle=dash, linewidth=linewidth, zorder=zorder)


def _figure_width(panel: Axes) -> float:
    figure = panel.get_figure(root=True)
    assert figure is not None, "a panel belongs to a figure"
    return figure.get_figwidth()
