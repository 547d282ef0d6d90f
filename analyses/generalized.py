"""Q5: base and novel classes in one label space, after training with each meta-gradient over inner steps.

A cell is one training run, as in `analyses.training`, on a problem whose joint label space has base classes; training
is the same function, and the rows of the stages `train`, `validation`, `probe` and `end` are the same. Its test is of
another kind. A task has two rows for each of `test_steps`, to which the steps of training are added:

    calibration none     the scores as they are; `loss` and, over all queries alike, `accuracy`
    calibration tuned    a bias subtracted from the base classes' scores, tuned on the validation episodes of the same
                         seed, classifier and number of steps, never on the test's (`diagnostics.training.generalized`)

and so has each classifier that a trained one is held against, in means over the tasks: the `untrained` network after
the same steps, and by pixels `nearest_neighbour` and `nearest_mean` among base and novel classes. A row of a task has
its own harmonic mean, so that the mean over tasks can be had as well as the harmonic mean of mean accuracies, which is
larger; a bias is tuned for the latter.

What training itself reports on such a problem counts every query alike: its accuracy, by which the best theta is
chosen, lies between base and novel accuracy at a place that their numbers of queries decide.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from analyses import training, unfinished
from analyses.analysis import Analysis, Cell, Rows, analyses, measurements
from analyses.settings import Settings, Training
from diagnostics.protocols.generalized import Generalized
from diagnostics.training.generalized import Judged, base_classes, judge_network, judge_pixels, refuse_seen
from diagnostics.training.recipe import Recipe, parts
from diagnostics.training.train import Trained, start, train

Row = dict[str, object]
MEASURES = {
    "accuracy": "overall", "base_accuracy": "base", "novel_accuracy": "novel", "harmonic_mean": "harmonic",
    "delta1": "delta1", "delta2": "delta2",
}  # fmt: skip


def cells(settings: Settings) -> list[Cell]:
    """A cell for each run of the tables, as in `analyses.training`.

    Raises `ValueError` for a problem without base classes, and as that does.
    """
    asked = (recipe for table in settings.generalized for recipe in recipes(table))
    return [Cell.of("generalized", recipe) for recipe in training.told_apart("generalized", asked)]


def recipes(table: Training) -> list[Recipe]:
    """The runs of one table, tested after the inner steps of their training too."""
    for problem in table.problems:
        base_classes(problem)
    return [
        replace(recipe, test_steps=tuple(sorted({*recipe.test_steps, recipe.inner_steps})))
        for recipe in training.recipes(table)
    ]


@measurements.register("generalized")
def measure_spec(spec: Mapping[str, Any]) -> Rows:
    """The rows of a cell as a store spells it; what is unfinished is kept in the run folder.

    Raises `ValueError`, before anything is trained, where training would see what is asked later.
    """
    recipe = Recipe(**{**spec, "test_steps": tuple(spec["test_steps"])})
    refuse_seen(parts(recipe))
    return list(rows_of(train(recipe, unfinished.place_of("generalized", asdict(recipe)))))


def rows_of(run: Trained) -> Iterator[Row]:
    """The rows of a finished run, without the column `analysis`."""
    made = parts(run.recipe)
    trained, untrained = (judge_network(made, theta) for theta in (run.progress.best.theta, start(made)))
    for row in training.rows_of(run):
        if row["stage"] != "test":
            yield row
        elif row["estimator"] == "nearest_neighbour":  # of an episode's support alone, where base classes may be absent
            for name, found in judge_pixels(made).items():
                yield from _rows(row | {"estimator": name}, found)
        else:
            network = untrained if row["estimator"] == "untrained" else trained
            yield from _rows(row, network[int(str(row["test_steps"]))])


def _rows(row: Row, found: Judged) -> Iterator[Row]:
    """A row of a test with the measures of its task, or with their means for task -1: as they are, and calibrated."""
    plain = {"calibration": "none", "bias": 0.0}
    yield row | plain | _measures(row, found.plain, found)
    tuned = {"calibration": "tuned", "bias": found.bias, "loss": None}  # a loss of shifted scores is not asked for
    yield row | tuned | _measures(row, found.tuned, found)


def _measures(row: Row, measured: Generalized, found: Judged) -> Row:
    task = int(str(row["task"]))
    values = {name: getattr(measured, of) for name, of in MEASURES.items()} | {"area": found.area}
    return {name: float(value.mean() if task < 0 else value[task]) for name, value in values.items()}


def view(rows: pd.DataFrame) -> pd.DataFrame:
    """All of them."""
    return rows


analyses.register("generalized")(
    Analysis(
        ("Q5",), "accuracies on base and novel classes in one label space, after training with each meta-gradient",
        cells, view,
    )
)  # fmt: skip
