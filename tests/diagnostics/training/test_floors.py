"""Floors: nearest neighbours against a loop over all of them, and transductive networks told from others."""

import pytest
import torch

from diagnostics.problem_names import build
from diagnostics.training.batches import batch
from diagnostics.training.floors import nearest_neighbour, transductive


def test_the_nearest_support_image_is_found_by_looking_at_all() -> None:
    problem = build("few_shot[ways=4,shots=2,queries=3,width=4]")
    data = batch(problem, 3, 0, "test", 0)
    right = torch.zeros(3, 12, dtype=torch.float64)
    for task in range(3):
        for query, image in enumerate(data["query_images"][task]):
            distances = [float((image - other).square().sum()) for other in data["support_images"][task]]
            label = data["support_labels"][task][distances.index(min(distances))]
            right[task, query] = label == data["query_labels"][task, query]
    found = nearest_neighbour(data)
    assert found is not None and torch.equal(found, right.mean(-1))
    assert 0.25 < float(found.mean()) < 1


def test_a_query_that_is_a_support_image_is_always_right_and_swapped_labels_never() -> None:
    data = dict(batch(build("few_shot[width=4,queries=1]"), 2, 0, "test", 0))
    data["query_images"] = data["support_images"]
    found = nearest_neighbour(data)
    assert found is not None and found.tolist() == [1.0, 1.0]
    data["query_labels"] = (data["query_labels"] + 1) % 5
    found = nearest_neighbour(data)
    assert found is not None and found.tolist() == [0.0, 0.0]


def test_tasks_without_images_have_no_such_floor() -> None:
    assert nearest_neighbour(batch(build("sinusoid"), 2, 0, "test", 0)) is None


@pytest.mark.parametrize(("norm", "expected"), [("batch", True), ("none", False)])
def test_batch_statistics_are_noticed(norm: str, expected: bool) -> None:
    problem = build(f"few_shot[width=4,norm={norm}]")
    assert transductive(problem, problem.init(0), batch(problem, 2, 0, "test", 0)) is expected


def test_without_classes_nothing_is_said() -> None:
    problem = build("sinusoid")
    assert transductive(problem, problem.init(0), batch(problem, 2, 0, "test", 0)) is None
