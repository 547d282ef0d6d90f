"""The report of a run: every figure as files, a Markdown summary, and one page that needs nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from diagnostics.files import write_whole
from figures.content import Content, answers, contents
from figures.inline_svg import inline
from figures.names import problem_name
from figures.saving import rendered
from figures.section import in_order
from figures.table_view import measured

__all__ = ["answers", "draw_all", "write_report"]

KINDS = ("png", "svg", "pdf")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")  # what a spreadsheet, or `analyses.folder`, gives a meaning
MARKS = r"\`*_[]|~#$"  # the rest means something at the start of a line only, where no such text stands


@dataclass(frozen=True)
class Further:
    """A further picture of a section."""

    name: str
    reading: str
    svg: Markup


@dataclass(frozen=True)
class Drawn:
    """A section's content with its figure, and with the further ones where it has any."""

    content: Content
    svg: Markup
    further: tuple[Further, ...]


def write_report(out: Path, tables: Mapping[str, pd.DataFrame], manifest: Mapping[str, Any]) -> Path:
    """Write `figures/`, `summary.md` and `index.html` into `out`, and `summaries/` of long tables; the page's path.

    Each file appears whole or not at all, the page last. The tables of the analyses, which the page links to as
    `tables/<analysis>.csv`, are written elsewhere.
    """
    svgs = draw_all(out / "figures", tables)
    sections = [_drawn(content, svgs) for content in contents(tables)]
    for section in in_order():
        if section.told and section.name in tables:
            summed = section.summary(measured(tables[section.name]))
            write_whole(out / "summaries" / f"{section.name}.csv", as_plain_csv(summed))
    values = {"sections": sections, "manifest": manifest, "questions": _by_question(sections)}
    summary = _environment(html=False).get_template("summary.md.jinja").render(values)
    write_whole(out / "summary.md", summary.encode(errors="backslashreplace"))
    page = _environment(html=True).get_template("report.html.jinja").render(values)
    write_whole(out / "index.html", page.encode(errors="backslashreplace"))  # a path may hold bytes that are no text
    return out / "index.html"


def as_plain_csv(summed: pd.DataFrame) -> bytes:
    """A summary as CSV; text that a spreadsheet would take for a formula stands behind an apostrophe."""
    texts = summed.select_dtypes(exclude="number").astype("str")
    safe = {str(name): texts[name].where(~texts[name].str.startswith(FORMULA), "'" + texts[name]) for name in texts}
    return summed.assign(**safe).to_csv(index=False, lineterminator="\n").encode()


def draw_all(folder: Path, tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """Draw the pictures of each analysis that has any into `folder` as PNG, SVG and PDF; the SVG text of each."""
    svgs = {}
    for section in in_order():
        if section.name not in tables:
            continue
        numbers = measured(tables[section.name])
        pictures = [(section.name, section.draw)]
        pictures += [(f"{section.name}_{picture.name}", picture.draw) for picture in section.further]
        for name, draw in pictures:
            figure = draw(numbers)
            files = {kind: rendered(figure, kind) for kind in KINDS}
            for kind, content in files.items():
                write_whole(folder / f"{name}.{kind}", content)
            svgs[name] = files["svg"].decode()
    return svgs


def _drawn(content: Content, svgs: Mapping[str, str]) -> Drawn:
    name, label = content.section.name, _label(content)
    further = tuple(
        Further(of, picture.reading, Markup(inline(svgs[of], of, f"{content.section.title} {picture.name}")))
        for picture in content.section.further
        for of in [f"{name}_{picture.name}"]
    )
    return Drawn(content, Markup(inline(svgs[name], name, label)), further)


def _by_question(sections: list[Drawn]) -> dict[str, list[Drawn]]:
    """The sections under the questions that they answer; one that answers two is there once."""
    named = [(", ".join(drawn.content.section.questions), drawn) for drawn in sections]
    return {name: [drawn for of, drawn in named if of == name] for name, _ in named}


def _label(content: Content) -> str:
    said = "; ".join(f"{problem_name(verdict.problem)}: {verdict.answer}" for verdict in content.verdicts)
    return f"{content.section.title} {said}".strip()


def _environment(*, html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("figures", ""),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = as_markdown
    environment.filters["problem"] = problem_name
    environment.tests["nested"] = lambda value: isinstance(value, Mapping | list | tuple)
    return environment


def as_markdown(text: object) -> str:
    """Text that Markdown shows as it stands: on one line, no markup, no HTML."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{mark}" if mark in MARKS else mark for mark in line)
