"""A page of small panels laid out in inches: a row a case, so that nothing collides however many there are."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from figures.names import printable, problem_name
from figures.style import GREY, INK, WIDTH


@dataclass(frozen=True)
class Layout:
    """Sizes in inches. `gap` lies between the columns, `below` under each row for ticks and the axis label."""

    columns: int
    panel_height: float = 1.45
    left: float = 0.62
    right: float = 0.72
    gap: float = 0.5
    head: float = 0.42  # above each row: the case in bold, then the panels' own titles
    below: float = 0.42
    legend: float = 0.5

    @property
    def panel_width(self) -> float:
        """What is left for a panel."""
        return (WIDTH - self.left - self.right - self.gap * (self.columns - 1)) / self.columns

    @property
    def row_height(self) -> float:
        """One row, with its head and what hangs below."""
        return self.head + self.panel_height + self.below


@dataclass(frozen=True)
class Page:
    """A figure and its panels, `panels[row][column]`."""

    figure: Figure
    panels: list[list[Axes]]
    layout: Layout

    def note(self, row: int, text: str) -> None:
        """A remark on a row, on the line of its name, at the right."""
        edge = self.layout.left + self._span
        self.figure.text(
            edge / WIDTH,
            self._head_line(row),
            text,
            ha="right",
            va="bottom",
            fontsize=7,
            color="#8a2b00",
            style="italic",
        )

    def name_row(self, row: int, case: str) -> None:
        """The case, in bold, above its row; a long name is set smaller, and one that is too long even then is cut."""
        text, size = _fitted(case)
        self.figure.text(
            0.08 / WIDTH, self._head_line(row), text, ha="left", va="bottom", fontsize=size, weight="bold", color=INK
        )

    def legend(self, handles: Sequence[Artist], columns: int) -> None:
        """The one legend, at the top."""
        height = self.figure.get_figheight()
        self.figure.legend(
            handles=list(handles), loc="upper left", ncols=columns, bbox_to_anchor=(0.08 / WIDTH, 1 - 0.06 / height)
        )

    @property
    def _span(self) -> float:
        return self.layout.panel_width * self.layout.columns + self.layout.gap * (self.layout.columns - 1)

    def _head_line(self, row: int) -> float:
        from_top = self.layout.legend + row * self.layout.row_height + 0.19
        return 1 - from_top / self.figure.get_figheight()


def _fitted(case: str) -> tuple[str, float]:
    """The case's name and the size that it is set in."""
    whole = printable(problem_name(case), 90)
    for size, inches in ((8.5, 4.2), (6.2, WIDTH - 0.16)):  # the larger leaves room for a remark at the right
        shape = TextPath((0, 0), whole, size=size, prop=FontProperties(family="DejaVu Sans", weight="bold"))
        if shape.get_extents().width / 72 <= inches:
            return whole, size
    return printable(problem_name(case), 48), 8.5


def page(rows: int, layout: Layout) -> Page:
    """An empty page with `rows` rows of panels."""
    height = layout.legend + rows * layout.row_height
    figure = Figure(figsize=(WIDTH, height))
    panels = [
        [
            figure.add_axes(
                (
                    (layout.left + column * (layout.panel_width + layout.gap)) / WIDTH,
                    1 - (layout.legend + row * layout.row_height + layout.head + layout.panel_height) / height,
                    layout.panel_width / WIDTH,
                    layout.panel_height / height,
                )
            )
            for column in range(layout.columns)
        ]
        for row in range(rows)
    ]
    return Page(figure, panels, layout)


def blank(message: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure = Figure(figsize=(WIDTH, 0.8))
    figure.text(0.5, 0.5, message, ha="center", va="center", color=GREY)
    return figure


def say_instead(panel: Axes, message: str) -> None:
    """Words in the middle of a panel that has nothing else to show, and no scale then."""
    panel.set_yticks([])
    panel.grid(False)
    panel.text(
        0.5, 0.5, message, transform=panel.transAxes, ha="center", va="center", fontsize=7.5, color="#8a2b00",
        style="italic",
    )  # fmt: skip
