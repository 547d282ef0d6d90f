"""The section on whose an error is says what made-up splits have in them, and draws whatever a split may lack."""

from collections.abc import Callable, Sequence
from math import nan

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Rectangle

from analyses.table import tidy
from figures.budget import LETTERS, LOOKS, draw, summary
from figures.budget_verdicts import verdicts
from figures.budget_view import FIRST_ORDER, IMPLICIT, NONE, UNROLLED, Line, few_and_most, medians, splits, target_of
from figures.section import sections
from tests.figures.test_sections import texts_outside

Sizes = Callable[[float, float], dict[str, float]]  # of steps and iterations: the parts of the implicit gradient
STEPS, ITERATIONS, LOW = (1, 10, 100), (1, 5, 20), ("float32", "bfloat16")
EPS = {"float32": 1e-7, "bfloat16": 1e-2, "float64": 1e-16, "float16": 1e-3}


def falling(steps: float, iterations: float) -> dict[str, float]:
    """A loop that converges as 1/steps^2, and a solve that does as 10^-iterations."""
    return {"inner": 1 / steps**2, "solver": 10.0**-iterations}


def budget(
    problem: str = "made_up",
    *,
    sizes: Sizes = falling,
    total: Callable[[dict[str, float]], float] = lambda parts: sum(parts.values()),
    steps: Sequence[int] = STEPS,
    iterations: Sequence[int] = ITERATIONS,
    precisions: Sequence[str] = LOW,
    tasks: int = 6,
    targets: Sequence[str] = ("stationary", "unrolled"),
    estimators: Sequence[str] = ("implicit", "unrolled_adjoint", "first_order"),
) -> pd.DataFrame:
    """A split in which every task has these parts, and rounding of epsilon."""
    rows = []
    for task in range(tasks):
        for count in steps:
            for name in precisions:
                for target in targets:
                    common = {
                        "problem": problem, "seed": 0, "task": task, "inner_optimizer": "gd", "inner_steps": count,
                        "inner_lr": 0.1, "strength": 1.0, "precision": name, "target": target, "outcome": "ok",
                        "min_eigenvalue": 0.5, "stationarity": 0.5,
                    }  # fmt: skip
                    rounding = {"rounding": EPS[name]}
                    cut = {"truncation": 1 / max(count, 1) ** 2} if target == "stationary" else {}
                    kinds = {
                        "unrolled_adjoint": [({}, cut | rounding)],
                        "first_order": [({}, {"first_order": 0.5} | cut | rounding)],
                        "implicit": [
                            ({"solver": "cg_unchecked", "solver_iterations": given}, sizes(count, given) | rounding)
                            for given in iterations
                        ],
                    }
                    for estimator in estimators:
                        for label, parts in kinds[estimator]:
                            whole = {"total": total(parts), **parts}
                            for part, size in whole.items():
                                rows.append(
                                    common | label | {"estimator": estimator, "part": part, "relative_error": size}
                                )
    return tidy(rows)


def opposed(steps: float, iterations: float) -> dict[str, float]:
    """Parts that cancel at one step, where each is ten times the error."""
    return {"inner": 10.0, "solver": 10.0} if steps == 1 else {"inner": 0.1, "solver": 0.01}


def lose(table: pd.DataFrame, rows: pd.Series, outcome: str) -> pd.DataFrame:
    table = table.copy()
    table.loc[rows, "relative_error"] = nan
    table.loc[rows, "outcome"] = outcome
    return table


def unsolved(table: pd.DataFrame) -> pd.DataFrame:
    return lose(table, table["part"].isin(["inner", "solver"]) & (table["inner_steps"] < 100), "no exact solve")


def no_minimiser(table: pd.DataFrame) -> pd.DataFrame:
    return lose(table, table["target"] == "stationary", "no minimiser")


SAMPLES: dict[str, Callable[[], pd.DataFrame]] = {
    "usual": budget,
    "parts that cancel": lambda: budget(sizes=opposed, total=lambda parts: 1.0),
    "no exact solve": lambda: unsolved(budget()),
    "no minimiser": lambda: no_minimiser(budget()),
    "diverged": lambda: (lambda t: lose(t, t["seed"] >= 0, "diverged"))(budget()),
    "partly diverged": lambda: (lambda t: lose(t, t["inner_steps"] > 1, "diverged"))(budget()),
    "an overflow": lambda: (
        lambda t: lose(t, (t["precision"] == "float32") & t["part"].isin(["total", "rounding"]), "not finite")
    )(budget()),
    "one step": lambda: budget(steps=(5,)),
    "no steps": lambda: budget(steps=(0,), sizes=lambda *_: {"inner": 1.0, "solver": 0.5}, estimators=("implicit",)),
    "one task": lambda: budget(tasks=1),
    "one iteration": lambda: budget(iterations=(5,)),
    "many of all": lambda: budget(
        steps=(1, 2, 5, 10, 20, 50, 100, 200, 1000), iterations=(1, 2, 5, 10, 50), tasks=1,
        precisions=("float64", "float32", "float16", "bfloat16"),
    ),
    "one arithmetic": lambda: budget(precisions=("float32",)),
    "only implicit": lambda: budget(estimators=("implicit",)),
    "only unrolled": lambda: budget(estimators=("unrolled_adjoint",)),
    "one target": lambda: budget(targets=("unrolled",), estimators=("unrolled_adjoint", "first_order")),
    "exact zeros": lambda: budget(sizes=lambda steps, given: {"inner": 0.0, "solver": 0.0}, total=lambda parts: 0.0),
    "infinite": lambda: budget(sizes=lambda steps, given: {"inner": np.inf, "solver": 1.0}),
    "two problems": lambda: pd.concat([budget("a", tasks=2), no_minimiser(budget("b$_b$[x=1]", tasks=2))]),
    "two strengths": lambda: pd.concat([budget(tasks=2), budget(tasks=2).assign(strength=2.0)]),
    "twice the same": lambda: pd.concat([budget(tasks=2), budget(tasks=2)]),
}  # fmt: skip


CROWDED = {
    "usual",
    "parts that cancel",
    "no minimiser",
    "many of all",
    "only unrolled",
    "two problems",
    "two strengths",
}


@pytest.mark.parametrize("sample", SAMPLES)
def test_draws_says_and_sums_up_whatever_is_there(sample: str) -> None:
    table = SAMPLES[sample]()
    before = table.copy()
    figure = draw(table)
    assert sample not in CROWDED or not texts_outside(figure)
    problems = 2 if sample in ("two problems", "two strengths") else 1
    found = verdicts(table)
    assert len(found) == problems
    for verdict in found:
        said = verdict.answer + verdict.sentence
        assert verdict.answer and verdict.sentence.endswith(".") and "nan" not in said.lower() and "None" not in said
    assert len(summary(table))
    assert table.equals(before)


def only_verdict(table: pd.DataFrame) -> tuple[str, str]:
    (verdict,) = verdicts(table)
    return verdict.answer, verdict.sentence


def test_the_largest_part_is_named_with_where_it_is_the_largest() -> None:
    """1/K^2 against 10^-5 for 5 iterations: the loop rules to 100 steps, where it is 1e-4; for 1, to 1 step."""
    answer, sentence = only_verdict(budget())
    assert answer == "implicit (5 CG iterations, float32): the unconverged inner loop at every number of steps"
    assert "with 5 CG iterations in float32, against the stationary gradient, is the unconverged inner loop" in sentence
    assert "After 100 inner steps the error is 0.011%" in sentence and "rounding 1.0e-7" in sentence
    # 1e-2 of bfloat16 equals 1/10^2 after 10 steps, and is above what is left after 100.
    assert "With 20 CG iterations rounding is the largest part at 100 inner steps in bfloat16." in sentence
    answer, _ = only_verdict(budget(iterations=(1,)))
    assert answer == (
        "implicit (1 CG iteration, float32): the unconverged inner loop at 1 inner step and the unfinished linear "
        "solve from 10 on"
    )


def test_the_other_gradients_are_told_of_too() -> None:
    _, sentence = only_verdict(budget())
    assert "error of the unrolled gradient is the truncated loop at every number of steps" in sentence
    first = (
        "error of the first-order gradient is the truncated loop at 1 inner step and the second-order terms left out"
    )
    assert first in sentence


def test_parts_that_cancel_are_said_to() -> None:
    _, sentence = only_verdict(budget(sizes=opposed, total=lambda parts: 1.0))
    assert (
        "Parts cancel at 1 inner step: after 1 inner step the unconverged inner loop 10 times and the unfinished "
        "linear solve 10 times make an error of only 100%, so that to mend one of them alone makes the gradient worse."
    ) in sentence
    assert "cancel" not in only_verdict(budget())[1]


def test_without_a_minimiser_the_unrolled_gradient_is_the_target() -> None:
    table = no_minimiser(budget())
    assert target_of(splits(table)) == "unrolled"
    answer, sentence = only_verdict(table)
    assert "against the unrolled gradient" in sentence and "unconverged inner loop" in answer
    said = [text.get_text() for text in draw(table).texts]
    assert "against the unrolled gradient; no minimiser reached in 6 of 6 tasks" in said


def test_where_a_part_is_unknown_no_part_is_called_the_largest() -> None:
    """Rounding alone is known there, and is 1e-7; it must not be called the largest."""
    rows = splits(unsolved(budget()))
    implicit = rows[rows["method"] == IMPLICIT]
    assert implicit.loc[implicit["inner_steps"] < 100, ["total", "rounding"]].isna().all().all()
    table = medians(rows)
    table = table[table["target"] == "stationary"]
    line = Line.of(table, IMPLICIT, "float32", 5.0)
    assert line.steps == [100.0] and line.rulers() == {"inner": [100.0]}
    other = Line.of(table, UNROLLED, "float32")
    assert other.steps == [1.0, 10.0, 100.0]


def test_medians_are_over_tasks_and_leave_out_those_that_are_unknown() -> None:
    table = budget(tasks=7)
    table.loc[(table["task"] == 0) & (table["part"] == "inner"), "relative_error"] = 1e9
    table = lose(table, (table["task"] == 1) & (table["part"] == "total"), "diverged")
    found = medians(splits(table))
    here = found[(found["method"] == IMPLICIT) & (found["inner_steps"] == 10)]
    assert np.allclose(here["inner"], 0.01) and set(here["inner_missing"]) == {1} and set(here["rows"]) == {7}


def test_few_and_most_iterations() -> None:
    assert few_and_most([]) == [] and few_and_most([5]) == [5] and few_and_most([2, 5]) == [2, 5]
    assert few_and_most([1, 5, 20]) == [5, 20] and few_and_most([1, 2, 5, 10, 20, 50]) == [5, 50]


def test_the_map_has_the_colour_and_the_letter_of_the_largest_part() -> None:
    table = budget(sizes=opposed, total=lambda parts: 1.0, precisions=("float32",))
    figure = draw(table)
    (panel,) = [axes for axes in figure.axes if axes.get_title(loc="left").startswith("largest part")]
    cells = [patch for patch in panel.patches if isinstance(patch, Rectangle) and not patch.get_hatch()]
    hatched = [patch for patch in panel.patches if isinstance(patch, Rectangle) and patch.get_hatch()]
    assert len(cells) == 3 * (3 + 2)  # three numbers of steps; three of iterations, and two other gradients
    assert {patch.get_x() for patch in hatched} == {0.0} and len(hatched) == 3
    names = [label.get_text() for label in panel.get_yticklabels()]
    assert names == ["first order", "unrolled", "1 CG", "5 CG", "20 CG"]
    lowest = {to_hex(patch.get_facecolor()) for patch in cells if patch.get_y() == 0}
    assert lowest == {LOOKS["truncation"].color, LOOKS["first_order"].color}
    letters = {text.get_text()[0] for text in panel.texts}
    assert letters <= set(LETTERS.values()) and {"I", "F", "T"} <= letters


def test_the_colours_of_parts_keep_apart_in_grey() -> None:
    """Their lightness, CIE L*, differs by 10 or more between any two that stand in one panel."""

    def lightness(color: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        y = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y

    found = sorted(lightness(LOOKS[part].color) for part in ("total", "inner", "solver", "rounding", "first_order"))
    assert min(np.diff(found)) > 10


def test_only_rounding_and_the_total_are_drawn_for_every_arithmetic() -> None:
    figure = draw(budget(iterations=(5,)))
    (panel,) = [axes for axes in figure.axes if axes.get_title(loc="left") == "implicit, 5 CG iterations"]
    lines = [line for line in panel.get_lines() if line.get_linestyle() != "None" and np.size(line.get_xdata()) == 3]
    counted = {part: sum(line.get_color() == LOOKS[part].color for line in lines) for part in ("inner", "solver")}
    assert counted == {"inner": 1, "solver": 1}
    assert sum(line.get_color() == LOOKS["rounding"].color for line in lines) == 2


def test_a_gradient_without_iterations_keeps_its_place_in_the_table() -> None:
    rows = splits(budget())
    assert set(rows.loc[rows["method"].isin([UNROLLED, FIRST_ORDER]), "iterations"]) == {NONE}
    found = summary(budget())
    assert found.loc[found["method"] == UNROLLED, "iterations"].isna().all()
    assert list(found["case"].unique()) == ["made_up"] and sections["budget"].order < 80
