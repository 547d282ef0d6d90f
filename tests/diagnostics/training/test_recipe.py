"""Recipes: what means nothing is refused in one line, and names stand for what they say."""

import pytest

from diagnostics.estimators.implicit import Implicit
from diagnostics.linear.cg import ConjugateGradients
from diagnostics.training.batches import ROLES, batch_seed
from diagnostics.training.recipe import Recipe, parts
from tests.diagnostics.training.cases import GLYPHS, tiny


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"tasks": 0}, "tasks: expected a whole number >= 1, found 0"),
        ({"meta_iterations": 2.5}, "meta_iterations: expected a whole number >= 1, found 2.5"),
        ({"inner_steps": -1}, "inner_steps: expected a whole number >= 0, found -1"),
        ({"validate_every": 0}, "validate_every: expected a whole number >= 1, found 0"),
        ({"test_steps": ()}, "test_steps: expected one or more numbers of inner steps, found none"),
        ({"test_steps": (1, -2)}, "test_steps: expected a whole number >= 0, found -2"),
        ({"meta_lr": 0.0}, "meta_lr: expected a finite number > 0, found 0.0"),
        ({"meta_lr": float("nan")}, "meta_lr"),
        ({"meta_lr": 1e39, "precision": "float16"}, "meta_lr: expected a number that torch.float32 holds, found 1e+39"),
        ({"clip_norm": -1.0}, "clip_norm: expected a finite number >= 0, found -1.0"),
        ({"outer_optimizer": "adan"}, "outer_optimizer: expected one of adam, sgd, found 'adan'"),
        ({"schedule": "linear"}, "schedule: expected one of constant, cosine, found 'linear'"),
        ({"solver": "gmres"}, "solver: expected one of cg_unchecked, cg, found 'gmres'"),
        ({"method": "mamml"}, "unknown method 'mamml'; did you mean 'maml'"),
        ({"precision": "float31"}, "unknown precision 'float31'; did you mean 'float"),
        ({"scaling": "standardise"}, "unknown rescaling 'standardise'; did you mean 'standardize'"),
        ({"inner_optimizer": "adan"}, "unknown inner optimizer 'adan'; did you mean 'adam'"),
        ({"problem": "sinus"}, "unknown problem 'sinus'; did you mean 'sinusoid'"),
        ({"problem": "few_shot[split=test]"}, "expected the split train, which is trained on, found test"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, object], line: str) -> None:
    with pytest.raises(ValueError) as caught:
        parts(tiny(**wrong))
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_methods_are_estimators() -> None:
    assert [tiny(method=name).estimator for name in ("maml", "fomaml", "imaml", "reptile")] == [
        "unrolled_adjoint", "first_order", "implicit", "reptile",
    ]  # fmt: skip
    made = parts(tiny(method="imaml", cg_iterations=7)).estimator
    assert made == Implicit(ConjugateGradients(7, past_negative_curvature=True))
    assert parts(tiny(method="imaml", solver="cg")).estimator == Implicit(ConjugateGradients(5))
    assert tiny(method="imaml").iterates_cg and not tiny(method="implicit_fixed_point").iterates_cg


def test_splits_are_of_other_classes_where_there_are_splits() -> None:
    made = parts(tiny(problem=GLYPHS, strength=3.0, inner_lr=0.2))
    assert {problem.strength for problem in made.problems.values()} == {3.0}
    assert made.optimizer.learning_rate == 0.2
    assert len({float(problem.sample(1, 0)["support_images"].sum()) for problem in made.problems.values()}) == 3


def test_every_batch_has_a_seed_of_its_own_whatever_the_method() -> None:
    seeds = {batch_seed(seed, role, at) for seed in range(3) for role in ROLES for at in range(50)}
    assert len(seeds) == 3 * len(ROLES) * 50
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_recipe_is_plain_numbers_and_names() -> None:
    assert all(isinstance(value, str | int | float | tuple | None) for value in vars(Recipe("sinusoid")).values())
