"""The section on training says what made-up runs have in them, and draws what is in the table, whatever that is."""

from collections.abc import Callable
from math import inf, nan
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from figures.content import answers
from figures.report import as_plain_csv, write_report
from figures.section import sections
from figures.training import draw
from figures.training_curves import draw as draw_curves
from figures.training_curves import mean_curves
from figures.training_exactness import draw as draw_exactness
from figures.training_exactness import points
from figures.training_scales import Exactness
from figures.training_table import basis, summary, told
from figures.training_verdicts import verdicts
from figures.training_view import Case, studied
from figures.training_wording import BETTER, NO_NUMBER, SAME, UNCLEAR, WORSE, against, judged, with_half
from tests.figures.made_up_training import (
    ALL,
    FOMAML,
    IMAML,
    IMAML_SCALED,
    MAML,
    MAML64,
    MAML_SCALED,
    Way,
    lose,
    training,
)
from tests.figures.test_sections import texts_outside

THREE = (MAML, FOMAML, IMAML)


def small(problem: str = "made_up", **more) -> pd.DataFrame:
    return training(problem, **({"steps": (1, 5), "tasks": 2, "seeds": (0, 1), "ways": THREE} | more))


def all_lost() -> pd.DataFrame:
    table = small(test_steps=(1, 5))
    return lose(table, table["seed"].ge(0))


SAMPLES: dict[str, Callable[[], pd.DataFrame]] = {
    "usual": lambda: small(ways=ALL, steps=(1, 3, 5, 10)),
    "empty": lambda: small().iloc[:0],
    "one row": lambda: small().iloc[-3:-2],
    "classes": lambda: small(classes=True),
    "one seed": lambda: small(seeds=(0,)),
    "one of each": lambda: small(seeds=(0,), ways=(MAML,), steps=(5,), test_steps=(5,), tasks=1),
    "no probes": lambda: small(probes=False),
    "no MAML": lambda: small(ways=(FOMAML, IMAML)),
    "no implicit": lambda: small(ways=(MAML, MAML64)),
    "only float64": lambda: small(ways=(MAML64,)),
    "only rescaled": lambda: small(ways=(MAML_SCALED,)),
    "diverged": lambda: small(diverged={(IMAML, 5, 0): 10, (IMAML, 5, 1): 0, (MAML, 1, 0): 20}),
    "lost": lambda: (lambda t: lose(t, t["estimator"].eq("implicit") & t["seed"].eq(0)))(small()),
    "all lost": all_lost,
    "other steps at test": lambda: small(test_steps=(2, 3)),
    "one number at test": lambda: small(test_steps=(5,)),
    "no steps": lambda: small(steps=(0, 1), test_steps=(0, 1)),
    "losses below 0": lambda: (lambda t: t.assign(loss=t["loss"] - 1))(small()),
    "losses of 0": lambda: (lambda t: t.assign(loss=t["loss"] * 0))(small()),
    "huge losses": lambda: (lambda t: t.assign(loss=t["loss"] * 1e30))(small()),
    "CG iterations": lambda: small(ways=(MAML, IMAML, ("implicit", "cg", 20, "float32", "none"))),
    "two strengths": lambda: pd.concat([small(), small().assign(strength=3.0)]),
    "two outer steps": lambda: pd.concat([small(), small().assign(outer_lr=0.1)]),
    "odd names": lambda: pd.concat([small("a$b$[x=1]"), small("w" * 150)]),
    "unknown names": lambda: small().replace({"cg": "minres", "first_order": "neumann", "float32": "posit16"}),
    "no floors": lambda: (lambda t: t[t["estimator"] != "untrained"])(small()),
}  # fmt: skip
PROBLEMS = {"empty": 0, "two strengths": 2, "two outer steps": 2, "odd names": 2}


QUICK = ("empty", "one row", "diverged", "lost", "other steps at test")
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SAMPLES]


@pytest.mark.parametrize("sample", EACH)
def test_says_and_sums_up_whatever_is_there(sample: str) -> None:
    table = SAMPLES[sample]()
    before = table.copy()
    found = verdicts(table)
    assert len(found) == PROBLEMS.get(sample, 1)
    for verdict in found:
        said = verdict.answer + verdict.sentence
        assert verdict.answer and verdict.sentence.endswith(".") and "nan" not in said.lower() and "  " not in said
    assert set(summary(table).columns) >= {"case", "method", "inner_steps", "test_steps", "seeds"}
    assert basis(table).endswith(".") and all("\n" not in line and "nan" not in line for line in told(table))
    assert table.equals(before)


@pytest.mark.parametrize("sample", EACH)
def test_draws_whatever_is_there(sample: str) -> None:
    assert not texts_outside(draw(SAMPLES[sample]()))


@pytest.mark.slow
@pytest.mark.parametrize("picture", [draw_curves, draw_exactness])
@pytest.mark.parametrize("sample", ["empty", "one row", "classes", "no probes", "no MAML", "diverged", "all lost"])
def test_the_further_pictures_draw_it_too(sample: str, picture: Callable) -> None:
    assert not texts_outside(picture(SAMPLES[sample]()))


# ---- what is drawn


def titled(figure, title: str, which: int = 0) -> Axes:
    return [axes for axes in figure.axes if axes.get_title(loc="left") == title][which]


def x_of(drawn: Line2D) -> np.ndarray:
    return np.asarray(drawn.get_xdata(), dtype=float)


def y_of(drawn: Line2D) -> np.ndarray:
    return np.asarray(drawn.get_ydata(), dtype=float)


def line(axes: Axes, name: str) -> Line2D:
    (found,) = [line for line in axes.lines if line.get_label() == name]
    return found


def bars(axes: Axes, color: str) -> np.ndarray:
    """The ends of the bars of a colour, `(points, 2)`."""
    from matplotlib.colors import to_rgb

    lines = [c for c in axes.collections if isinstance(c, LineCollection)]
    found = [c for c in lines if np.allclose(np.asarray(c.get_color())[0][:3], to_rgb(color))]
    return np.array([np.asarray(ends)[:, 1] for c in found for ends in c.get_segments()])


def test_the_means_and_bars_drawn_are_those_of_the_table() -> None:
    table = training(ways=ALL, noise=0.05, shared=0.05)
    (case,) = studied(table)
    panel = titled(draw(table), "as many steps at test as in training")
    for one in case.plain:
        rows = case.as_trained[case.as_trained["line"] == one.name].sort_values("inner_steps")
        drawn = line(panel, one.name)
        assert x_of(drawn).tolist() == [1, 5, 20] and y_of(drawn).tolist() == rows["loss"].tolist()
        ends = np.stack([rows["loss"] - rows["loss_half"], rows["loss"] + rows["loss_half"]], axis=1)
        np.testing.assert_allclose(bars(panel, one.look("float32").color), ends, rtol=1e-12)
    assert {one.name for one in case.variants} & {drawn.get_label() for drawn in panel.lines} == set()


def test_differences_are_drawn_as_a_share_of_mamls_loss() -> None:
    """Without noise iMAML's loss is 3, 1.5 and 1 times MAML's: 200%, 50% and 0 more."""
    panel = titled(draw(training(ways=THREE, noise=0.0)), "less the loss of MAML, in % of it")
    np.testing.assert_allclose(y_of(line(panel, "iMAML (CG that stops)")), [2.0, 0.5, 0.0], atol=1e-12)
    assert panel.get_yscale() == "symlog" and "MAML" not in {drawn.get_label() for drawn in panel.lines}


def test_other_steps_at_test_have_a_panel_for_each_number_in_training() -> None:
    figure = draw(training(ways=(MAML,), noise=0.0, shared=0.0))
    for steps in (1, 5, 20):
        panel = titled(figure, f"trained with {steps} step" + ("" if steps == 1 else "s"))
        np.testing.assert_allclose(y_of(line(panel, "MAML")), [2.0, 1.0, 0.2, 0.05], rtol=1e-12)


def test_a_floor_at_one_number_of_steps_is_a_level_across_the_panel() -> None:
    table = training(ways=(MAML,), steps=(5,))
    panel = titled(draw(table), "as many steps at test as in training")
    floor = table[(table["estimator"] == "untrained") & (table["test_steps"] == 5)]["loss"].mean()
    (level,) = [drawn for drawn in panel.lines if x_of(drawn).tolist() == [0, 1]]
    np.testing.assert_allclose(y_of(level), floor, rtol=1e-12)


def test_curves_over_time_are_those_over_iterations_at_the_pace() -> None:
    table = training(ways=(MAML,), steps=(5,))
    figure = draw_curves(table)
    over, time = (titled(figure, name).lines[0] for name in ("trained with 5 steps", "the same over time"))
    assert x_of(over).tolist() == [0, 10, 20, 30, 40]
    np.testing.assert_allclose(x_of(time), 0.05 * x_of(over), rtol=1e-9)
    assert y_of(time).tolist() == y_of(over).tolist()
    expected = table[table["stage"] == "validation"].groupby("iteration")["loss"].mean()
    np.testing.assert_allclose(y_of(over), expected.to_numpy(), rtol=1e-12)


def test_a_run_that_diverged_has_a_cross_where_it_did() -> None:
    table = small(ways=(MAML,), steps=(5,), diverged={(MAML, 5, 1): 20})
    crosses = [line for line in titled(draw_curves(table), "trained with 5 steps").lines if line.get_marker() == "x"]
    assert [x_of(line).tolist() for line in crosses] == [[20]]
    (case,) = studied(table)
    assert mean_curves(case, 5)["seeds"].tolist() == [2, 2, 2, 1, 1]


def test_points_of_exactness_are_those_of_the_table() -> None:
    table = training(ways=THREE, noise=0.0)
    (case,) = studied(table)
    found = points(case).set_index(["line", "inner_steps"])
    name = "iMAML (CG that stops)"
    assert found.loc[(name, 5), "distance"] == pytest.approx(0.02) and found.loc[("MAML", 5), "distance"] == 1e-6
    panel = titled(draw_exactness(table), "test loss")
    drawn = {(x_of(line)[0], y_of(line)[0]) for line in panel.lines if line.get_marker() == "v"}
    own = found.loc[name]
    assert drawn == set(zip(own["distance"], own["loss"], strict=True))


def test_rescaled_data_are_no_point_of_exactness() -> None:
    (case,) = studied(small(ways=(MAML, IMAML, IMAML_SCALED)))
    assert set(case.exactness["line"]) == {"MAML", "iMAML (CG that stops)"}


@pytest.mark.parametrize("distances", [[1e-13, 0.3], [0.2], [1e-9], [1e-5, 1.9], [0.1, 0.100001, 1e-6]])
def test_the_scale_of_exactness_holds_all_and_names_its_places(distances: list[float]) -> None:
    scale = Exactness.of(distances)
    placed = scale.place(np.array(distances))
    assert (placed >= scale.least).all() and (placed <= scale.most).all()
    places, names = scale.ticks()
    assert places == sorted(places) and len(places) == len(names) >= 1
    assert (scale.edge is not None) == any(distance <= 1e-6 for distance in distances)


# ---- what the verdict says


def only(table: pd.DataFrame) -> tuple[str, str]:
    (verdict,) = verdicts(table)
    return verdict.answer, verdict.sentence


def level(**factors: float) -> Callable[[Way, int, int], float]:
    """A loss of 1, times the factor of the estimator, of `float64` and of `standardize`."""
    return lambda way, steps, at_test: factors.get(way[0], 1.0) * factors.get(way[3], 1.0) * factors.get(way[4], 1.0)


def test_a_difference_that_is_there_is_told_with_its_size() -> None:
    answer, sentence = only(training(ways=THREE, noise=0.003, shared=0.05))
    assert (
        answer == ("iMAML (CG that stops) is worse than MAML at 1 and 5 inner steps and cannot be told from it at 20")
        or answer == "iMAML (CG that stops) is worse than MAML at 1 and 5 inner steps and does as well as it at 20"
    )
    assert "FOMAML is worse than MAML at 1 to 20 inner steps" in sentence
    assert "From 1 to 20 inner steps it changes for MAML by -0.9" in sentence


def test_a_difference_that_is_not_there_cannot_be_told() -> None:
    answer, sentence = only(training(ways=THREE, loss=level(), noise=0.1))
    assert answer == "iMAML (CG that stops) cannot be told from MAML at 1 to 20 inner steps"
    assert "is worse" not in sentence and "is better" not in sentence


def test_equal_networks_are_called_equal() -> None:
    answer, _ = only(training(ways=THREE, loss=level(), noise=0.0))
    assert answer == "iMAML (CG that stops) does as well as MAML at 1 to 20 inner steps"


def test_better_is_lower_loss_and_higher_accuracy() -> None:
    for classes in (False, True):
        table = training(ways=THREE, loss=level(implicit=0.5), noise=0.003, classes=classes)
        assert only(table)[0] == "iMAML (CG that stops) is better than MAML at 1 to 20 inner steps"
    assert "points at" in only(table)[1] and "nearest neighbours 30%" in only(table)[1]


def test_one_seed_compares_nothing() -> None:
    answer, sentence = only(training(ways=ALL, seeds=(0,)))
    assert answer.startswith("iMAML (CG as released) cannot be compared with MAML by one seed")
    assert "one seed, which shows no spread" in sentence and "+-" not in sentence
    assert "One seed shows no spread" in basis(training(ways=THREE, seeds=(0,)))


Q2 = (MAML, IMAML, MAML64, MAML_SCALED)


def test_what_arithmetic_and_rescaling_do_not_move_they_do_not_explain() -> None:
    answer, sentence = only(training(ways=Q2, loss=level(implicit=0.5), noise=0.003))
    assert answer.endswith("is better than MAML at 1 to 20 inner steps; float64 and standardize does not explain that")
    assert "MAML is the worse one" in sentence and sentence.count("Something else explains it.") == 1


def test_what_moves_maml_as_far_as_imaml_is_explains_it() -> None:
    table = training(ways=Q2, loss=level(implicit=0.5, float64=0.5), noise=0.003)
    answer, sentence = only(table)
    assert answer.endswith("; float64 explains at least half of that; standardize does not explain that")
    assert "at least half of it is gone in MAML with float64" in sentence and "Something else" not in sentence


def test_an_effect_the_other_way_explains_nothing() -> None:
    answer, _ = only(training(ways=(MAML, IMAML, MAML64), loss=level(implicit=0.5, float64=2.0), noise=0.003))
    assert answer.endswith("; float64 does not explain that")


def test_an_effect_that_is_lost_in_noise_is_left_open() -> None:
    def noisy(way: Way, steps: int, at_test: int) -> float:
        return 0.9 if way == IMAML else 1.0

    table = training(ways=(MAML, IMAML, MAML64), loss=noisy, noise=0.003, steps=(5,))
    wild = table["precision"].eq("float64") & table["stage"].eq("test")
    table.loc[wild, "loss"] *= 1 + 0.3 * (table.loc[wild, "seed"].astype(float) - 1)
    answer, sentence = only(table)
    assert answer.endswith("; whether float64 explains that cannot be told")
    assert "MAML (float64) makes no difference that can be told" in sentence


def test_where_maml_is_not_worse_there_is_no_fault_to_explain() -> None:
    answer, sentence = only(training(ways=Q2, loss=level(implicit=2.0), noise=0.003))
    assert answer == "iMAML (CG that stops) is worse than MAML at 1 to 20 inner steps"
    assert "can MAML be told to be worse than iMAML" in sentence and "no fault to explain" in sentence
    _, sentence = only(training(ways=Q2, loss=level(), noise=0.1))
    assert "cannot be told, so that there is nothing to explain" in sentence


def test_rescaled_imaml_is_held_against_rescaled_maml() -> None:
    _, sentence = only(training(ways=(*Q2, IMAML_SCALED), loss=level(implicit=0.5), noise=0.0))
    assert "iMAML (CG that stops, standardize) differs from MAML (standardize) by -0.5" in sentence


def test_lost_tasks_and_diverged_runs_are_said() -> None:
    table = small(seeds=(0, 1, 2), tasks=4, diverged={(FOMAML, 5, 1): 10})
    lost = table["estimator"].eq("implicit") & table["seed"].eq(1) & table["task"].eq(0) & table["test_steps"].eq(5)
    answer, sentence = only(lose(table, lost & table["inner_steps"].eq(5)))
    assert "worse than MAML at 1 and 5 inner steps" in answer
    assert "inner step and infinite at 5" in sentence
    assert "Diverged: 1 of 6 runs of FOMAML; they count with their best theta of before." in sentence
    assert "The loop diverged in test tasks (1 of iMAML (CG that stops))" in sentence
    figure = draw(lose(table, lost & table["inner_steps"].eq(5)))
    notes = [text.get_text() for text in figure.texts]
    assert "1 of 18 runs diverged; the loop diverged in 1 test tasks" in notes
    labels = titled(figure, "as many steps at test as in training").get_yticklabels()
    assert labels[-1].get_text() == "over"


def test_the_correlation_follows_the_data() -> None:
    """Exactness orders MAML, iMAML, FOMAML; so do the losses, or the other way round."""
    ways = (MAML, IMAML, FOMAML)
    _, sentence = only(training(ways=ways, loss=level(implicit=2.0, first_order=3.0), noise=0.0))
    assert "with performance: 1.00 [1.00, 1.00] among methods with equal inner steps" in sentence
    _, sentence = only(training(ways=ways, loss=level(implicit=0.5, first_order=0.3), noise=0.0))
    assert "with performance: -1.00 [-1.00, -1.00] among methods with equal inner steps" in sentence
    assert "it does not tell a cause" in sentence
    assert "The gradients were not probed along training." in only(training(ways=ways, probes=False))[1]


def test_rounding_makes_no_gradient_more_exact_than_another() -> None:
    def near(way: Way, steps: int) -> float:
        return {"float64": 1e-15}.get(way[3], {"unrolled_adjoint": 1e-12}.get(way[0], 0.1))

    (case,) = studied(training(ways=(MAML, MAML64, IMAML), distance=near, loss=level(float64=2.0), noise=0.0))
    ranked = case.exactness.groupby("line")["distance"].nunique()
    assert (ranked == 1).all() and case.exactness["distance"].min() == 1e-6


def test_no_run_tested_is_said_for_each_problem() -> None:
    table = small()
    (verdict,) = verdicts(table[table["stage"] != "test"])
    assert verdict.answer == "not trained" and draw(table[table["stage"] != "test"]).texts


# ---- words


@pytest.mark.parametrize(
    ("given", "more", "text"),
    [
        ((0.1531, 0.0212), {}, "0.153 +- 0.021"),
        ((0.1531, nan), {}, "0.153"),
        ((153.1, 21.2), {}, "153 +- 21"),
        ((0.1531, 0.0212), {"sign": True}, "+0.153 +- 0.021"),
        ((0.6123, 0.0298), {"percent": True}, "61.2% +- 3.0%"),
        ((-0.0123, 0.0298), {"percent": True, "sign": True}, "-1.2 +- 3.0 points"),
        ((-1.3e-7, 9.7e-8), {"sign": True}, "-1.30e-07 +- 9.7e-08"),
        ((0.25, 0.0), {}, "0.25 +- 0"),
        ((0.0, 0.0), {"percent": True, "sign": True}, "0 +- 0 points"),
        ((inf, nan), {}, "infinite"),
        ((nan, nan), {}, "unknown"),
    ],
)
def test_means_with_their_intervals(given: tuple[float, float], more: dict[str, bool], text: str) -> None:
    assert with_half(*given, **more) == text


@pytest.mark.parametrize(
    ("difference", "what"),
    [
        ((0.2, 0.1), WORSE), ((-0.2, 0.1), BETTER), ((0.1, 0.2), UNCLEAR), ((0.2, nan), UNCLEAR),
        ((nan, nan), NO_NUMBER),
        ((inf, nan), WORSE), ((-inf, nan), BETTER), ((0.0004, 0.0003), SAME), ((0.0, 0.0), SAME),
    ],
)  # fmt: skip
def test_a_loss_is_judged_by_its_interval(difference: tuple[float, float], what: str) -> None:
    assert judged(*difference, better=-1.0, negligible=1e-3) == what


def test_runs_of_verdicts_become_a_sentence() -> None:
    found = [(1.0, WORSE), (3.0, WORSE), (5.0, WORSE), (10.0, UNCLEAR), (20.0, BETTER)]
    assert against(found, "MAML") == (
        "is worse than MAML at 1 to 5 inner steps, is better than it at 20 and cannot be told from it at 10"
    )


# ---- tables and the report


def test_the_table_told_has_a_line_a_setting() -> None:
    lines = told(training(ways=THREE, seeds=(0, 1), diverged={(IMAML, 5, 1): 10}))
    assert len(lines) == 1 + 3 * 3 and lines[0].split()[:2] == ["problem", "method"]
    (row,) = [line for line in lines if "iMAML (CG that stops)  5 " in line]
    assert row.rstrip().endswith("2      1")


def test_the_summary_has_a_row_for_each_number_of_steps_at_test() -> None:
    found = summary(training(ways=THREE, noise=0.0))
    assert len(found) == 3 * 3 * 4 and "accuracy" not in found
    row = found[(found["method"] == "iMAML (CG that stops)") & (found["inner_steps"] == 5)].set_index("test_steps")
    ends = [row[name].to_dict()[5.0] for name in ("less_maml_low", "less_maml", "less_maml_high")]
    assert ends == sorted(ends) and row["less_maml"].notna().sum() == 1
    assert row["gradient_distance"].iloc[0] == pytest.approx(0.02)


def test_a_summary_is_no_formula() -> None:
    text = as_plain_csv(pd.DataFrame({"case": ["=1+1", "ok"], "loss": [-1.5, 2.0]})).decode()
    assert text == "case,loss\n'=1+1,-1.5\nok,2.0\n"


def test_the_report_has_all_pictures_and_the_summary(tmp_path: Path) -> None:
    table = small(ways=(MAML, IMAML), steps=(5,), test_steps=(5,))
    page = write_report(tmp_path, {"training": table}, {}).read_text()
    names = ["training", *(f"training_{picture.name}" for picture in sections["training"].further)]
    assert names == ["training", "training_exactness", "training_curves"]
    for name in names:
        assert {path.suffix for path in (tmp_path / "figures").glob(f"{name}.*")} == {".png", ".svg", ".pdf"}
        assert f"figures/{name}.png" in page and f"figures/{name}.png" in (tmp_path / "summary.md").read_text()
    assert page.count("<svg") == 3 and "Means over 2 seeds of means over 2 test tasks" in page
    kept = pd.read_csv(tmp_path / "summaries" / "training.csv")
    assert len(kept) == len(summary(table)) and "summaries/training.csv" in page
    lines = answers({"training": table})
    assert lines[0].startswith("Q2, Q4, Q5 training: made up: ") and lines[1:] == list(told(table))


def test_the_case_has_one_line_a_method() -> None:
    table = training(ways=(*ALL, ("implicit", "cg", 20, "float32", "none")), steps=(5,))
    case: Case = studied(table)[0]
    names = [line.name for line in case.lines]
    assert len(names) == len(set(names)) == 8 and "iMAML (CG that stops, 20 iterations)" in names
    looks = {(line.look(case.usual), line.dash) for line in case.lines}
    assert len(looks) == 8  # no two look alike
