"""The lines of the pictures of training: a method in one arithmetic and rescaling, its name and its look."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from figures.names import method_name
from figures.style import Look, arithmetic_color, dash, look

MAML, UNROLLED, FOMAML, IMPLICIT = "unrolled_adjoint", "unrolled", "first_order", "implicit"
SHORT = {
    MAML: ("MAML", ""), UNROLLED: ("MAML", "full graph"), FOMAML: ("FOMAML", ""),
    "cg_unchecked": ("iMAML", "CG as released"), "cg": ("iMAML", "CG that stops"),
}  # fmt: skip
USUAL, PLAIN = "float32", "none"
DARKEST, PALE = 0.55, 0.45  # of the way to black, for the most of several CG iterations, and to white, if rescaled


@dataclass(frozen=True)
class Line:
    """One method in one arithmetic and rescaling, and what it is called.

    `iterations` is 0 where there is no solver; of several numbers the greater are the more `dark`.
    """

    method: str
    iterations: float
    precision: str
    scaling: str
    name: str
    dark: float = 0.0

    def look(self, usual: str) -> Look:
        """Its colour and marker: the method's, unless it differs in arithmetic or rescaling from the others."""
        style = look(self.method)
        style = Look(_mixed(style.color, 0, self.dark), style.marker)
        if self.scaling != PLAIN:
            return Look(_mixed(style.color, 255, PALE), "D" if style.marker == "s" else "d")
        return style if self.precision == usual else Look(arithmetic_color(self.precision), style.marker)

    @property
    def dash(self) -> tuple[int, tuple[float, ...]]:
        """That of its arithmetic."""
        return dash(self.precision)


def methods_of(settings: pd.DataFrame) -> pd.DataFrame:
    """The settings with `method`, the solver of an implicit estimator, and `counts`, the CG iterations it was given."""
    solver, estimator = (settings[name].astype("object") for name in ("solver", "estimator"))
    method = estimator.where(~(estimator.eq(IMPLICIT) & solver.notna()), solver)
    found = settings.assign(method=method.astype(str), given=settings["solver_iterations"].fillna(0.0))
    counts = {name: tuple(sorted(set(rows["given"]))) for name, rows in found.groupby("method")}
    return found.assign(counts=found["method"].map(counts))


def line_of(row: Any, usual: str) -> Line:
    """The line of a setting, a named tuple of `methods_of`."""
    name, kind = SHORT.get(row.method, (method_name(row.method), ""))
    several = len(row.counts) > 1
    notes = [
        *([kind] if kind else []),
        *([f"{row.given:g} iterations"] if several else []),
        *([row.precision] if row.precision != usual else []),
        *([row.scaling] if row.scaling != PLAIN else []),
    ]
    name += f" ({', '.join(notes)})" if notes else ""
    dark = DARKEST * row.counts.index(row.given) / (len(row.counts) - 1) if several else 0.0
    return Line(row.method, float(row.given), row.precision, row.scaling, name, dark)


def in_order(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Each line once: MAML first, and a method's plain line before those in other arithmetics and rescalings."""
    order = [*SHORT]
    return tuple(
        sorted(
            dict.fromkeys(lines),
            key=lambda line: (
                order.index(line.method) if line.method in order else len(order), line.method,
                line.scaling != PLAIN, line.scaling, line.precision != USUAL, line.precision,
                line.iterations,
            ),
        )
    )  # fmt: skip


def _mixed(color: str, with_grey: int, share: float) -> str:
    parts = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    return "#" + "".join(f"{round(part + share * (with_grey - part)):02x}" for part in parts)
