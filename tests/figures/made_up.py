"""Tables made up, so that the truth about them is known."""

from collections.abc import Callable, Sequence
from math import log10, nan

import numpy as np
import pandas as pd

from analyses.table import tidy

Cosine = Callable[[float, float], float]  # of steps and iterations
TARGETS = ("unrolled", "stationary", "exact_solve")


def grid(
    problem: str = "made_up",
    *,
    cosine: Cosine = lambda steps, iterations: 1 - 0.2 / (steps * iterations + 1),
    stopping: Cosine | None = None,
    stationarity: Callable[[float], float] = lambda steps: 0.5**steps,
    indefinite: Callable[[float], float] = lambda steps: 0.0,
    steps: Sequence[int] = (1, 5, 20, 200),
    iterations: Sequence[int] = (1, 2, 5, 20),
    tasks: int = 16,
    seeds: Sequence[int] = (0, 1),
    precisions: Sequence[str] = ("float64", "float32"),
    no_minimiser: bool = False,
    spread: float = 1e-3,
) -> pd.DataFrame:
    """A full grid in which the cosine to both exact gradients is `cosine`, give or take `spread` among tasks.

    `indefinite(steps)` is the share of tasks with a negative eigenvalue, `stopping` the cosine of CG that stops.
    """
    rows = []
    for seed in seeds:
        for task in range(tasks):
            wobble = spread * np.random.default_rng((seed, task)).uniform(-1, 1)
            for precision in precisions:
                for count in steps:
                    negative = (task + 0.5) / tasks < indefinite(count)
                    common = {
                        "analysis": "made up", "problem": problem, "task": task, "seed": seed, "inner_optimizer": "gd",
                        "inner_steps": count, "inner_lr": 0.1, "strength": 1.0, "damping": 0.0, "precision": precision,
                        "scaling": "none", "stationarity": stationarity(count) * (1 + wobble),
                        "min_eigenvalue": -0.5 if negative else 0.5, "max_eigenvalue": 10.0,
                    }  # fmt: skip
                    rows += [common | row for row in _gradients(count, negative, iterations, cosine, stopping, wobble)]
    table = tidy(rows)
    return _without_minimiser(table) if no_minimiser else table


def _gradients(count, negative, iterations, cosine, stopping, wobble):
    most = max(iterations)
    for target in TARGETS[:2]:
        yield _row("unrolled", target, 1.0 if target == "unrolled" else cosine(count, most) + wobble / 100)
        yield _row("first_order", target, 0.5 + wobble)
    for target in TARGETS:
        yield _row("implicit", target, cosine(count, most) + wobble, negative, solver="exact")
        for given in iterations:
            here = cosine(count, given) + wobble
            yield _row("implicit", target, here, negative, solver="cg_unchecked", solver_iterations=given)
            stopped = here if stopping is None else stopping(count, given) + wobble
            yield _row("implicit", target, stopped, negative, solver="cg", solver_iterations=given)
    for given in iterations:
        label = {"estimator": "bound_cg", "solver": "cg", "solver_iterations": given, "target": "exact_solve"}
        yield label | {"outcome": "prediction", "relative_error": 0.9**given}
    yield {"estimator": "predicted_implicit", "target": "unrolled", "outcome": "prediction", "relative_error": 0.1}


def _row(estimator: str, target: str, cosine: float, negative: bool = False, **more: object) -> dict[str, object]:
    cosine = min(cosine, 1.0)
    error = float(np.sqrt(2 * (1 - cosine)))
    outcome = "ok"
    if negative:
        outcome = "negative curvature" if more.get("solver") == "cg" else "indefinite"
    return {
        "estimator": estimator, "target": target, "cosine": cosine, "cosine_distance": 1 - cosine,
        "relative_error": error,
        "norm_ratio": 1.0, "digits": -log10(error) if error else 16.0, "outcome": outcome,
    } | more  # fmt: skip


MEASURES = ["cosine", "cosine_distance", "relative_error", "norm_ratio", "digits"]


def _without_minimiser(table: pd.DataFrame) -> pd.DataFrame:
    return fail(table, table["target"] == "stationary", "no minimiser")


def fail(table: pd.DataFrame, rows: pd.Series, outcome: str, number: float = nan) -> pd.DataFrame:
    """The table with those of its rows that were measured turned into failures."""
    table = table.copy()
    rows = rows & (table["outcome"] != "prediction")
    table.loc[rows, MEASURES] = number
    table.loc[rows, "outcome"] = outcome
    return table


def diverged() -> pd.DataFrame:
    """A loop that overflows after 5 steps in every task."""
    table = grid()
    late = table["inner_steps"] > 5
    table = fail(table, late, "diverged")
    table.loc[late, ["stationarity", "min_eigenvalue", "max_eigenvalue"]] = nan
    table.loc[late, "outcome_step"] = 7
    return table


ODD = ("a$b$", "{}\\", "\u6f22\u5b57\n|", "w" * 200, " ")
HOSTILE = "<script>alert(1)</script>"

SAMPLES: dict[str, Callable[[], pd.DataFrame]] = {
    "usual": grid,
    "empty": lambda: grid().iloc[:0],
    "one row": lambda: grid().iloc[:1],
    "one implicit row": lambda: (lambda table: table[table["solver"] == "cg_unchecked"].iloc[:1])(grid()),
    "one step": lambda: grid(steps=(20,)),
    "one iteration": lambda: grid(iterations=(5,)),
    "one of each": lambda: grid(steps=(1,), iterations=(1,), tasks=1, seeds=(0,), precisions=("float32",)),
    "no steps among them": lambda: grid(steps=(0, 1, 5)),
    "only no steps": lambda: grid(steps=(0,)),
    "few tasks": lambda: grid(tasks=4, seeds=(0,)),
    "indefinite": lambda: grid(indefinite=lambda steps: 0.8 if steps < 50 else 0.2),
    "no minimiser": lambda: grid(no_minimiser=True),
    "diverged": diverged,
    "all diverged": lambda: (lambda t: fail(t, t["seed"] >= 0, "diverged"))(grid(tasks=3)),
    "infinite errors": lambda: (
        lambda t: t.assign(relative_error=t["relative_error"].where(t["inner_steps"] < 20, np.inf))
    )(grid()),
    "exact zeros": lambda: grid(cosine=lambda steps, iterations: 1.0, spread=0.0),
    "no implicit": lambda: (lambda t: t[t["estimator"].isin(["unrolled", "first_order"])])(grid()),
    "eight problems": lambda: pd.concat([grid(f"problem_{n}[size={n}]", tasks=2) for n in range(8)]),
    "hostile name": lambda: grid(HOSTILE, tasks=2),
    "odd names": lambda: pd.concat([grid(name, tasks=2) for name in ODD]),
    "unknown names": lambda: grid(tasks=2).replace({"cg": "minres", "first_order": "neumann", "float32": "posit16"}),
    "two strengths": lambda: pd.concat([grid(tasks=2), grid(tasks=2).assign(strength=2.0)]),
    "twice the same": lambda: pd.concat([grid(tasks=2), grid(tasks=2)]),
    "many steps": lambda: grid(steps=tuple(range(0, 40)), iterations=tuple(range(1, 13)), tasks=1, seeds=(0,)),
}  # fmt: skip
