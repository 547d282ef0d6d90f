"""Judging among base and novel classes: against the protocol's functions, and the bias from validation alone."""

import pytest
import torch
from torch import Tensor

from diagnostics.data import glyphs
from diagnostics.problems import generalized_few_shot
from diagnostics.protocols.evaluation import evaluate
from diagnostics.protocols.generalized import Generalized, generalized
from diagnostics.protocols.seen_unseen import area, tune_bias
from diagnostics.rows import Data
from diagnostics.training import generalized as module
from diagnostics.training.batches import groups
from diagnostics.training.generalized import (
    REMEMBERED,
    Judged,
    Scored,
    base_classes,
    judge,
    judge_network,
    judge_pixels,
    refuse_seen,
)
from diagnostics.training.recipe import Parts, parts
from diagnostics.training.train import start
from tests.cases import check_ratio
from tests.diagnostics.training.cases import tiny

NAME = "generalized_few_shot[base=4,ways=2,queries=2,width=4"
SEEN, TASKS = 4, 5


def made(name: str = f"{NAME}]", **more: object) -> Parts:
    return parts(tiny(**{"problem": name, "validation_tasks": TASKS, "test_tasks": TASKS, "test_steps": (0, 2)} | more))


def scored(*queries: tuple[float, int]) -> Scored:
    """One episode of one base and one novel class: each query's gap, and whether it is novel."""
    return Scored(torch.tensor([[[gap, 0.0] for gap, _ in queries]]), torch.tensor([[label for _, label in queries]]))


def drawn(made: Parts, role: str) -> Data:
    (data,) = groups(made.problems[role], TASKS, made.recipe.seed, role)
    return data


def same(one: Generalized, other: Generalized) -> bool:
    return all(bool((value == getattr(other, name)).all()) for name, value in vars(one).items())


def by_hand(made: Parts, theta: Tensor, steps: int) -> tuple[Judged, float]:
    """What the functions of the protocol give, task by task without chunks, and the bias that the test would choose."""
    found = {}
    for role in ("validation", "test"):
        data = drawn(made, role)
        (end,) = evaluate(made.problems[role], made.optimizer, theta.expand(TASKS, -1), data, [steps])
        found[role] = end.scores[0], data["query_labels"]
    scores, labels = found["test"]
    known_scores, known_labels = found["validation"]
    bias = tune_bias(known_scores, known_labels, SEEN)
    plain, tuned = (generalized(scores, labels, SEEN, each) for each in (0.0, bias))
    return Judged(plain, tuned, bias, area(scores, labels, SEEN)), tune_bias(scores, labels, SEEN)


def test_the_bias_is_that_of_the_validation_and_the_measures_those_of_the_test() -> None:
    """Between gaps 1 and 3 both validation queries are right: bias 2. The test would choose 1, and have U = 1/2."""
    test = scored((5.0, 0), (1.5, 0), (1.9, 1), (0.5, 1))
    assert tune_bias(test.scores, test.labels, 1) == 1.0
    found = judge(scored((3.0, 0), (1.0, 1)), test, 1)
    assert found.bias == 2.0
    assert (float(found.plain.base), float(found.plain.novel), float(found.plain.harmonic)) == (1.0, 0.0, 0.0)
    assert (float(found.tuned.base), float(found.tuned.novel)) == (0.5, 1.0)
    assert float(found.tuned.harmonic) == pytest.approx(2 / 3) and float(found.area) == 0.75


def test_a_network_is_judged_as_the_protocol_does_it() -> None:
    """In float64, where no tie is near: counts of hits are equal, and the bias is to rounding."""
    its = made()
    theta = start(its) * 3  # the classes of a drawn network lie near each other
    found = judge_network(its, theta)
    assert sorted(found) == [0, 2]
    biases = []
    for steps, judged in found.items():
        expected, of_test = by_hand(its, theta, steps)
        assert same(judged.plain, expected.plain) and same(judged.tuned, expected.tuned)
        assert bool((judged.area == expected.area).all())
        # A bias is the middle of two scores' differences: through four blocks of sums of up to 36 terms each.
        error, size = torch.tensor(abs(judged.bias - expected.bias)), max(1.0, abs(expected.bias))
        check_ratio("bias", error, 36 * 2.0**-52 * size)
        biases.append((judged.bias, of_test))
    assert all(abs(ours - of_test) > 1e-3 for ours, of_test in biases)  # or nothing would tell them apart


def test_chunks_change_nothing_but_rounding() -> None:
    its = [judge_network(made(chunk=chunk), start(made()) * 3) for chunk in (1, 3)]
    for steps in (0, 2):
        one, other = (each[steps] for each in its)
        assert same(one.plain, other.plain) and same(one.tuned, other.tuned)


@pytest.mark.parametrize(("name", "own"), [(f"{NAME}]", False), (f"{NAME},rehearsal=2]", True)])
def test_pixels_know_the_base_classes_and_see_the_same_queries(name: str, own: bool) -> None:
    its = made(name)
    for role in ("validation", "test"):
        data, (known,) = drawn(its, role), module._with_base(its, role)
        assert all(torch.equal(data[key], known[key]) for key in ("query_images", "query_labels", "columns"))
        assert torch.equal(data["support_images"][:, -2:], known["support_images"][:, -2:])
        assert known["support_labels"].unique().tolist() == [0, 1, 2, 3, 4, 5]
        assert own == torch.equal(data["support_labels"], known["support_labels"])
    found = judge_pixels(its)
    assert set(found) == {"nearest_neighbour", "nearest_mean"}
    asked = [next(iter(module._with_base(its, role))) for role in ("validation", "test")]
    for kind, classify in module.PIXELS.items():
        sides = [(classify(data, 6), data["query_labels"]) for data in asked]
        bias = tune_bias(*sides[0], SEEN)
        assert found[kind].bias == bias and same(found[kind].tuned, generalized(*sides[1], SEEN, bias))
        assert same(found[kind].plain, generalized(*sides[1], SEEN))
    assert float(found["nearest_mean"].plain.base.mean()) > 0.2


def test_many_shots_are_more_than_a_base_class_has() -> None:
    its = made("generalized_few_shot[base=4,ways=2,queries=1,width=4,shots=12]")
    (data,) = module._with_base(its, "test")
    assert int((data["support_labels"][0] == 0).sum()) == REMEMBERED


def test_a_loop_that_is_not_finite_is_right_nowhere() -> None:
    diverged = judge_network(made(inner_lr=1e200, test_steps=(2,)), start(made()))[2]
    beyond = judge_network(made(precision="float16", test_steps=(1,)), torch.full_like(start(made()), 1e6))[1]
    for found in (diverged, beyond):
        assert found.bias == 0.0 and not found.plain.base.any() and not found.tuned.novel.any()
        assert not found.area.any() and not found.plain.harmonic.any()


@pytest.mark.parametrize(
    "precision", ["bfloat16", "float16", "float32", "float64", pytest.param("extended", marks=pytest.mark.slow)]
)
def test_every_arithmetic_judges_nearly_alike(precision: str) -> None:
    """A coarse arithmetic may turn a query, but not the picture: 5 tasks have 40 queries."""
    its = made(precision=precision, test_steps=(1,))
    found, exact = judge_network(its, start(its) * 3)[1], judge_network(made(test_steps=(1,)), start(made()) * 3)[1]
    allowed = {"bfloat16": 6, "float16": 2}.get(precision, 0) / 40
    assert float((found.plain.overall.mean() - exact.plain.overall.mean()).abs()) <= allowed + 1e-12


def test_the_base_classes_of_a_problem() -> None:
    assert base_classes("generalized_few_shot") == 20 and base_classes(f"{NAME}]") == 4
    for name in ("sinusoid", "few_shot[width=4]"):
        with pytest.raises(ValueError, match=r"joint label space \(generalized_few_shot\), found '") as caught:
            base_classes(name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("leak", ["validation", "test"])
def test_a_novel_class_that_training_sees_is_refused(leak: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_seen(made())
    own = glyphs.load
    generalized_few_shot._joint_classes.cache_clear()
    monkeypatch.setattr(glyphs, "load", lambda split: own("train" if split == leak else split))
    try:
        with pytest.raises(ValueError, match="expected novel classes that training does not see"):
            refuse_seen(made())
    finally:
        monkeypatch.undo()
        generalized_few_shot._joint_classes.cache_clear()
