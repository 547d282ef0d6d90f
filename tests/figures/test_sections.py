"""Every registered figure draws every table, whatever is the matter with it, and leaves no trace."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from figures.section import Section, in_order, sections
from figures.steps import middling
from figures.style import drawing
from figures.table_view import view
from tests.figures.made_up import SAMPLES, grid

CROWDED = {
    "one of each",
    "few tasks",
    "no minimiser",
    "eight problems",
    "hostile name",
    "odd names",
    "two strengths",
    "many steps",
}


def texts_outside(figure):
    """The visible texts of a figure that reach over its edge."""
    with drawing():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        page = figure.bbox
        found = []
        for text in figure.findobj(Text):
            if not text.get_visible() or not text.get_text().strip():
                continue
            box = text.get_window_extent(renderer)
            axes = text.axes
            drawn = axes is None or text.get_clip_on() or text not in hidden_ticks(axes)
            if drawn and (box.x0 < -1 or box.y0 < -1 or box.x1 > page.x1 + 1 or box.y1 > page.y1 + 1):
                found.append(text.get_text())
        return found


def hidden_ticks(axes):
    """Labels of ticks that lie beyond the limits, which are never drawn."""
    hidden = set()
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                hidden |= {tick.label1, tick.label2}
    return hidden


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("name", sections.names())
def test_draws_says_and_sums_up(name, sample):
    table, section = SAMPLES[sample](), sections[name]
    before = table.copy()
    figure = section.draw(table)
    assert sample not in CROWDED or not texts_outside(figure)
    verdicts = section.verdicts(table)
    problems = table["problem"].nunique() if sample not in ("two strengths",) else 2
    assert len(verdicts) <= problems
    for verdict in verdicts:
        assert (
            verdict.answer
            and verdict.sentence.endswith(".")
            and "nan" not in (verdict.answer + verdict.sentence).lower()
        )
    assert section.summary(table) is not None
    assert table.equals(before)


@pytest.mark.parametrize("name", sections.names())
def test_one_verdict_for_each_problem(name):
    table = SAMPLES["eight problems"]()
    assert [v.problem for v in sections[name].verdicts(table)] == list(dict.fromkeys(table["problem"]))


@pytest.mark.parametrize("name", sections.names())
def test_a_missing_column_is_named(name):
    section = sections[name]
    with pytest.raises(ValueError, match=section.columns[-1]):
        section.draw(grid(tasks=1).drop(columns=section.columns[-1]))


def test_settings_of_the_caller_are_left_alone():
    before = dict(matplotlib.rcParams)
    sections["steps"].draw(grid(tasks=1))
    assert dict(matplotlib.rcParams) == before


def test_sections_are_in_order():
    names = [section.name for section in in_order()]
    assert names[:6] == ["precision", "rescaling", "digits", "steps", "cg", "surface"] and "curvature" in names
    assert all(
        isinstance(section, Section) and section.questions and section.title.endswith("?") for section in in_order()
    )


def test_registered_under_their_own_names():
    assert all(sections[name].name == name for name in sections.names())


def test_points_at_indefinite_hessians_are_hollow():
    figure = sections["steps"].draw(SAMPLES["indefinite"]())
    lines = [line for axes in figure.axes for line in axes.get_lines() if line.get_marker() == "D"]
    hollow = np.concatenate([line.get_xdata() for line in lines if line.get_markerfacecolor() == "white"])
    filled = np.concatenate([line.get_xdata() for line in lines if line.get_markerfacecolor() != "white"])
    assert set(hollow) == {1.0, 5.0, 20.0} and set(filled) == {200.0}


def test_a_missing_minimiser_is_said_in_the_panel():
    figure = sections["steps"].draw(SAMPLES["no minimiser"]())
    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "no minimiser reached\nin 32 of 32 tasks" in said


def test_the_cg_line_of_steps_is_one_that_every_problem_was_run_with():
    rows = pd.concat(
        [grid("a", iterations=(2, 5, 20)), grid("b", iterations=(2, 5, 10))],
        ignore_index=True,
    )
    assert middling(view(rows, (), "steps")) == 5


def test_a_problem_that_was_run_in_a_coarse_arithmetic_only_shows_its_warnings_too():
    """One problem in both arithmetics, another in float32 alone and its Hessian indefinite: its markers are hollow."""
    coarse = grid("coarse", precisions=("float32",), indefinite=lambda steps: 1.0)
    figure = sections["steps"].draw(pd.concat([grid("fine"), coarse], ignore_index=True))
    bottom = min(axes.get_position().y0 for axes in figure.axes)
    lines = [line for axes in figure.axes if axes.get_position().y0 == bottom for line in axes.lines]
    assert any(line.get_marker() != "None" and line.get_markerfacecolor() == "white" for line in lines)


def test_a_long_name_is_given_whole():
    name = "few_shot[width=16,activation=tanh,pool=average,strength=100,learning_rate=0.005]"
    said = [text.get_text() for text in sections["steps"].draw(grid(name)).texts]
    assert "few shot (width 16, activation tanh, pool average, strength 100, learning rate 0.005)" in said
