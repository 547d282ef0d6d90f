"""Evaluation: the loop that it runs, orders of the labels, and queries that do or do not see each other."""

import math

import pytest
import torch

from diagnostics.arithmetic.precision import PRECISIONS, Precision, enter_rows
from diagnostics.inner import run_inner
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.protocols.evaluation import alone, evaluate
from diagnostics.protocols.label_orders import label_orders
from diagnostics.rows import row_norms
from tests.cases import check_ratio, gd, small, theta_and_data

TASKS = 3


def images(norm: str = "batch", **more: object) -> Problem:
    return small("few_shot", norm=norm, **more)


def scores_of(problem: Problem):  # noqa: ANN201
    assert problem.scores is not None
    return problem.scores


def test_scores_are_the_networks_at_the_end_of_each_loop() -> None:
    problem = images()
    theta, data = theta_and_data(problem, TASKS)
    found = evaluate(problem, gd(problem), theta, data, [4, 0, 2])
    assert [one.steps for one in found] == [4, 0, 2]
    for one in found:
        w = run_inner(problem, gd(problem), theta, data, one.steps).final
        expected = scores_of(problem)(w, theta, data)
        assert torch.equal(one.scores, expected.unsqueeze(0)) and one.transductive
        right = (expected.argmax(-1) == data["query_labels"]).double().mean(-1)
        assert one.accuracy.tolist() == pytest.approx(right.tolist())
        assert torch.equal(one.by_order[0], one.accuracy) and torch.equal(one.ensemble, one.accuracy)


def test_each_order_is_a_loop_of_its_own() -> None:
    """Row by row, what the permuted episode alone gives; and the head does tell one order from another."""
    problem = images()
    theta, data = theta_and_data(problem, TASKS)
    orders = label_orders(3, 6)
    (found,) = evaluate(problem, gd(problem), theta, data, [3], orders=orders)
    assert found.scores.shape == (6, TASKS, 6, 3) and found.outcome.shape == (6, TASKS)
    for p, order in enumerate(orders):
        renamed = {key: order[value] if key.endswith("labels") else value for key, value in data.items()}
        (once,) = evaluate(problem, gd(problem), theta, renamed, [3])
        error = row_norms((once.scores[0][..., order] - found.scores[p]).flatten(1))
        # Another size of batch may sum in another order: 3 steps, sums of up to 784 terms.
        check_ratio("label orders", error, 2.0**-52 * 3 * 28 * row_norms(once.scores[0].flatten(1)), p)
    assert float((found.scores[0] - found.scores[1:]).abs().amin((1, 2, 3)).min()) >= 0
    assert float((found.scores[0] - found.scores[1:]).abs().amax((1, 2, 3)).min()) > 1e-3
    assert torch.equal(found.accuracy, found.by_order.mean(0))


def test_the_average_over_all_orders_does_not_see_the_order_of_the_classes() -> None:
    problem = images()
    theta, data = theta_and_data(problem, TASKS)
    orders = label_orders(3, 6)
    renamed = {key: orders[4][value] if key.endswith("labels") else value for key, value in data.items()}
    ((one,), (other,)), ((first,), (second,)) = (
        [evaluate(problem, gd(problem), theta, some, [3], orders=which) for some in (data, renamed)]
        for which in (orders, None)
    )
    assert one.accuracy.tolist() == pytest.approx(other.accuracy.tolist(), abs=1e-14)
    assert not torch.equal(first.scores[0][..., 0], second.scores[0][..., int(orders[4][0])])
    assert sorted(one.by_order[:, 0].tolist()) == pytest.approx(sorted(other.by_order[:, 0].tolist()))


def test_a_query_alone_does_not_see_the_others() -> None:
    """Other queries change no bit of its scores inductively, and do so transductively."""
    problem = images()
    theta, data = theta_and_data(problem, TASKS)
    other = problem.sample(TASKS, 50)["query_images"]
    changed = {**data, "query_images": torch.cat([data["query_images"][:, :1], other[:, 1:]], 1)}
    for transductive in (True, False):
        (before,), (after,) = (
            evaluate(problem, gd(problem), theta, some, [2], transductive=transductive) for some in (data, changed)
        )
        assert before.transductive is transductive
        assert torch.equal(before.scores[:, :, 0], after.scores[:, :, 0]) is not transductive
        assert not torch.equal(before.scores[:, :, 1:], after.scores[:, :, 1:])


def test_alone_is_the_batch_of_support_and_query() -> None:
    problem = images()
    theta, data = theta_and_data(problem, TASKS)
    found = alone(scores_of(problem))(theta, theta, data)
    for query in range(2):
        batch = torch.cat([data["support_images"], data["query_images"][:, [query]]], 1)
        expected = scores_of(problem)(theta, theta, {**data, "query_images": batch})[:, -1]
        assert torch.equal(found[:, query], expected)


def test_without_batch_statistics_it_makes_no_difference() -> None:
    problem = images(norm="none")
    theta, data = theta_and_data(problem, TASKS)
    (together,), (apart,) = (
        evaluate(problem, gd(problem), theta, data, [2], transductive=transductive) for transductive in (True, False)
    )
    error = (together.scores - apart.scores)[0].flatten(1)
    check_ratio("one by one", row_norms(error), 2.0**-52 * 28 * row_norms(together.scores[0].flatten(1)))


def test_a_loop_that_diverges_is_an_outcome_and_all_wrong() -> None:
    problem = images(norm="none")
    theta, data = theta_and_data(problem, TASKS)
    theta[1] *= 1e100
    start, end = evaluate(problem, gd(problem), theta, data, [0, 30])
    assert decode(end.outcome[0]) == [Outcome.OK, Outcome.DIVERGED, Outcome.OK]
    assert float(end.accuracy[1]) == 0 and math.isfinite(float(start.accuracy[0]))
    alone_, others = evaluate(problem, gd(problem), theta[::2], {k: v[::2] for k, v in data.items()}, [0, 30])
    assert torch.equal(others.scores[0], end.scores[0, ::2])


@pytest.mark.parametrize("arithmetic", PRECISIONS.values(), ids=PRECISIONS)
def test_it_runs_in_every_arithmetic(arithmetic: Precision) -> None:
    problem = images(width=2, ways=2, queries=1)
    theta, data = theta_and_data(problem, 1)
    with arithmetic.running():
        for transductive in (True, False):
            (found,) = evaluate(
                problem, gd(problem), arithmetic.enter(theta), enter_rows(arithmetic, data), [1],
                orders=label_orders(2, 2), transductive=transductive,
            )  # fmt: skip
            assert found.scores.dtype == torch.float64 and type(found.scores) is torch.Tensor
            assert bool(found.scores.isfinite().all())


def test_what_cannot_be_evaluated_is_refused() -> None:
    regression = small("quadratic")
    theta, data = theta_and_data(regression, TASKS)
    with pytest.raises(ValueError, match="expected a problem of classes, found 'quadratic'"):
        evaluate(regression, gd(regression), theta, data, [1])
    problem = images()
    theta, data = theta_and_data(problem, TASKS)
    with pytest.raises(ValueError, match="expected one number of inner steps or more"):
        evaluate(problem, gd(problem), theta, data, [])
