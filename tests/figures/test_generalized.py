"""The section on generalized few-shot says what made-up accuracies have in them, and draws whatever is there."""

from collections.abc import Callable, Sequence
from math import nan

import numpy as np
import pandas as pd
import pytest

from analyses.generalized_summary import OF_MEANS
from analyses.table import tidy
from figures.generalized import basis as basis_of
from figures.generalized import draw, summary, told
from figures.generalized_verdicts import verdicts
from figures.generalized_view import studied
from tests.figures.test_sections import texts_outside

Made = Callable[[str, int, int], tuple[float, float]]  # of estimator, steps and seed: base and novel accuracy, tuned
WAYS = {"unrolled_adjoint": (None, nan), "first_order": (None, nan), "implicit": ("cg", 5)}
HEAD = {"unrolled_adjoint": 0.5, "first_order": 0.3, "implicit": 0.4}


def sure(estimator: str, steps: int, seed: int) -> tuple[float, float]:
    """MAML 50%, iMAML 40%, FOMAML 30% on both kinds, the seeds far apart but alike for all, and 2 points a seed."""
    accuracy = HEAD[estimator] + 0.1 * seed
    return accuracy, accuracy


def made(
    problem: str = "made_up",
    *,
    accuracies: Made = sure,
    steps: Sequence[int] = (1, 5),
    seeds: Sequence[int] = (0, 1, 2),
    ways: Sequence[str] = tuple(WAYS),
    tasks: int = 4,
    diverged: Sequence[tuple[str, int]] = (),
    floors: bool = True,
) -> pd.DataFrame:
    """Runs of known mean accuracies: tasks lie around them, and without a bias novel ones are 20 points lower."""
    rows = []
    for seed in seeds:
        for count in steps:
            common = {
                "problem": problem, "seed": seed, "inner_optimizer": "gd", "inner_steps": count, "inner_lr": 0.1,
                "strength": 1.0, "precision": "float32", "scaling": "none", "damping": 0.0, "outcome": "ok",
            }  # fmt: skip
            for name in ways:
                solver, iterations = WAYS[name]
                own = common | {"estimator": name, "solver": solver, "solver_iterations": iterations, "outer_lr": 0.01}
                lost = (name, seed) in diverged
                rows.append(own | {"stage": "end", "task": -1, "outcome": "diverged" if lost else "ok", "iteration": 9})
                base, novel = accuracies(name, count, seed)
                for at in (*steps, 50):
                    for task in range(tasks):
                        off = 0.04 * (task - (tasks - 1) / 2)
                        test = own | {"stage": "test", "iteration": 9, "test_steps": at, "task": task}
                        rows += _rows(test, base + off, novel - off)
            if floors:
                for at in (*steps, 50):
                    mean = {"estimator": "untrained", "stage": "test", "iteration": 0, "task": -1, "test_steps": at}
                    rows += _rows(common | mean, 0.1, 0.3)
                for name, level in (("nearest_neighbour", 0.2), ("nearest_mean", 0.25)):
                    pixels = {"estimator": name, "stage": "test", "iteration": 0, "task": -1}
                    rows += _rows(common | pixels, level, level + 0.2)
    return tidy(rows)


def _rows(row: dict[str, object], base: float, novel: float) -> list[dict[str, object]]:
    found = []
    for kind, u in (("none", novel - 0.2), ("tuned", novel)):
        u = max(u, 0.0)
        mean = 0.0 if base + u == 0 else 2 * base * u / (base + u)
        found.append(row | {
            "calibration": kind, "bias": 0.5 * (kind == "tuned"), "accuracy": (base + u) / 2, "base_accuracy": base,
            "novel_accuracy": u, "harmonic_mean": mean, "delta1": 0.1, "delta2": 0.1, "area": 0.2,
        })  # fmt: skip
    return found


def noisy(estimator: str, steps: int, seed: int) -> tuple[float, float]:
    """Differences of either sign: nothing to tell."""
    return (0.4 + {"unrolled_adjoint": 0.05, "first_order": 0.0, "implicit": 0.02}[estimator] * (-1) ** seed,) * 2


SAMPLES: dict[str, Callable[[], pd.DataFrame]] = {
    "usual": made,
    "one seed": lambda: made(seeds=(3,)),
    "one way": lambda: made(ways=("implicit",)),
    "one step": lambda: made(steps=(5,)),
    "no floors": lambda: made(floors=False),
    "diverged": lambda: made(diverged=[("implicit", 0), ("implicit", 1)]),
    "all wrong": lambda: made(accuracies=lambda *_: (0.0, 0.0)),
    "no number": lambda: made().assign(base_accuracy=nan, novel_accuracy=nan, harmonic_mean=nan),
    "only ends": lambda: (lambda t: t[t["stage"] == "end"])(made()),
    "empty": lambda: made().iloc[:0],
    "no tuned": lambda: (lambda t: t[(t["calibration"] != "tuned").to_numpy(dtype=bool)])(made()),
    "steps of its own": lambda: (lambda t: t[(t["estimator"] != "implicit") | (t["inner_steps"] == 5)])(made()),
    "no common steps": lambda: (lambda t: t[(t["estimator"] == "implicit") == (t["inner_steps"] == 5)])(made()),
    "two arithmetics": lambda: pd.concat([made(), made(ways=("implicit",)).assign(precision="float64")]),
    "two outer steps": lambda: pd.concat([made(), made(ways=("implicit",)).assign(outer_lr=0.1)]),
    "two strengths": lambda: pd.concat([made(), made().assign(strength=2.0)]),
    "odd names": lambda: pd.concat([made("a$b$[x=1]"), made("w" * 150)]),
    "many steps": lambda: made(steps=tuple(range(0, 21)), seeds=(0, 1), tasks=1),
    "twice the same": lambda: pd.concat([made(), made()]),
    "an unknown estimator": lambda: made().replace({"first_order": "reptile"}),
}
CROWDED = {"usual", "odd names", "many steps", "two arithmetics", "only ends"}


@pytest.mark.parametrize("sample", SAMPLES)
def test_draws_says_and_sums_up_whatever_is_there(sample: str) -> None:
    table = SAMPLES[sample]()
    before = table.copy()
    figure = draw(table)
    assert sample not in CROWDED or not texts_outside(figure)
    found = verdicts(table)
    assert len(found) == {"odd names": 2, "two strengths": 2, "empty": 0}.get(sample, 1)
    for verdict in found:
        said = verdict.answer + verdict.sentence
        assert verdict.answer and verdict.sentence.endswith(".") and "nan" not in said.lower(), said
    assert {"case", "gradient"} <= set(summary(table).columns) and basis_of(table).endswith(".")
    assert not any("nan" in line for line in told(table))
    assert table.equals(before)


def only(table: pd.DataFrame) -> tuple[str, str]:
    (verdict,) = verdicts(table)
    return verdict.answer, verdict.sentence


def test_a_difference_that_is_on_every_seed_is_told_although_the_seeds_are_far_apart() -> None:
    """10 points on each of three seeds that lie 10 points apart: only the paired interval leaves out 0."""
    answer, sentence = only(made())
    assert answer == "MAML has the greatest harmonic mean, 60.0 +- 24.8%"  # t(2) = 4.303, times 10 / sqrt(3)
    assert (
        "with 1 and 5 inner steps, 3 seeds: MAML 60.0 +- 24.8%; iMAML, 5 CG iterations 50.0 +- 24.8%; FOMAML"
        in sentence
    )
    assert (
        "MAML less iMAML, 5 CG iterations +10.0 points [+10.0, +10.0] and FOMAML +20.0 points [+20.0, +20.0], paired"
    ) in sentence
    assert "With MAML that is 60.0 +- 24.8% on base and 60.0 +- 24.8% on novel classes." in sentence


def test_a_difference_that_changes_its_sign_is_not_told() -> None:
    """MAML less FOMAML is 5, -5, 5 points: 1.7 +- 4.303 * 5.77 / sqrt(3) = 14.3."""
    answer, sentence = only(made(accuracies=noisy))
    assert answer.startswith("cannot tell which has the greatest harmonic mean: MAML 41.7 +- 14.3%, not surely above ")
    assert "FOMAML (+1.7 points [-12.7, +16.0])" in answer and "but above" not in answer
    assert "an interval that holds 0 tells nothing" in sentence


def test_what_is_surely_beaten_is_said_beside_what_is_not() -> None:
    def mixed(estimator: str, steps: int, seed: int) -> tuple[float, float]:
        return (0.1, 0.1) if estimator == "implicit" else noisy(estimator, steps, seed)

    answer, _ = only(made(accuracies=mixed))
    assert "not surely above FOMAML" in answer and answer.endswith(", but above iMAML, 5 CG iterations")


def test_one_seed_tells_nothing_of_others() -> None:
    answer, sentence = only(made(seeds=(0,)))
    assert answer == "cannot tell: one seed says nothing of others (MAML 50.0%)" and "of one seed." in sentence
    assert "[" not in answer + sentence


def test_the_bias_and_the_floors_are_paired_by_seed() -> None:
    """S = 0.5, U = 0.5, without bias 0.3, so that H = 0.375. Floors: 0.1 and 0.3 give 0.15, 0.2 and 0.4 give 0.267."""
    _, sentence = only(made(seeds=(0,), steps=(1,)))
    assert "The bias changes its harmonic mean by +12.5 points." in sentence
    assert (
        "over the untrained network (15.0%) is +35.0 points; over the nearest neighbour by pixels (26.7%) is"
        in sentence
    )


def test_the_harmonic_mean_is_that_of_means_not_the_mean_over_tasks() -> None:
    table = made(accuracies=lambda *_: (0.5, 0.3), seeds=(0,), steps=(1,), ways=("first_order",))
    (case,) = studied(table)
    (row,) = case.at_own_steps("tuned").to_dict("records")
    assert row[OF_MEANS] == pytest.approx(2 * 0.5 * 0.3 / 0.8) and row["harmonic_mean"] < row[OF_MEANS] - 1e-4
    assert only(table)[0] == "FOMAML reaches a harmonic mean of 37.5%"


def test_inner_steps_are_compared_and_only_those_of_training() -> None:
    """5 points more at 5 steps than at 1, whatever the seed; tests after 50 steps are drawn by nobody."""

    def accuracies(_: str, steps: int, seed: int) -> tuple[float, float]:
        accuracy = 0.3 + 0.05 * (steps == 5) + 0.01 * seed
        return accuracy, accuracy

    _, sentence = only(made(accuracies=accuracies))
    assert "MAML +5.0 points [+5.0, +5.0] from 1 inner step to 5" in sentence
    table = made()
    table.loc[(table["test_steps"] == 50).fillna(False).to_numpy(dtype=bool), ["base_accuracy", "novel_accuracy"]] = (
        0.99
    )
    assert only(table) == only(made())


def test_runs_that_diverged_are_counted_in_words_and_on_the_figure() -> None:
    table = made(diverged=[("implicit", 0), ("implicit", 1)])
    assert "4 of 18 runs diverged in training and count with the best theta that they had." in only(table)[1]
    assert "4 of 18 runs diverged" in [text.get_text() for text in draw(table).texts]
    assert "diverged" not in only(made())[1]


def test_the_picture_has_the_numbers_of_the_table() -> None:
    table = made(accuracies=lambda name, steps, seed: (HEAD[name] + 0.01 * seed, 0.6 - 0.02 * steps))
    figure = draw(table)
    plane, plain, tuned = figure.axes
    drawn = [np.column_stack(line.get_data()) for line in plane.lines if line.get_markerfacecolor() == "#5b5b5b"]
    assert len(drawn) == 1 and np.allclose(drawn[0], [[0.51, 0.58], [0.51, 0.5]])
    hollow = [line for line in plane.lines if line.get_color() == "#5b5b5b" and line.get_markerfacecolor() == "white"]
    assert np.allclose(np.column_stack(hollow[0].get_data()), [[0.51, 0.38], [0.51, 0.3]])
    for panel, novel in ((plain, (0.38, 0.3)), (tuned, (0.58, 0.5))):
        (line,) = [line for line in panel.lines if line.get_color() == "#5b5b5b" and line.get_marker() == "s"]
        expected = [np.mean([2 * (0.5 + 0.01 * s) * u / (0.5 + 0.01 * s + u) for s in range(3)]) for u in novel]
        assert np.allclose(np.column_stack(line.get_data()), np.column_stack([[1, 5], expected]))


def test_the_grey_curves_have_one_harmonic_mean() -> None:
    plane = draw(made()).axes[0]
    curves = [line for line in plane.lines if line.get_color() == "#d4d4d4"]
    assert curves
    for line in curves:
        base, novel = (np.asarray(side, dtype=float) for side in line.get_data())
        means = 2 * base * novel / (base + novel)
        assert np.allclose(means, means[0]) and round(float(means[0]), 6) in {0.1 * n for n in range(10)} | {
            0.3,
            0.6,
            0.7,
        }


def test_the_summary_has_every_mean_with_its_ends_once() -> None:
    found = summary(made())
    trained = found[found["gradient"] == "MAML"]
    assert len(trained) == 2 * 3 * 2 and len(found) == 3 * 12 + 3 * 2 + 2 * 2
    one = trained[(trained["inner_steps"] == 1) & (trained["test_steps"] == 1) & (trained["calibration"] == "tuned")]
    assert one["base_accuracy"].item() == pytest.approx(0.6) and one["seeds"].item() == 3
    assert one["base_accuracy_high"].item() - 0.6 == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)
    assert all(f"mean_of_harmonics{end}" in found for end in ("", "_low", "_high")) and "harmonic_mean_low" not in found


def test_the_table_told_has_the_steps_of_training_and_the_floors() -> None:
    head, *lines = told(made())
    assert head.split("  ")[0] == "problem" and head.endswith("seeds")
    maml = [line.split() for line in lines if line.split()[2] == "MAML"]
    assert [line[3:] for line in maml] == [
        [steps, "60%", "+-", "25%", "60%", "+-", "25%", "60%", "+-", "25%", "3"] for steps in ("1", "5")
    ]
    assert [sum(name in line for line in lines) for name in ("untrained", "neighbour", "nearest mean")] == [2, 1, 1]


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="figure generalized: expected the column calibration"):
        draw(made().drop(columns="calibration"))
