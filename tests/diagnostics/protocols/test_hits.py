"""Credit for a query: right, wrong, tied, or not a number."""

import pytest
import torch

from diagnostics.arithmetic.precision import PRECISIONS, Precision
from diagnostics.protocols.hits import accuracy, hits, votes


def test_the_highest_score_is_right_and_ties_are_shared() -> None:
    scores = torch.tensor([[[3.0, 1, 2], [1, 3, 2], [2, 2, 1], [5, 5, 5], [1, 4, 4]]])
    labels = torch.tensor([[0, 0, 1, 2, 0]])
    credit = hits(scores, labels)
    assert credit.dtype == torch.float64
    assert torch.equal(credit, torch.tensor([[1, 0, 1 / 2, 1 / 3, 0]], dtype=torch.float64))
    assert float(accuracy(scores, labels)) == pytest.approx((1 + 1 / 2 + 1 / 3) / 5, rel=4e-16)


@pytest.mark.parametrize("classes", [2, 5, 7])
def test_a_constant_classifier_earns_chance_whatever_the_order_of_the_classes(classes: int) -> None:
    labels = torch.tensor([[0] * 9, [classes - 1] * 9])
    assert accuracy(torch.ones(2, 9, classes), labels).tolist() == pytest.approx([1 / classes] * 2)


def test_scores_that_are_no_numbers_earn_nothing() -> None:
    nan, inf = torch.nan, torch.inf
    scores = torch.tensor([[[nan, nan], [nan, 1.0], [inf, 1.0], [-inf, -inf]]])
    assert hits(scores, torch.tensor([[0, 1, 0, 1]])).tolist() == [[0, 0, 1, 0.5]]


@pytest.mark.parametrize("arithmetic", PRECISIONS.values(), ids=PRECISIONS)
def test_every_arithmetic_is_understood(arithmetic: Precision) -> None:
    scores = arithmetic.enter(torch.tensor([[[0.25, 0.5], [0.5, 0.25]]], dtype=torch.float64))
    assert hits(scores, torch.tensor([[1, 1]])).tolist() == [[1, 0]]
    assert votes(scores.unsqueeze(0)).dtype == torch.float64


def test_votes_are_mean_probabilities() -> None:
    """log(1/4), log(3/4) and log(7/8), log(1/8): together (9/16, 7/16), though each classifier alone disagrees."""
    scores = torch.tensor([[[[1 / 4, 3 / 4]]], [[[7 / 8, 1 / 8]]]], dtype=torch.float64).log()
    assert votes(scores).tolist() == [[pytest.approx([9 / 16, 7 / 16], rel=1e-15)]]
