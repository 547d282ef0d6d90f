"""Meta-training: the outer loop, validated, probed, kept in checkpoints, and tested at its end.

It is a pure function of the recipe: a run that was stopped at any moment, and goes on from its checkpoint, ends in the
same numbers, bit for bit (but for the clock's).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import torch
from torch import Tensor

from diagnostics.problem import Problem
from diagnostics.rows import Data, row_norms
from diagnostics.training.batches import batch, groups
from diagnostics.training.checkpoint import NAME, read_checkpoint, write_checkpoint
from diagnostics.training.evaluation import Evaluation, evaluate
from diagnostics.training.floors import nearest_neighbour, transductive
from diagnostics.training.loops import tasks_together
from diagnostics.training.outer import clipped, moments_of, outer_optimizer, step_size, take
from diagnostics.training.probe import probe
from diagnostics.training.progress import Best, Progress
from diagnostics.training.recipe import Parts, Recipe, parts
from diagnostics.training.step import batch_gradient

Report = Callable[[Progress], None]
SECONDS = 20.0  # between two checkpoints: what a kill may cost


@dataclass(frozen=True)
class Trained:
    """A run at its end: how it went, and what the best theta and the untrained one are good for on the test tasks.

    `nearest (T,)` is the accuracy of the nearest support image, None where there are no images; `transductive` tells
    whether queries are classified by each other's statistics, None where there are no classes.
    """

    recipe: Recipe
    progress: Progress
    trained: Evaluation
    untrained: Evaluation
    nearest: Tensor | None
    transductive: bool | None


def train(
    recipe: Recipe,
    folder: Path | None = None,
    report: Report = lambda progress: None,
    every_seconds: float = SECONDS,
    code: str = "",
) -> Trained:
    """Train, or go on from the checkpoint in `folder`, and test. `report` is called after each iteration.

    A gradient or loss that is not finite ends training there: `progress.diverged_at` says where, and the last theta and
    the best one stand. Raises `ValueError` for a recipe that means nothing; `BadCheckpoint` and `OtherCheckpoint` as
    `read_checkpoint` does.
    """
    made = parts(recipe)
    progress = meta_train(made, folder, report, every_seconds, code)
    test = made.problems["test"]

    def tested(theta: Tensor) -> Evaluation:
        return evaluate(made, test, theta, _drawn(made, "test"), recipe.test_steps, _chunk(made, test))

    nearest = [nearest_neighbour(data) for data in _drawn(made, "test")]
    some = next(iter(_drawn(made, "test")))
    return Trained(
        recipe,
        progress,
        trained=tested(progress.best.theta),
        untrained=tested(start(made)),
        nearest=torch.cat([x.cpu() for x in nearest if x is not None]) if nearest[0] is not None else None,
        transductive=transductive(test, start(made), some),
    )


def start(made: Parts) -> Tensor:
    """The theta `(P,)` that training starts from: the problem's own of the recipe's seed, as it is held."""
    recipe = made.recipe
    return made.problems["train"].init(recipe.seed).to(device=recipe.device, dtype=made.held)


def meta_train(
    made: Parts, folder: Path | None, report: Report, every_seconds: float = SECONDS, code: str = ""
) -> Progress:
    """The outer loop, from its beginning or its checkpoint to its end or its divergence."""
    recipe, path = made.recipe, folder / NAME if folder else None
    theta = start(made)
    progress = read_checkpoint(path, recipe, code) if path else None
    if progress is None:
        progress = Progress(0, theta, {}, Best(theta.clone(), 0, -torch.inf))
    theta = progress.theta = progress.theta.to(recipe.device)
    optimizer = outer_optimizer(recipe, theta, progress.moments)
    chunk = _chunk(made, made.problems["train"])
    validation = list(_drawn(made, "validation")) if progress.iteration < recipe.meta_iterations else []
    probed = batch(made.problems["train"], recipe.probe_tasks, recipe.seed, "probe", 0, recipe.device)
    kept_at = time.monotonic()

    def keep() -> None:
        progress.moments = moments_of(optimizer)
        if path:
            write_checkpoint(path, recipe, progress, code)

    if not progress.validations:
        _look(made, progress, validation, probed)
    while progress.iteration < recipe.meta_iterations and progress.diverged_at < 0:
        begun = _clock(recipe.device)
        data = batch(made.problems["train"], recipe.tasks, recipe.seed, "train", progress.iteration, recipe.device)
        found = batch_gradient(made, theta, data, chunk)
        before = theta.clone()
        if found.finite:
            take(optimizer, theta, clipped(recipe, found.gradient), step_size(recipe, progress.iteration))
        if not (found.finite and bool(theta.isfinite().all())):
            theta.copy_(before)
            progress.diverged_at = progress.iteration
            break
        progress.losses.append(float(found.loss.mean()))
        progress.norms.append(float(row_norms(found.gradient.unsqueeze(0))))
        progress.warned.append(int((found.outcome != 0).sum()))
        progress.seconds.append(progress.spent + _clock(recipe.device) - begun)
        progress.iteration += 1
        _look(made, progress, validation, probed)
        report(progress)
        if time.monotonic() - kept_at >= every_seconds:
            keep()
            kept_at = time.monotonic()
    keep()
    return progress


def _clock(device: str) -> float:
    """Seconds: the processor's where it does the work, which other work hardly moves; else the wall's."""
    return time.process_time() if device == "cpu" else time.perf_counter()


def _look(made: Parts, progress: Progress, validation: list[Data], probed: Data) -> None:
    """Validate and probe where the iteration asks for it; a better theta is kept."""
    recipe, done = made.recipe, progress.iteration
    last = done == recipe.meta_iterations
    if done % recipe.validate_every == 0 or last:
        problem = made.problems["validation"]
        found = evaluate(made, problem, progress.theta, validation, (recipe.inner_steps,), _chunk(made, problem))
        loss, accuracy = float(found.loss.mean()), float(found.accuracy.mean())
        progress.validations.append((done, loss, accuracy, float((found.outcome != 0).sum())))
        score = -loss if problem.scores is None else accuracy
        if not isnan(score) and score > progress.best.score:
            progress.best = Best(progress.theta.detach().clone(), done, score)
    if recipe.probe_every and (done % recipe.probe_every == 0 or last):
        progress.keep_probe(probe(made, progress.theta, probed))


def _drawn(made: Parts, role: str):
    recipe = made.recipe
    count = recipe.test_tasks if role == "test" else recipe.validation_tasks
    return groups(made.problems[role], count, recipe.seed, role, recipe.device)


def _chunk(made: Parts, problem: Problem) -> int:
    """How many tasks go through a loop together."""
    recipe = made.recipe
    tasks = max(recipe.tasks, recipe.validation_tasks, recipe.test_tasks)
    data = batch(problem, 1, recipe.seed, "probe", 0, recipe.device)
    return recipe.chunk or tasks_together(made, problem, start(made), data, tasks)
