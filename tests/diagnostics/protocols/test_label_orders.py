"""Label orders: which there are, that they come back, and what an average over them does not see."""

import itertools

import pytest
import torch

from diagnostics.protocols.label_orders import label_orders, relabelled, restored


def test_few_classes_give_every_order_with_the_identity_first() -> None:
    found = label_orders(4, 24)
    assert [tuple(order) for order in found.tolist()] == list(itertools.permutations(range(4)))
    assert label_orders(1, 5).tolist() == [[0]]


def test_many_classes_give_a_sample_of_distinct_orders() -> None:
    found = label_orders(20, 50, seed=3)
    assert found.shape == (50, 20) and len(set(map(tuple, found.tolist()))) == 50
    assert bool((found.sort(1).values == torch.arange(20)).all())
    assert torch.equal(found, label_orders(20, 50, seed=3)) and not torch.equal(found, label_orders(20, 50, seed=4))
    assert torch.equal(found[:7], label_orders(20, 7, seed=3))


def test_a_sample_of_orders_favours_no_label() -> None:
    """Each class gets each of 5 labels in 1/5 of the orders; of 60 out of 120, drawn 200 times, sd 0.0026."""
    sampled = torch.cat([label_orders(5, 60, seed) for seed in range(200)])
    shares = torch.nn.functional.one_hot(sampled, 5).double().mean(0)
    assert float((shares - 0.2).abs().max()) < 4 * 0.0026


def test_labels_move_images_stay_and_scores_come_back() -> None:
    data = {
        "support_images": torch.arange(6.0).view(2, 3),
        "support_labels": torch.tensor([[0, 1, 2], [2, 1, 0]]),
        "query_labels": torch.tensor([[1], [2]]),
    }
    orders = label_orders(3, 6)
    rows = relabelled(data, orders)
    assert torch.equal(rows["support_images"], data["support_images"].repeat(6, 1))
    for p, order in enumerate(orders.tolist()):
        assert rows["support_labels"][2 * p : 2 * p + 2].tolist() == [
            [order[c] for c in row] for row in data["support_labels"].tolist()
        ]
    # Scores that are right under the new labels are right under the old ones once restored.
    scores = torch.nn.functional.one_hot(rows["query_labels"], 3).double()
    expected = torch.nn.functional.one_hot(data["query_labels"], 3).double().expand(6, 2, 1, 3)
    assert torch.equal(restored(scores, orders), expected)


def test_base_classes_keep_their_labels() -> None:
    data = {"query_labels": torch.tensor([[0, 1, 2, 3, 4]])}
    orders = label_orders(3, 6)
    rows = relabelled(data, orders, first=2)
    assert [row[:2] for row in rows["query_labels"].tolist()] == [[0, 1]] * 6
    assert [tuple(c - 2 for c in row[2:]) for row in rows["query_labels"].tolist()] == [
        tuple(o) for o in orders.tolist()
    ]
    scores = torch.nn.functional.one_hot(rows["query_labels"], 5).double()
    assert torch.equal(restored(scores, orders, first=2), torch.eye(5).double().expand(6, 1, 5, 5))


@pytest.mark.parametrize("bad", [0, -1, 2.5, True])
def test_counts_that_are_none_are_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="whole number"):
        label_orders(bad, 5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="whole number"):
        label_orders(5, bad)  # pyright: ignore[reportArgumentType]
