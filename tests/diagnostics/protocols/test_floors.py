"""Floors by pixels and by an untrained network."""

import pytest
import torch
from torch import Tensor

from diagnostics.protocols.evaluation import evaluate
from diagnostics.protocols.floors import nearest_mean, nearest_neighbour, untrained
from diagnostics.protocols.hits import accuracy
from tests.cases import gd, small


def points(support: list[list[float]], labels: list[int], query: list[list[float]]) -> dict[str, Tensor]:
    """Images of two pixels."""
    images = {"support_images": torch.tensor([support]), "query_images": torch.tensor([query])}
    shaped = {key: value.view(1, -1, 1, 1, 2) for key, value in images.items()}
    return {**shaped, "support_labels": torch.tensor([labels])}


def test_distances_in_the_plane() -> None:
    """Class 0 at 0 and 6 with mean 3, class 1 at 2; the points 5 and 2 + 3i."""
    data = points([[0, 0], [6, 0], [2, 0]], [0, 0, 1], [[5, 0], [2, 3]])
    assert nearest_neighbour(data, 2).tolist() == [[[-1, -3], [pytest.approx(-(13**0.5)), -3]]]
    assert nearest_mean(data, 2).tolist() == [[[-2, -3], [pytest.approx(-(10**0.5)), -3]]]


def test_equally_near_classes_share_the_credit() -> None:
    data = points([[1, 0], [-1, 0]], [0, 1], [[0, 3]])
    for floor in (nearest_neighbour, nearest_mean):
        assert float(accuracy(floor(data, 2), torch.tensor([[1]]))) == 0.5


def test_a_class_without_images_is_never_chosen() -> None:
    data = points([[1, 0]], [0], [[0, 3]])
    for floor in (nearest_neighbour, nearest_mean):
        assert floor(data, 3)[0, 0, 1:].tolist() == [-torch.inf, -torch.inf]


def test_a_support_image_finds_itself_and_rows_never_mix() -> None:
    data = small("few_shot", shots=2, ways=4).sample(5, 0)
    itself = {**data, "query_images": data["support_images"]}
    assert accuracy(nearest_neighbour(itself, 4), data["support_labels"]).tolist() == [1] * 5
    for floor in (nearest_neighbour, nearest_mean):
        alone = [floor({key: value[b : b + 1] for key, value in data.items()}, 4) for b in range(5)]
        assert torch.equal(floor(data, 4), torch.cat(alone))


def test_an_untrained_network_is_the_drawn_theta_in_the_same_loop() -> None:
    problem = small("few_shot")
    theta, data = problem.draw(3, 7)
    (floor,), (same,) = (
        untrained(problem, gd(problem), 7, data, [2]), evaluate(problem, gd(problem), theta, data, [2])
    )  # fmt: skip
    assert torch.equal(floor.scores, same.scores) and floor.accuracy.tolist() == pytest.approx(same.accuracy.tolist())
