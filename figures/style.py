"""The one look: colour and marker by method, dash by precision, wherever a figure draws.

The colours keep apart for the colour-blind and in grey: their lightness (CIE L*) rises in steps of about 13.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import matplotlib.style

STYLE = Path(__file__).with_name("gradgauge.mplstyle")
WIDTH = 6.8  # inches: the text width of a paper
GREY = "#707070"  # theory and epsilon lines
INK = "#222222"


@dataclass(frozen=True)
class Look:
    """How one method is drawn everywhere."""

    color: str
    marker: str


LOOKS = {
    "unrolled": Look("#000000", "o"),
    "unrolled_adjoint": Look("#5b5b5b", "s"),
    "exact": Look("#4b1d91", "D"),
    "cg_unchecked": Look("#c8511b", "^"),
    "cg": Look("#3fa7d6", "v"),
    "first_order": Look("#d9b310", "P"),
}
SPARE = (Look("#2f7d4f", "X"), Look("#b0417f", "h"), Look("#8a8f00", "*"), Look("#7f9fc9", "p"))
DASHES: dict[str, tuple[int, tuple[float, ...]]] = {
    "float64": (0, ()),
    "float32": (0, (3.5, 1.6)),
    "float16": (0, (1, 1.2)),
    "bfloat16": (0, (5, 1.5, 1, 1.5)),
    "extended": (0, (8, 1)),
    "float16_pure": (0, (1, 2.6)),
    "bfloat16_pure": (0, (5, 1.5, 1, 1.5, 1, 1.5)),
}
# Where each line is an arithmetic, it has a colour besides; lightness 22, 37, 57 and 70.
ARITHMETICS = {"float64": "#0d3b30", "bfloat16": "#a0246b", "float32": "#2f9970", "float16": "#ec8fc0"}


def look(method: str) -> Look:
    """The look of a method; one that has no place here gets a spare one, always the same."""
    return LOOKS.get(method) or SPARE[crc32(method.encode()) % len(SPARE)]


def dash(precision: str) -> tuple[int, tuple[float, ...]]:
    """The line style of an arithmetic."""
    return DASHES.get(precision, (0, (2, 2, 6, 2)))


def arithmetic_color(precision: str) -> str:
    """The colour of an arithmetic, whatever it accumulates in."""
    return ARITHMETICS.get(precision.removesuffix("_pure"), GREY)


@contextmanager
def drawing() -> Iterator[None]:
    """The style, for as long as something is drawn or saved; the caller's settings come back afterwards."""
    with matplotlib.style.context(STYLE, after_reset=True):
        yield
