"""What a theta is good for among base and novel classes together, and what it is held against.

A classifier's scores are computed on validation and on test episodes alike. The bias that is subtracted from the base
classes' scores (calibrated stacking, Chao et al. 2016) is tuned on the validation episodes, whose novel classes are
not those of the test, and then applied to the test episodes; these have no say in it. The formulas are those of
`diagnostics.protocols.generalized` and `seen_unseen`.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.chunks import in_chunks
from diagnostics.problem import Problem
from diagnostics.problem_names import build, parse, problems
from diagnostics.protocols.floors import nearest_mean, nearest_neighbour
from diagnostics.protocols.generalized import Generalized, generalized
from diagnostics.protocols.seen_unseen import area, tune_bias
from diagnostics.rows import Data, take_rows
from diagnostics.training.batches import GROUP, batch, groups
from diagnostics.training.loops import run_loops, tasks_together
from diagnostics.training.recipe import Parts

PIXELS: dict[str, Callable[[Data, int], Tensor]] = {
    "nearest_neighbour": nearest_neighbour,
    "nearest_mean": nearest_mean,
}
REMEMBERED = 9  # drawings of a base class at most: half of a glyph's 20 are for training, and a draw keeps one back


@dataclass(frozen=True)
class Judged:
    """A classifier on T test episodes: its measures as it is, and with `bias` subtracted from its base scores.

    `area (T,)` is that under each episode's seen-unseen curve, which no bias changes.
    """

    plain: Generalized
    tuned: Generalized
    bias: float
    area: Tensor


@dataclass(frozen=True)
class Scored:
    """Scores `(T, Q, C)` in float64 of the queries of T episodes, and their labels `(T, Q)`."""

    scores: Tensor
    labels: Tensor


def base_classes(problem: str) -> int:
    """How many base classes a problem's joint label space has; `ValueError` for a problem without."""
    name, given = parse(problem)
    known = inspect.signature(problems[name]).parameters
    if "base" not in known:
        has = [other for other in problems.names() if "base" in inspect.signature(problems[other]).parameters]
        raise ValueError(
            f"problem: expected one with base and novel classes in a joint label space ({', '.join(has)}), found "
            f"{problem!r}; train it by the analysis `training`"
        )
    return int(given["base"] if "base" in given else known["base"].default)


def refuse_seen(made: Parts) -> None:
    """Raise `ValueError` where training would see a novel class, or a drawing that is asked for later.

    The draws themselves ask (`diagnostics.protocols.joint_episodes`); here they are made before anything is trained.
    """
    for role in ("train", "validation", "test"):
        batch(made.problems[role], 1, made.recipe.seed, role, 0)


def judge(validation: Scored, test: Scored, seen: int) -> Judged:
    """The measures on the test episodes, with a bias that was tuned on the validation episodes alone.

    Labels below `seen` are base classes. Raises `ValueError` as `generalized` does.
    """
    bias = tune_bias(validation.scores, validation.labels, seen)
    return Judged(
        plain=generalized(test.scores, test.labels, seen),
        tuned=generalized(test.scores, test.labels, seen, bias),
        bias=bias,
        area=area(test.scores, test.labels, seen),
    )


def judge_network(made: Parts, theta: Tensor) -> dict[int, Judged]:
    """By number of inner steps, the network adapted from `theta (P,)` in the arithmetic and loop of its training."""
    counts = tuple(sorted(set(made.recipe.test_steps)))
    seen = base_classes(made.recipe.problem)
    validation, test = (
        _by_steps(made, made.problems[role], theta, _episodes(made, role), counts) for role in ("validation", "test")
    )
    return {steps: judge(validation[steps], test[steps], seen) for steps in counts}


def judge_pixels(made: Parts) -> dict[str, Judged]:
    """The nearest support image, and the nearest mean of a class's, among the pixels of all classes.

    The episodes are those of the network. Where their support has no base classes these are remembered by as many
    training drawings of each class as there are shots, since else no query of theirs could be right.
    """
    seen = base_classes(made.recipe.problem)
    asked = {role: [_remembered(data) for data in _with_base(made, role)] for role in ("validation", "test")}

    def by(classify: Callable[[Data, int], Tensor], role: str) -> Scored:
        scores = [classify(data, data["columns"].shape[1]) for data in asked[role]]
        return Scored(torch.cat(scores), torch.cat([data["query_labels"] for data in asked[role]]))

    return {name: judge(by(found, "validation"), by(found, "test"), seen) for name, found in PIXELS.items()}


def _episodes(made: Parts, role: str) -> Iterable[Data]:
    recipe = made.recipe
    count = recipe.test_tasks if role == "test" else recipe.validation_tasks
    return groups(made.problems[role], count, recipe.seed, role, recipe.device)


def _with_base(made: Parts, role: str) -> Iterable[Data]:
    """The same episodes with base classes in the support; their queries do not depend on it."""
    recipe = made.recipe
    name, given = parse(recipe.problem)
    known = inspect.signature(problems[name]).parameters
    shots, rehearsal = (int(given[key] if key in given else known[key].default) for key in ("shots", "rehearsal"))
    remembered = build(recipe.problem, split=role, rehearsal=max(rehearsal, min(shots, REMEMBERED)))
    count = recipe.test_tasks if role == "test" else recipe.validation_tasks
    return groups(remembered, count, recipe.seed, role, recipe.device)


def _remembered(data: Data) -> Data:
    present = torch.nn.functional.one_hot(data["support_labels"], data["columns"].shape[1]).sum(1)
    assert bool((present > 0).all()), "every class of the joint label space has a support image"
    return data


def _by_steps(
    made: Parts, problem: Problem, theta: Tensor, data: Iterable[Data], counts: tuple[int, ...]
) -> dict[int, Scored]:
    """The scores after each of the numbers of steps; NaN where a loop is no longer finite."""
    found, labels, chunk = [], [], made.recipe.chunk
    for some in data:
        tasks = len(some["query_labels"])
        chunk = chunk or tasks_together(made, problem, theta, some, GROUP)
        found += in_chunks(
            lambda rows, some=some: _scores(made, problem, theta, take_rows(some, rows), counts), tasks, chunk
        )
        labels.append(some["query_labels"].cpu())
    scores, every = torch.cat(found, dim=1), torch.cat(labels)
    return {steps: Scored(scores[place], every) for place, steps in enumerate(counts)}


def _scores(made: Parts, problem: Problem, theta: Tensor, data: Data, counts: tuple[int, ...]) -> Tensor:
    """`(E, B, Q, C)` after each of E numbers of steps."""
    loops = run_loops(made, problem, theta, data, max(counts), keep=counts)
    if loops is None:
        tasks, queries = data["query_labels"].shape
        return torch.full((len(counts), tasks, queries, data["columns"].shape[1]), torch.nan, dtype=torch.float64)
    loop, classify = loops.trajectory, loops.problem.scores
    assert classify is not None, "a problem with base classes states scores"
    with torch.no_grad(), made.arithmetic.running():
        each = [made.arithmetic.leave(classify(state[:, : loop.size], loop.theta, loop.data)) for state in loop.states]
    return torch.stack(each).double().cpu()
