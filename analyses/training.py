"""Q2, Q4, Q5: what training with each meta-gradient comes to, over inner steps in training and at test time.

A cell is one training run (see `diagnostics.training.recipe`): a problem, a method, a number of inner steps, an
arithmetic, a rescaling and a seed. All cells of one problem and seed meet the same tasks, in training, in validation
and in the test, so that methods can be compared in pairs; another seed meets others (a nested design in the words of
`diagnostics.protocols.intervals`). Its rows are of several stages:

    train        mean loss of the batches since the row before, `iteration` and `elapsed` at its end
    validation   mean loss and accuracy on the validation tasks
    probe        the gradient's distance to each target; task -1 is the mean gradient, which training follows
    test         loss and accuracy of each task, after `test_steps` inner steps, of the theta with the best validation
                 (the greatest accuracy, or without classes the least loss; of equals the first); and of what it is held
                 against, means over the tasks: the estimators `untrained` and `nearest_neighbour`
    end          how far training came: outcome `ok`, or `diverged` with the iteration that could not be made
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from itertools import pairwise, product
from typing import Any

import pandas as pd

from analyses import unfinished
from analyses.analysis import Analysis, Cell, Rows, analyses, measurements
from analyses.settings import Settings, Training
from diagnostics.outcome import Outcome, decode
from diagnostics.training.evaluation import Evaluation
from diagnostics.training.progress import PROBE_COLUMNS
from diagnostics.training.recipe import SOLVERS, Recipe, parts
from diagnostics.training.train import Trained, train

Row = dict[str, object]
TOLD = (
    "problem", "method", "inner_steps", "cg_iterations", "solver", "inner_optimizer", "inner_lr", "strength",
    "precision", "scaling", "outer_optimizer", "meta_lr", "seed",
)  # fmt: skip
SHARED = tuple(set(Recipe.__dataclass_fields__) & set(Training.__dataclass_fields__))


def cells(settings: Settings) -> list[Cell]:
    """A cell for each run of the tables; solvers and CG iterations multiply the methods that solve by CG.

    Raises `ValueError` for a name that is unknown, for settings that mean nothing, and for runs that no column of the
    table would tell apart.
    """
    found = told_apart("training", (recipe for table in settings.trainings for recipe in recipes(table)))
    return [Cell.of("training", recipe) for recipe in found]


def told_apart(analysis: str, asked: Iterable[Recipe]) -> list[Recipe]:
    """Each run once; `ValueError` for two that differ only in what the table does not tell, as the size of a batch."""
    found = list(dict.fromkeys(asked))
    told: dict[tuple[object, ...], Recipe] = {}
    for recipe in found:
        other = told.setdefault(tuple(getattr(recipe, name) for name in TOLD), recipe)
        if other != recipe:
            apart = [name for name, value in asdict(recipe).items() if value != getattr(other, name)]
            raise ValueError(
                f"{analysis}: expected runs that the table tells apart, found two of {recipe.problem}, "
                f"{recipe.method}, {recipe.inner_steps} inner steps and seed {recipe.seed} that differ in "
                f"{', '.join(apart)} alone; give each a run folder of its own"
            )
    return found


def recipes(table: Training) -> list[Recipe]:
    """The runs of one table."""
    shared = {name: value for name, value in asdict(table).items() if name in SHARED}
    axes = product(table.problems, table.methods, table.steps, table.precisions, table.scalings, table.seeds)
    found = []
    for problem, method, steps, arithmetic, scaling, seed in axes:
        for solver, iterations in product(table.solvers, table.iterations):
            recipe = Recipe(
                **shared | {
                    "problem": problem, "method": method, "inner_steps": steps, "precision": arithmetic,
                    "scaling": scaling, "seed": seed, "solver": solver, "cg_iterations": iterations,
                }
            )  # fmt: skip
            found.append(recipe if recipe.iterates_cg else replace(recipe, solver=SOLVERS[0], cg_iterations=1))
    for recipe in {(r.problem, r.method, r.precision, r.scaling, r.inner_optimizer): r for r in found}.values():
        parts(recipe)
    return list(dict.fromkeys(found))


@measurements.register("training")
def measure_spec(spec: Mapping[str, Any]) -> Rows:
    """`measure` for a cell as a store spells it; what is unfinished is kept in the run folder."""
    recipe = Recipe(**{**spec, "test_steps": tuple(spec["test_steps"])})
    return list(rows_of(train(recipe, unfinished.place_of("training", asdict(recipe)))))


def rows_of(run: Trained) -> Iterator[Row]:
    """The rows of a finished run, without the column `analysis`."""
    common = _common(run)
    yield from (common | row for row in (*_curve(run), *_probes(run), *_tests(run), _end(run)))


def _common(run: Trained) -> Row:
    recipe = run.recipe
    problem = parts(recipe).problems["train"]
    return {
        "problem": recipe.problem,
        "seed": recipe.seed,
        "inner_optimizer": recipe.inner_optimizer,
        "inner_steps": recipe.inner_steps,
        "inner_lr": parts(recipe).optimizer.learning_rate,
        "strength": problem.strength,
        "estimator": recipe.estimator,
        "solver": recipe.solver if recipe.iterates_cg else None,
        "solver_iterations": recipe.cg_iterations if recipe.iterates_cg else None,
        "damping": 0.0,
        "precision": recipe.precision,
        "scaling": recipe.scaling,
        "outer_optimizer": recipe.outer_optimizer,
        "outer_lr": recipe.meta_lr,
        "task": -1,
        "outcome": Outcome.OK.label,
        "transductive": {None: None, True: "yes", False: "no"}[run.transductive],
    }


def _curve(run: Trained) -> Iterator[Row]:
    progress = run.progress
    at = [int(row[0]) for row in progress.validations]
    at += [progress.iteration] if progress.iteration > at[-1] else []  # what came before a divergence
    for begin, end in pairwise(at):
        losses = progress.losses[begin:end]
        yield {"stage": "train", "iteration": end, "elapsed": progress.seconds[end - 1], "loss": _mean(losses)}
    for iteration, loss, accuracy, lost in progress.validations:
        elapsed = progress.seconds[int(iteration) - 1] if iteration else 0.0
        became = Outcome.DIVERGED if lost else Outcome.OK
        yield {
            "stage": "validation", "iteration": int(iteration), "elapsed": elapsed, "loss": loss, "accuracy": accuracy,
            "test_steps": run.recipe.inner_steps, "outcome": became.label,
        }  # fmt: skip


def _probes(run: Trained) -> Iterator[Row]:
    members = list(Outcome)
    for values in run.progress.probes:
        found = dict(zip(PROBE_COLUMNS, values, strict=True))
        yield {
            "stage": "probe",
            "iteration": int(found["iteration"]),
            "task": int(found["task"]),
            "target": "stationary" if found["stationary"] else "unrolled",
            "reference": "extended" if found["extended"] else "float64",
            "reference_uncertainty": found["uncertainty"],
            "outcome": members[int(found["outcome"])].label,
            **{
                name: found[name]
                for name in ("cosine", "cosine_distance", "relative_error", "norm_ratio", "digits", "stationarity")
            },
        }


def _tests(run: Trained) -> Iterator[Row]:
    for place, steps in enumerate(run.trained.steps):
        test = run.trained
        each = zip(test.loss[place].tolist(), test.accuracy[place].tolist(), decode(test.outcome[place]), strict=True)
        for task, (loss, accuracy, became) in enumerate(each):
            yield {
                "stage": "test", "iteration": run.progress.iteration, "test_steps": steps, "task": task, "loss": loss,
                "accuracy": accuracy, "outcome": became.label,
            }  # fmt: skip
        yield _floor(run.untrained, place, steps)
    if run.nearest is not None:
        yield {"stage": "test", "iteration": 0, "accuracy": float(run.nearest.mean()),
               "transductive": "no", **NO_TRAINING, "estimator": "nearest_neighbour"}  # fmt: skip


NO_TRAINING: Row = {"solver": None, "solver_iterations": None, "outer_optimizer": None, "outer_lr": None}


def _floor(test: Evaluation, place: int, steps: int) -> Row:
    lost = bool((test.outcome[place] != Outcome.OK.code).any())
    return {
        "stage": "test", "iteration": 0, "test_steps": steps, "loss": float(test.loss[place].mean()),
        "accuracy": float(test.accuracy[place].mean()), **NO_TRAINING, "estimator": "untrained",
        "outcome": (Outcome.DIVERGED if lost else Outcome.OK).label,
    }  # fmt: skip


def _end(run: Trained) -> Row:
    progress = run.progress
    became = Outcome.DIVERGED if progress.diverged_at >= 0 else Outcome.OK
    return {
        "stage": "end", "iteration": progress.iteration, "elapsed": progress.spent, "outcome": became.label,
    }  # fmt: skip


def _mean(losses: list[float]) -> float:
    return sum(losses) / len(losses)


def view(rows: pd.DataFrame) -> pd.DataFrame:
    """All of them."""
    return rows


analyses.register("training")(
    Analysis(
        ("Q2", "Q4", "Q5"), "losses and accuracies after training with each meta-gradient, over inner steps", cells,
        view,
    )
)  # fmt: skip
