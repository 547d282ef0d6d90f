"""Figures as the bytes of a file: the same whenever the same thing is drawn."""

from io import BytesIO
from typing import Any

from matplotlib.figure import Figure

from figures.style import drawing

# No dates: the bytes depend on the figure and on matplotlib's version alone.
METADATA: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def rendered(figure: Figure, kind: str) -> bytes:
    """The figure as a file of this kind."""
    with drawing():
        buffer = BytesIO()
        figure.savefig(buffer, format=kind, metadata=METADATA[kind])
        return buffer.getvalue()
