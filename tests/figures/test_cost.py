"""The section on costs says what made-up costs have in them, and draws whatever a table may lack."""

from collections.abc import Callable, Sequence
from math import nan

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyses.table import tidy
from figures.cost import draw, summary
from figures.cost_verdicts import verdicts
from figures.cost_view import (
    EXPONENTS,
    LEVELS,
    LOOP,
    SETTING,
    accuracies,
    bytes_text,
    cheapest,
    compared,
    costs,
    front,
    growth,
    per_step,
    priced,
    seconds_text,
    ways,
)
from tests.figures.test_sections import texts_outside

STEPS, ITERATIONS = (1, 10, 100), (2, 5, 20)
# Seconds and bytes a step, and what they begin with: the full graph holds a graph a step, a checkpointed one sqrt(K).
SECONDS = {LOOP: 1e-3, "unrolled": 3e-3, "unrolled_adjoint": 4e-3, "checkpointed": 5e-3, "first_order": 1e-3}
BYTES: dict[str, Callable[[float], float]] = {
    LOOP: lambda steps: 1e3, "unrolled": lambda steps: 1e6 * steps, "unrolled_adjoint": lambda steps: 2e5 * steps,
    "checkpointed": lambda steps: 1e6 * steps**0.5, "first_order": lambda steps: 2e3,
}  # fmt: skip
Cosine = Callable[[str, float, float], float]  # of the estimator, steps and iterations


def converging(estimator: str, steps: float, iterations: float) -> float:
    """To the stationary gradient: better with steps, and for CG with iterations too."""
    if estimator == "first_order":
        return 0.5
    return 1 - 0.3 / steps - (0.0 if estimator != "implicit" else 0.5 * 0.1**iterations)


def cost(
    problem: str = "made_up",
    *,
    cosine: Cosine = converging,
    steps: Sequence[int] = STEPS,
    iterations: Sequence[int] = ITERATIONS,
    optimizers: Sequence[str] = ("gd", "adam"),
    estimators: Sequence[str] = tuple(SECONDS),
    implicit: bool = True,
    tasks: int = 7,
    seeds: Sequence[int] = (0,),
    targets: Sequence[str] = ("unrolled", "stationary"),
) -> pd.DataFrame:
    """Costs that are known: adam takes twice the time and 1.5 times the bytes of gd, and is no more accurate."""
    rows = []
    for seed in seeds:
        for optimizer in optimizers:
            slower, larger = (1.0, 1.0) if optimizer == "gd" else (2.0, 1.5)
            for count in steps:
                ways = [(name, nan, SECONDS[name] * max(count, 1), BYTES[name](max(count, 1))) for name in estimators]
                if implicit:
                    ways += [("implicit", given, 1e-3 * count + 2e-3 * given, 5e3) for given in iterations]
                for name, given_, seconds, size in ways:
                    solver = {"solver": "cg_unchecked", "solver_iterations": given_} if given_ == given_ else {}
                    common = {
                        "problem": problem, "seed": seed, "inner_optimizer": optimizer, "inner_steps": count,
                        "inner_lr": 0.1, "strength": 1.0, "precision": "float32", "estimator": name, "chunk": tasks,
                        "seconds": slower * seconds, "seconds_low": 0.9 * slower * seconds,
                        "seconds_high": 1.2 * slower * seconds, "peak_bytes": larger * size, "outcome": "ok",
                    }  # fmt: skip
                    if name == LOOP:
                        rows.append(common | {"task": -1})
                        continue
                    for target in targets:
                        for task in range(tasks):
                            exact = target == "unrolled" and name in ("unrolled", "unrolled_adjoint", "checkpointed")
                            near = 1.0 if exact else cosine(name, max(count, 1), given_)
                            distances = {"target": target, "cosine": near, "cosine_distance": 1 - near}
                            rows.append(common | solver | distances | {"task": task, "min_eigenvalue": 0.5})
    return tidy(rows)


def lose(table: pd.DataFrame, rows: pd.Series, outcome: str, *, unpriced: bool = False) -> pd.DataFrame:
    table = table.copy()
    gone = ["cosine", "cosine_distance"] + (
        ["seconds", "seconds_low", "seconds_high", "peak_bytes"] if unpriced else []
    )
    table.loc[rows, gone] = nan
    table.loc[rows, "outcome"] = outcome
    return table


def too_large() -> pd.DataFrame:
    table = cost()
    return lose(table, table["estimator"].eq("unrolled") & table["inner_steps"].gt(10), "too large", unpriced=True)


SAMPLES: dict[str, Callable[[], pd.DataFrame]] = {
    "usual": cost,
    "one optimizer": lambda: cost(optimizers=("gd",)),
    "too large": too_large,
    "nothing tried": lambda: (lambda t: lose(t, t["seed"] >= 0, "too large", unpriced=True))(cost()),
    "no minimiser": lambda: (lambda t: lose(t, t["target"].eq("stationary").fillna(False), "no minimiser"))(cost()),
    "diverged": lambda: (lambda t: lose(t, t["task"] >= 0, "diverged"))(cost()),
    "one step": lambda: cost(steps=(5,)),
    "no steps": lambda: cost(steps=(0,)),
    "one task": lambda: cost(tasks=1),
    "two seeds": lambda: cost(seeds=(0, 1), tasks=4),
    "one of each": lambda: cost(steps=(1,), iterations=(5,), optimizers=("gd",), tasks=1),
    "no implicit": lambda: cost(implicit=False, targets=("unrolled",)),
    "only implicit": lambda: cost(estimators=()),
    "only the loop": lambda: cost(estimators=(LOOP,), implicit=False),
    "an unknown estimator": lambda: cost().replace({"checkpointed": "forward_mode"}),
    "no bytes": lambda: cost().assign(peak_bytes=nan),
    "indefinite": lambda: cost().assign(min_eigenvalue=-1.0),
    "steps of its own": lambda: (lambda t: t[(t["inner_optimizer"] == "gd") == (t["inner_steps"] == 10)])(cost()),
    "odd names": lambda: pd.concat([cost("a$b$[x=1]", tasks=2), cost("w" * 150, tasks=2)]),
    "twice the same": lambda: pd.concat([cost(tasks=2), cost(tasks=2)]),
    "two strengths": lambda: pd.concat([cost(tasks=2), cost(tasks=2).assign(strength=2.0)]),
    "five optimizers": lambda: cost(optimizers=("gd", "momentum", "nesterov", "rmsprop", "adam"), tasks=2),
}  # fmt: skip
CROWDED = {"usual", "too large", "no minimiser", "one of each", "odd names", "five optimizers"}


@pytest.mark.parametrize("sample", SAMPLES)
def test_draws_says_and_sums_up_whatever_is_there(sample: str) -> None:
    table = SAMPLES[sample]()
    before = table.copy()
    figure = draw(table)
    assert sample not in CROWDED or not texts_outside(figure)
    found = verdicts(table)
    assert len(found) == (2 if sample in ("odd names", "two strengths") else 1)
    for verdict in found:
        said = verdict.answer + verdict.sentence
        assert verdict.answer and verdict.sentence.endswith(".") and "nan" not in said.lower()
    assert set(summary(table).columns) >= {"case", "target", "cosine wanted", "gradient"}
    assert table.equals(before)


def only(table: pd.DataFrame) -> tuple[str, str]:
    (verdict,) = verdicts(table)
    return verdict.answer, verdict.sentence


# ---- what the verdict says


def test_the_costs_after_the_most_steps_are_those_of_the_table() -> None:
    answer, sentence = only(cost())
    # 100 ms of loop and 5 iterations of 2 ms, beside 300 ms; 5 kB beside 100 MB.
    assert answer == (
        "implicit, 5 CG iterations takes 0.37 times the time and 5e-05 times the bytes of the full graph after 100 "
        "inner steps"
    )
    assert sentence.startswith(
        "One gradient of 7 tasks takes, after 100 inner steps of gd: the inner loop alone 100 ms"
    )
    assert (
        "unrolled, full graph 300 ms and 100 MB" in sentence and "implicit, 5 CG iterations 110 ms and 5 kB" in sentence
    )


def test_bytes_grow_as_they_were_made_to() -> None:
    _, sentence = only(cost())
    for said in (
        "flat for the inner loop alone", "K^1.00 for unrolled, full graph (1 MB a step)",
        "K^1.00 for unrolled, adjoint sweep (200 kB a step)", "K^0.50 for unrolled, checkpointed",
        "flat for implicit, 5 CG iterations.",
    ):  # fmt: skip
        assert said in sentence
    assert "Against gd, unrolled, full graph takes with adam 2 times the time and 1.5 times the bytes" in sentence


def test_the_cheapest_gradient_is_the_one_that_was_made_so() -> None:
    """Only 100 steps reach 0.99 to the stationary gradient (1 - 0.003), and 2 iterations lose 0.005 of that."""
    _, sentence = only(cost())
    assert (
        "The fastest setting with a median cosine of 0.99 to the stationary gradient is implicit, 2 CG iterations "
        "after 100 inner steps of gd (100 ms, cosine 0.9920 [0.9920, 0.9920]), which takes the least memory too (5 kB)"
        "; no setting reaches 0.999."
    ) in sentence
    assert (
        "with a median cosine of 0.999 to the unrolled gradient of 100 inner steps is unrolled, full graph after 100 "
        "inner steps of gd (300 ms, cosine 1 (to 5 digits)), and the smallest unrolled, checkpointed after 100 inner "
        "steps of gd (10 MB, cosine 1 (to 5 digits))."
    ) in sentence


def test_the_summary_has_a_row_for_each_target_level_and_cost() -> None:
    found = summary(cost())
    assert len(found) == 2 * len(LEVELS) * 2
    one = found[(found["target"] == "stationary") & (found["cosine wanted"] == 0.9) & (found["least"] == "seconds")]
    assert one["gradient"].item() == "implicit, 2 CG iterations" and one["inner_steps"].item() == 10
    none = found[(found["target"] == "stationary") & (found["cosine wanted"] == 0.999)]
    assert set(none["gradient"]) == {"none measured"} and none["seconds"].isna().all()


def test_what_was_not_tried_is_named_with_advice() -> None:
    _, sentence = only(too_large())
    assert "Not tried: unrolled, full graph at 100 inner steps. It was not tried, since" in sentence
    answer, sentence = only(SAMPLES["nothing tried"]())
    assert answer == "too large" and "take fewer tasks or inner steps" in sentence


def test_an_indefinite_hessian_is_a_warning_beside_the_cheapest() -> None:
    _, sentence = only(cost().assign(min_eigenvalue=-1.0))
    assert (
        "implicit, 2 CG iterations after 100 inner steps of gd (warning: Hessian indefinite in most tasks)" in sentence
    )
    assert "warning" not in only(cost())[1]
    assert "indefinite" in set(summary(cost().assign(min_eigenvalue=-1.0))["warning"])


def test_no_setting_that_is_right_is_said_with_the_best() -> None:
    _, sentence = only(cost(cosine=lambda *_: 0.3))
    assert (
        "No setting reaches a median cosine of 0.9 to the stationary gradient; the best is 0.30 [0.30, 0.30] with"
        in sentence
    )


# ---- what is compared with what


def test_the_unrolled_gradient_is_compared_at_one_number_of_steps_and_with_one_optimizer() -> None:
    """A loop of one step is its own target, exactly: cheapest and right, and of no use to a loop of 100."""
    rows = priced(cost(optimizers=("momentum", "adam")))
    found = compared(accuracies(rows), "unrolled", "momentum")
    assert set(found["inner_steps"]) == {100} and set(found["inner_optimizer"]) == {"momentum"}
    shared = compared(accuracies(rows), "stationary", "momentum")
    assert set(shared["inner_steps"]) == set(STEPS) and set(shared["inner_optimizer"]) == {"momentum", "adam"}
    assert (
        "of 100 inner steps is unrolled, full graph after 100 inner steps of momentum"
        in only(cost(optimizers=("momentum", "adam")))[1]
    )


def test_costs_are_the_batch_s_and_medians_over_seeds() -> None:
    table = cost(seeds=(0, 1, 2), tasks=3)
    table.loc[table["seed"] == 2, "seconds"] = 99.0
    found = costs(priced(table))
    here = found[(found["method"] == "unrolled") & (found["inner_optimizer"] == "gd") & (found["inner_steps"] == 10)]
    assert here["seconds"].item() == 0.03 and here["tasks"].item() == 3 and len(here) == 1


def test_batches_of_another_size_are_not_mixed_in() -> None:
    """A smaller batch takes a tenth of the time; its rows must not change a number."""
    small = cost(tasks=2)
    small["seconds"] = small["seconds"] / 10
    for mixed in (pd.concat([cost(), small]), pd.concat([small, cost()])):
        assert (
            costs(priced(mixed))
            .sort_values(SETTING)
            .reset_index(drop=True)
            .equals(costs(priced(cost())).sort_values(SETTING).reset_index(drop=True))
        )


def test_the_optimizers_are_compared_with_iterations_that_all_were_run_with() -> None:
    table = pd.concat([cost(optimizers=("gd",), iterations=(5, 20)), cost(optimizers=("adam",), iterations=(5,))])
    assert ("cg_unchecked", 5.0) in ways(costs(priced(table)))
    assert "implicit, 5 CG iterations takes with adam 2 times the time" in only(table)[1]


sizes = st.lists(
    st.tuples(st.sampled_from([1.0, 2.0, 3.0, 5.0, nan]), st.sampled_from([0.1, 0.2, 0.4, 1.0, nan])), max_size=12
)


@given(sizes)
def test_nothing_beats_what_is_on_the_front_and_something_beats_or_equals_the_rest(points: list[tuple[float, float]]):
    known = [point for point in points if point[0] == point[0] and point[1] == point[1]]
    kept = [points[place] for place in front([x for x, _ in points], [y for _, y in points])]
    for x, y in kept:
        assert not any((a <= x and b < y) or (a < x and b <= y) for a, b in known)
    for x, y in known:
        assert any(a <= x and b <= y for a, b in kept)
    assert kept == sorted(kept) and len(set(kept)) == len(kept)


def test_the_cheapest_of_several_that_are_right() -> None:
    table = pd.DataFrame({"cosine": [0.95, 0.99, 0.5, nan], "seconds": [3.0, 2.0, 1.0, 0.5]})
    best = cheapest(table, 0.9, "seconds")
    assert best is not None and best["seconds"] == 2.0 and cheapest(table, 0.999, "seconds") is None


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("begin", [0.0, 100.0])
def test_a_power_is_found_beside_what_does_not_grow(power: float, begin: float) -> None:
    steps = np.array([1.0, 2.0, 10.0, 20.0, 100.0])
    line = pd.DataFrame({"inner_steps": steps, "peak_bytes": begin + 7 * steps**power})
    assert growth(line, "peak_bytes") == pytest.approx(power, abs=1e-9)
    flat = line.assign(peak_bytes=[100.0, 104.0, 101.0, 100.0, 102.0])
    assert growth(flat, "peak_bytes") == 0.0
    falling = line.assign(peak_bytes=1.0 / steps)  # nothing of the form grows with it; it is not called flat either
    assert growth(falling, "peak_bytes") == min(EXPONENTS)
    assert np.isnan(growth(line.iloc[:2], "peak_bytes")) and np.isnan(per_step(line.iloc[:1], "peak_bytes"))
    assert per_step(pd.DataFrame({"inner_steps": [1, 11], "peak_bytes": [5.0, 35.0]}), "peak_bytes") == 3.0


def test_seconds_and_bytes_have_their_units() -> None:
    assert [seconds_text(x) for x in (2.34, 0.1, 0.00256, 3e-6, 2e-9)] == [
        "2.3 s",
        "100 ms",
        "2.6 ms",
        "3 \u03bcs",
        "2.0e-09 s",
    ]
    assert [bytes_text(x) for x in (12, 999.6, 3.14e5, 2.5e9, 1e12)] == ["12 bytes", "1 kB", "310 kB", "2.5 GB", "1 TB"]


def test_lines_carry_the_power_that_they_grow_with() -> None:
    figure = draw(cost(optimizers=("gd",)))
    panel = next(axes for axes in figure.axes if axes.get_title(loc="left").startswith("peak bytes"))
    said = {text.get_text() for text in panel.texts}
    assert {"flat", "K^0.50", "K^1.00"} <= said
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert not any("optimizers" in title for title in titles)
    assert titles.count("against the unrolled gradient, 100 steps") == 2
