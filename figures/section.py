"""What a section of the report is made of, and the registry of sections."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from diagnostics.registry import Registry


@dataclass(frozen=True)
class Verdict:
    """What the table says about one problem: a few words, and the sentence with the numbers."""

    problem: str
    answer: str
    sentence: str


@dataclass(frozen=True)
class Picture:
    """A further picture of a section: its files are called `<section>_<name>`, and `reading` tells how to read it."""

    name: str
    reading: str
    draw: Callable[[pd.DataFrame], Figure]


@dataclass(frozen=True)
class Section:
    """The picture of one analysis, under the analysis's name: one file in `figures/` and one line to register it.

    `title` is the question in words, `reading` tells how to read the figure, `columns` are those of the tidy table
    that it needs. All functions take the table of the analysis; `order` places the section among the others.

    Where one picture is too few, `further` has the others. `basis` says over what means or medians are taken, where it
    is not over tasks and seeds in one. `told` are lines that a run ends with on the terminal, after the answers; with
    them the summary is kept as a file, `summaries/<name>.csv`, since a table that needs summing up is a long one.
    """

    name: str
    questions: tuple[str, ...]
    title: str
    reading: str
    columns: tuple[str, ...]
    draw: Callable[[pd.DataFrame], Figure]
    verdicts: Callable[[pd.DataFrame], tuple[Verdict, ...]]
    summary: Callable[[pd.DataFrame], pd.DataFrame]
    order: int = 100
    further: tuple[Picture, ...] = ()
    basis: Callable[[pd.DataFrame], str] | None = None
    told: Callable[[pd.DataFrame], tuple[str, ...]] | None = None


sections: Registry[Section] = Registry("figure", "figures")


def in_order() -> list[Section]:
    """All sections, in the order of the report."""
    return sorted((sections[name] for name in sections.names()), key=lambda section: (section.order, section.name))
