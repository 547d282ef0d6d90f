"""The generalized few-shot problem: its losses written out, its label space, and that it meets every measure."""

import pytest
import torch
from torch import Tensor

from diagnostics.inner import loss_gradient
from diagnostics.models import conv4
from diagnostics.problem_names import build
from diagnostics.protocols.evaluation import evaluate
from diagnostics.protocols.generalized import generalized
from diagnostics.protocols.label_orders import label_orders
from diagnostics.protocols.seen_unseen import area
from diagnostics.rows import Data, row_norms
from tests.cases import check_ratio, gd, theta_and_data

NAME = "generalized_few_shot[base=4,ways=2,queries=2,width=4"
EPS = 2.0**-52


def written_out(role: str, w: Tensor, data: Data, task: int, novel: int) -> Tensor:
    """One task's loss: log-probabilities of the active columns, image by image."""
    network = conv4(6, width=4)
    every = network.apply(w[task : task + 1], data[f"{role}_images"][task : task + 1])[0]
    losses = [
        torch.logsumexp(row[data["columns"][task]], 0) - row[data["columns"][task][label]]
        for row, label in zip(every, data[f"{role}_labels"][task].tolist(), strict=True)
    ]
    base, other = losses[:-novel], losses[-novel:]
    mean_novel = sum(other, torch.zeros(())) / len(other)
    return (sum(base, torch.zeros(())) / len(base) + mean_novel) / 2 if base else mean_novel


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("rehearsal", [0, 2])
def test_the_losses_are_those_of_the_joint_label_space(split: str, rehearsal: int) -> None:
    problem = build(f"{NAME},split={split},rehearsal={rehearsal}]")
    theta, data = theta_and_data(problem, 2)
    w = theta + 0.1
    inner, outer = problem.inner_loss(w, theta, data), problem.outer_loss(w, theta, data)
    assert problem.strength is not None
    for task in range(2):
        held = problem.strength / 2 * ((w[task] - theta[task]) ** 2).sum()
        for found, expected in (
            (inner[task], written_out("support", w, data, task, 2) + held),
            (outer[task], written_out("query", w, data, task, 4)),
        ):
            # Logits are sums of 4 features each, through four blocks of sums of up to 36 terms.
            check_ratio("joint losses", (found - expected).abs(), EPS * 36 * float(expected.abs() + 1), split)


def test_a_pretended_novel_class_has_lost_its_base_row() -> None:
    """No loss of an episode depends on the rows of the head that its columns leave out."""
    problem = build(f"{NAME}]")
    theta, data = theta_and_data(problem, 3)
    rows = 6 * 4  # the head's weights come last but for its biases: 6 rows of 4 features
    for loss in (problem.inner_loss, problem.outer_loss):
        gradient = loss_gradient(loss, theta.clone(), theta, data)
        head, bias = gradient[:, -6 - rows : -6].view(3, 6, 4), gradient[:, -6:]
        for task in range(3):
            out = sorted(set(range(6)) - set(data["columns"][task].tolist()))
            assert len(out) == 2 and not bool(head[task, out].any()) and not bool(bias[task, out].any())
            assert bool((bias[task, data["columns"][task]] != 0).all())


def test_theta_is_the_same_for_every_split_and_the_classifier_grows() -> None:
    train, test = build(f"{NAME}]"), build(f"{NAME},split=test]")
    assert torch.equal(train.init(0), test.init(0))
    assert train.sample(2, 0)["columns"].shape == (2, 4) and test.sample(2, 0)["columns"].shape == (2, 6)


def test_it_meets_every_measure() -> None:
    problem = build(f"{NAME},split=test]")
    theta, data = theta_and_data(problem, 3)
    (found,) = evaluate(problem, gd(problem), theta, data, [3], orders=label_orders(2, 2), first=4)
    for scores in found.scores:
        measures = generalized(scores, found.labels, 4)
        assert all(bool(((value >= -1) & (value <= 1)).all()) for value in vars(measures).values())
        assert bool((area(scores, found.labels, 4) <= measures.base_own * measures.novel_own).all())


def test_a_stronger_term_keeps_the_base_classes_nearer() -> None:
    """Adapted to novel images alone, the head's base rows move less and the base scores drop less."""
    moved = []
    for strength in (0.0, 2.0, 8.0):
        problem = build(f"{NAME},split=test,strength={strength},activation=tanh,pool=average]")
        theta, data = theta_and_data(problem, 2)
        start, end = evaluate(problem, gd(problem), theta, data, [0, 20])
        moved.append(float(row_norms((end.scores - start.scores)[0, ..., :4].flatten(1)).mean()))
    assert moved[0] > moved[1] > moved[2] > 0


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("base=5,ways=5", "expected ways < base in training"),
        ("base=0", "base: expected a whole number >= 1"),
        ("rehearsal=-1", "rehearsal: expected a whole number >= 0"),
        ("split=val", "split: expected one of train, validation, test"),
        ("norm=layer", "norm: expected one of"),
        ("strength=-1", "strength: expected a finite number >= 0"),
        ("learning_rate=0", "learning_rate: expected a finite number > 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(parameters: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(f"generalized_few_shot[{parameters}]")


def test_more_base_classes_than_there_are_is_refused_when_drawing() -> None:
    with pytest.raises(ValueError, match="expected at most 1568, the training classes, found 9999"):
        build("generalized_few_shot[base=9999,width=1,split=test]").sample(1, 0)
