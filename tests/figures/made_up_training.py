"""Training runs made up, so that the truth about them is known."""

from collections.abc import Callable, Mapping, Sequence
from math import nan

import numpy as np
import pandas as pd

from analyses.table import tidy

# estimator, solver, CG iterations, arithmetic, rescaling
Way = tuple[str, str | None, int | None, str, str]
MAML: Way = ("unrolled_adjoint", None, None, "float32", "none")
FOMAML: Way = ("first_order", None, None, "float32", "none")
IMAML: Way = ("implicit", "cg", 5, "float32", "none")
RELEASED: Way = ("implicit", "cg_unchecked", 5, "float32", "none")
MAML64: Way = ("unrolled_adjoint", None, None, "float64", "none")
MAML_SCALED: Way = ("unrolled_adjoint", None, None, "float32", "standardize")
IMAML_SCALED: Way = ("implicit", "cg", 5, "float32", "standardize")
ALL = (MAML, FOMAML, RELEASED, IMAML, MAML64, MAML_SCALED, IMAML_SCALED)
STEPS = (1, 5, 20)

Loss = Callable[[Way, int, int], float]  # of the way, the inner steps in training and those at test
DISTANCES = {"unrolled_adjoint": 1e-13, "first_order": 0.3, "implicit": 0.1}


def falling(way: Way, steps: int, at_test: int) -> float:
    """MAML's is 1/K; FOMAML's 10% above, iMAML's three times as high at one step and the same at 20."""
    base = 1.0 / max(at_test, 0.5)
    if way[0] == "first_order":
        return 1.1 * base
    if way[0] == "implicit":
        return base * {1: 3.0, 5: 1.5}.get(steps, 1.0)
    return base


def training(
    problem: str = "made_up",
    *,
    loss: Loss = falling,
    ways: Sequence[Way] = ALL,
    steps: Sequence[int] = STEPS,
    test_steps: Sequence[int] = (0, *STEPS),
    seeds: Sequence[int] = (0, 1, 2),
    tasks: int = 4,
    noise: float = 0.01,
    shared: float = 0.2,
    classes: bool = False,
    distance: Callable[[Way, int], float] = lambda way, steps: DISTANCES[way[0]] / max(steps, 1),
    probes: bool = True,
    diverged: Mapping[tuple[Way, int, int], int] | None = None,
    iterations: int = 40,
) -> pd.DataFrame:
    """Runs whose test loss is `loss`, times a factor of the seed and task that all ways share, and of their own.

    The factors are lognormal with standard deviations `shared` and `noise`. With `classes` there are accuracies,
    exp(-loss). `diverged` gives for (way, steps, seed) the iteration at which the run ended.
    """
    rows: list[dict[str, object]] = []
    for place, way in enumerate(ways):
        for count in steps:
            for seed in seeds:
                end = (diverged or {}).get((way, count, seed), iterations)
                rows += _run(problem, way, place, count, seed, locals())
    return tidy(rows)


def _run(problem: str, way: Way, place: int, count: int, seed: int, given: Mapping) -> list[dict[str, object]]:
    estimator, solver, solved, precision, scaling = way
    common = {
        "analysis": "training", "problem": problem, "seed": seed, "inner_optimizer": "gd", "inner_steps": count,
        "inner_lr": 0.01, "strength": 2.0, "estimator": estimator, "solver": solver, "solver_iterations": solved,
        "damping": 0.0, "precision": precision, "scaling": scaling, "outer_optimizer": "adam", "outer_lr": 1e-3,
        "task": -1, "outcome": "ok",
    }  # fmt: skip
    of = given["shared"] * np.random.default_rng((seed, 7)).standard_normal(given["tasks"])
    own = given["noise"] * np.random.default_rng((seed, place, count)).standard_normal(given["tasks"])
    factor = np.exp(of + own)
    end, rows = given["end"], []

    def judged(loss: float) -> dict[str, object]:
        return {"loss": loss, "accuracy": float(np.exp(-loss)) if given["classes"] else nan}

    final = given["loss"](way, count, count) * float(factor.mean())
    for at in range(0, end + 1, 10):
        elapsed = 0.01 * count * at + 0.5 * (at >= 10)  # something else ran before the second reading of the clock
        rows.append({"stage": "validation", "iteration": at, "elapsed": elapsed, "test_steps": count}
                    | judged(final * (1 + 4 * np.exp(-at / 10))))  # fmt: skip
        if given["probes"] and at % 20 == 0:
            far = given["distance"](way, count)
            label = {"stage": "probe", "iteration": at, "target": "unrolled", "cosine": 1 - far,
                     "cosine_distance": far, "relative_error": (2 * far) ** 0.5, "norm_ratio": 1.0}  # fmt: skip
            rows += [label, label | {"task": 0, "cosine_distance": 10 * far}]
    floor = {"estimator": "untrained", "solver": None, "solver_iterations": None, "outer_optimizer": None}
    for at_test in given["test_steps"]:
        for task, value in enumerate(given["loss"](way, count, at_test) * factor):
            rows.append({"stage": "test", "iteration": end, "test_steps": at_test, "task": task} | judged(value))
        rows.append({"stage": "test", "iteration": 0, "test_steps": at_test} | floor | judged(5.0))
    if given["classes"]:
        rows.append({"stage": "test", "iteration": 0, **floor, "estimator": "nearest_neighbour", "accuracy": 0.3})
    rows.append({"stage": "end", "iteration": end, "elapsed": 0.01 * end,
                 "outcome": "ok" if end == given["iterations"] else "diverged"})  # fmt: skip
    return [common | row for row in rows]


def lose(table: pd.DataFrame, rows: pd.Series) -> pd.DataFrame:
    """The table with the loops of these test tasks diverged: no loss, and no query right."""
    table = table.copy()
    hit = rows & table["stage"].eq("test") & table["task"].ge(0)
    table.loc[hit, "loss"] = nan
    table.loc[hit & table["accuracy"].notna(), "accuracy"] = 0.0
    table.loc[hit, "outcome"] = "diverged"
    return table
