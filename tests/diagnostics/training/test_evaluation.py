"""Evaluation: losses and accuracies of each task, after any number of inner steps, and what diverges."""

import pytest
import torch

from diagnostics.inner import run_inner
from diagnostics.outcome import Outcome
from diagnostics.rows import Data, take_rows
from diagnostics.training.batches import groups
from diagnostics.training.evaluation import evaluate
from diagnostics.training.recipe import Parts, parts
from diagnostics.training.train import start
from tests.cases import check_ratio
from tests.diagnostics.training.cases import GLYPHS, tiny

EPS = torch.finfo(torch.float64).eps


def drawn(made: Parts, tasks: int) -> list[Data]:
    return list(groups(made.problems["test"], tasks, 0, "test"))


@pytest.mark.parametrize("problem", ["sinusoid", GLYPHS])
def test_each_number_of_steps_is_a_loop_of_its_own(problem: str) -> None:
    made = parts(tiny(problem=problem))
    test, theta = made.problems["test"], start(made)
    data = drawn(made, 3)
    found = evaluate(made, test, theta, data, (5, 0, 2, 2), 2)
    assert found.steps == (0, 2, 5)
    for place, steps in enumerate(found.steps):
        loop = run_inner(test, made.optimizer, theta.expand(3, -1), data[0], steps)
        expected = test.outer_loss(loop.final, loop.theta, data[0])
        # Chunks of other sizes may add in another order.
        check_ratio("evaluation: loss", (found.loss[place] - expected).abs(), EPS * (1 + expected), steps)
        scores = test.scores
        if scores is not None:
            right = scores(loop.final, loop.theta, data[0]).argmax(-1) == data[0]["query_labels"]
            assert torch.equal(found.accuracy[place], right.double().mean(-1))
    assert found.accuracy.isfinite().all() == (problem == GLYPHS)
    assert not found.outcome.any()


@pytest.mark.parametrize(("problem", "steps"), [("sinusoid", 20), (f"{GLYPHS[:-1]},norm=none]", 20)])
def test_a_loop_that_diverges_has_no_loss_and_says_so(problem: str, steps: int) -> None:
    made = parts(tiny(problem=problem, inner_lr=1e30))
    found = evaluate(made, made.problems["test"], start(made), drawn(made, 2), (0, steps), 2)
    assert found.loss[0].isfinite().all() and not found.outcome[0].any()
    assert found.loss[1].isnan().all() and (found.outcome[1] == Outcome.DIVERGED.code).all()
    if problem == "sinusoid":
        assert found.accuracy.isnan().all()
    else:
        assert (found.accuracy[1] == 0).all() and (found.accuracy[0] > 0).any()  # its queries count as wrong


def test_a_theta_beyond_the_range_of_the_arithmetic_classifies_nothing() -> None:
    made = parts(tiny(problem=GLYPHS, precision="float16"))
    found = evaluate(made, made.problems["test"], 1e6 * start(made), drawn(made, 2), (1,), 2)
    assert found.loss.isnan().all() and not found.accuracy.any()
    assert (found.outcome == Outcome.DIVERGED.code).all()


def test_more_tasks_begin_with_the_same_ones() -> None:
    made = parts(tiny())
    few, many = (evaluate(made, made.problems["test"], start(made), drawn(made, tasks), (2,), 7) for tasks in (13, 45))
    assert many.loss.shape == (1, 45)
    assert torch.equal(few.loss, many.loss[:, :13])
    assert len(set(many.loss[0].tolist())) == 45  # and all are different


def test_a_training_task_is_none_of_validation_or_test() -> None:
    made = parts(tiny(problem=GLYPHS))
    first = {
        role: take_rows(next(groups(made.problems[role], 1, 0, role)), slice(0, 1))["support_images"]
        for role in ("train", "validation", "test")
    }
    assert not torch.equal(first["train"], first["test"]) and not torch.equal(first["validation"], first["test"])
