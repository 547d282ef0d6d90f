"""Training: against a plain MAML, the same twice, for every method and arithmetic, and where it diverges."""

from dataclasses import replace

import pytest
import torch

from diagnostics.arithmetic.precision import PRECISIONS, enter_rows
from diagnostics.inner import optimizers
from diagnostics.meta_gradient import estimators
from diagnostics.outcome import Outcome
from diagnostics.protocols.intervals import interval, paired
from diagnostics.training.batches import batch, groups
from diagnostics.training.evaluation import evaluate
from diagnostics.training.recipe import METHODS, Recipe, parts
from diagnostics.training.train import Trained, start, train
from tests.cases import check_ratio, provoked
from tests.diagnostics.training.cases import GLYPHS, tiny
from tests.diagnostics.training.reference_maml import adapted, maml

EPS = torch.finfo(torch.float64).eps


def reference_of(recipe: Recipe, noise: float = 0.0) -> torch.Tensor:
    made = parts(recipe)
    problem = made.problems["train"]
    return maml(
        problem,
        lambda iteration: enter_rows(made.arithmetic, batch(problem, recipe.tasks, recipe.seed, "train", iteration)),
        start(made),
        recipe.meta_iterations,
        recipe.inner_steps,
        recipe.meta_lr,
        noise,
    )


@pytest.mark.parametrize("problem", [GLYPHS, "sinusoid[shots=5,queries=5]"])
def test_theta_is_that_of_a_plain_maml(problem: str) -> None:
    """Five iterations on 5-way 1-shot glyphs end in the same theta, to rounding, and hence in the same accuracy.

    Adam divides each component by its own size, so that rounding weighs more in the small ones. How much, the oracle
    tells: its own theta moves by `unit` when each of its gradients is disturbed by one rounding of the largest.
    """
    recipe = tiny(problem=problem, meta_iterations=5, validate_every=5)
    trained, expected = train(recipe), reference_of(recipe)
    theta = trained.progress.theta
    unit = (reference_of(recipe, noise=EPS) - expected).abs().max()
    assert (theta - start(parts(recipe))).abs().max() > recipe.meta_lr > 1e3 * unit  # the yardstick is fine enough
    check_ratio("training: theta against a plain MAML", (theta - expected).abs().max(), unit, problem)


@pytest.mark.slow
def test_glyphs_are_learnt_as_well_as_by_a_plain_maml() -> None:
    """In float32 rounding soon leads two trainings apart; their networks are equally good, over seeds and episodes.

    Not below the plain MAML's accuracy by more than half its own interval, at the same seeds; and it has learnt.
    """
    runs = [
        Recipe("few_shot[width=8]", tasks=4, meta_lr=0.003, meta_iterations=300, validate_every=300, seed=seed,
               validation_tasks=1, test_steps=(5,), test_tasks=100)
        for seed in range(3)
    ]  # fmt: skip
    ours, plain, untrained = [], [], []
    for recipe in runs:
        made = parts(recipe)
        for theta, accuracies in (
            (train(recipe).progress.theta, ours), (reference_of(recipe), plain), (start(made), untrained)
        ):  # fmt: skip
            tasks = groups(made.problems["test"], recipe.test_tasks, recipe.seed, "test")
            found = evaluate(made, made.problems["test"], theta, tasks, recipe.test_steps, chunk=4)
            accuracies.append(found.accuracy[0])
    tables = [torch.stack(accuracies) for accuracies in (ours, plain, untrained)]
    expected = interval(tables[1], crossed=False)
    learnt = paired(tables[1], tables[2], crossed=False)
    assert learnt.mean > learnt.half_width, "the plain MAML has learnt something"
    assert tables[0].mean() >= expected.mean - expected.half_width, (tables[0].mean(), expected)


def test_another_gradient_would_not_agree_with_a_plain_maml() -> None:
    recipe = tiny(meta_iterations=5)
    expected = reference_of(recipe)
    unit = (reference_of(recipe, noise=EPS) - expected).abs().max()
    for other in (replace(recipe, method="fomaml"), replace(recipe, inner_steps=3), replace(recipe, seed=1),
                  replace(recipe, meta_lr=recipe.meta_lr * (1 + 1e-6))):  # fmt: skip
        with provoked():
            check_ratio("training: another", (train(other).progress.theta - expected).abs().max(), unit)


def test_the_losses_that_are_recorded_are_those_where_the_loops_end() -> None:
    recipe = tiny(meta_iterations=1)
    made = parts(recipe)
    problem = made.problems["train"]
    data = batch(problem, recipe.tasks, recipe.seed, "train", 0)
    theta = start(made).expand(recipe.tasks, -1).requires_grad_()
    w = adapted(problem, theta, data, recipe.inner_steps)
    (loss,) = train(recipe).progress.losses
    expected = problem.outer_loss(w, theta, data).detach().mean()
    check_ratio("training: loss", (expected - loss).abs(), EPS * loss)


def numbers(trained: Trained) -> list[torch.Tensor]:
    """Everything that must be the same twice."""
    progress = trained.progress
    rows = (progress.losses, progress.norms, progress.warned, progress.validations, progress.probes)
    tests = (trained.trained, trained.untrained)
    return [
        progress.theta,
        progress.best.theta,
        *progress.moments.values(),
        *(torch.tensor(row, dtype=torch.float64) for row in rows),
        *(getattr(test, name) for test in tests for name in ("loss", "accuracy", "outcome")),
    ]


def same(one: Trained, other: Trained) -> bool:
    pairs = zip(numbers(one), numbers(other), strict=True)
    return all(torch.equal(a.nan_to_num(nan=-7.0), b.nan_to_num(nan=-7.0)) for a, b in pairs)


def test_the_same_settings_give_the_same_numbers_and_another_seed_others() -> None:
    recipe = tiny(probe_every=3, probe_tasks=2)
    one = train(recipe)
    assert same(one, train(recipe))
    assert not same(one, train(replace(recipe, seed=1)))


@pytest.mark.parametrize("method", [*METHODS, *sorted(set(estimators.names()) - set(METHODS.values()))])
def test_every_estimator_trains(method: str) -> None:
    """Those for few components of theta train a problem of few."""
    problem = "linear_regression" if method in ("forward_mode", "finite_difference") else "sinusoid"
    recipe = tiny(problem=problem, method=method, meta_iterations=2, strength=50.0)
    trained = train(recipe)
    assert trained.progress.diverged_at == -1 and trained.progress.iteration == 2
    assert not torch.equal(trained.progress.theta, start(parts(recipe)))


@pytest.mark.parametrize("optimizer", optimizers.names())
def test_every_inner_optimizer_trains(optimizer: str) -> None:
    trained = train(tiny(inner_optimizer=optimizer, meta_iterations=2))
    assert trained.progress.diverged_at == -1 and trained.trained.loss.isfinite().all()


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_arithmetic_trains_near_float64(name: str) -> None:
    """Plain descent follows the gradient itself, so that theta is off by no more than the gradients' own errors.

    A step's error is that of a gradient of a few dozen operations a step of the loop, relative to its length.
    """
    recipe = tiny(outer_optimizer="sgd", meta_lr=0.01, meta_iterations=1, inner_steps=1, validation_tasks=2)
    exact = train(recipe)
    trained = train(replace(recipe, precision=name))
    moved = (exact.progress.theta - start(parts(recipe))).norm()
    # theta itself is rounded where it enters the arithmetic (and held in float32 by the coarser ones)
    assert trained.progress.theta.dtype == (torch.float64 if name in ("float64", "extended") else torch.float32)
    off = (trained.progress.theta.double() - exact.progress.theta).norm()
    held = torch.finfo(trained.progress.theta.dtype).eps * exact.progress.theta.norm()
    check_ratio("training: one step in another arithmetic", off, PRECISIONS[name].eps * moved + held + EPS, name)


@pytest.mark.parametrize("scaling", ["power_of_two", "loss_scale:1024"])
@pytest.mark.parametrize("outer", ["adam", "sgd"])
def test_a_rescaling_that_changes_the_units_alone_changes_no_step(scaling: str, outer: str) -> None:
    recipe = tiny(meta_iterations=3, outer_optimizer=outer, precision="float32")
    plain, scaled = train(recipe), train(replace(recipe, scaling=scaling))
    # Exponents apart the roundings are the same, but for those that underflowed without it.
    off = (plain.progress.theta - scaled.progress.theta).norm() / plain.progress.theta.norm()
    check_ratio("training: rescaled by powers of two", off, torch.finfo(torch.float32).eps, scaling)
    assert plain.trained.loss.allclose(scaled.trained.loss, rtol=1e-5)
    assert torch.tensor(plain.progress.losses).allclose(torch.tensor(scaled.progress.losses), rtol=1e-5)


def test_standardised_inputs_are_another_loop_in_the_same_coordinates() -> None:
    """At no inner steps the loop's end is theta itself, whatever the coordinates: the same gradient comes back."""
    recipe = tiny(inner_steps=0, meta_iterations=2, problem="sinusoid[shots=5,queries=5]")
    plain, scaled = train(recipe), train(replace(recipe, scaling="standardize"))
    unit = EPS * plain.progress.theta.abs().max()
    check_ratio("training: standardised", (plain.progress.theta - scaled.progress.theta).abs().max(), unit)
    longer = replace(recipe, inner_steps=3)
    assert not train(longer).progress.theta.allclose(train(replace(longer, scaling="standardize")).progress.theta)


def test_a_run_that_diverges_stops_and_keeps_the_last_good_theta() -> None:
    """Plain descent with steps of a million leaves every range; before that it has taken some."""
    recipe = tiny(outer_optimizer="sgd", meta_lr=1e6, meta_iterations=30, validate_every=1)
    trained = train(recipe)
    progress = trained.progress
    assert 0 < progress.diverged_at == progress.iteration < 30
    assert len(progress.losses) == progress.iteration
    assert progress.theta.isfinite().all() and progress.best.theta.isfinite().all()
    assert progress.best.score == max(-row[1] for row in progress.validations if row[1] == row[1])
    assert trained.trained.loss.isfinite().all()


def test_a_theta_beyond_the_range_of_the_arithmetic_is_divergence_and_no_exception() -> None:
    trained = train(tiny(outer_optimizer="sgd", meta_lr=1e7, meta_iterations=5, precision="float16"))
    assert trained.progress.diverged_at == 1
    assert not [row for row in trained.progress.validations if row[0] == 5]


def test_a_step_out_of_every_range_is_not_taken() -> None:
    # The gradient is finite, and of a size above 1.
    recipe = tiny(problem="quadratic", inner_steps=0, outer_optimizer="sgd", meta_lr=3e38, precision="float32")
    progress = train(recipe).progress
    assert progress.diverged_at == progress.iteration == 0 and not progress.losses
    assert torch.equal(progress.theta, start(parts(recipe)))


def test_validation_tasks_that_diverge_have_no_loss_and_are_counted() -> None:
    recipe = tiny(inner_lr=50.0, inner_steps=60, meta_iterations=1, method="first_order")
    trained = train(recipe)
    iteration, loss, _, lost = trained.progress.validations[0]
    assert (iteration, lost) == (0, 4) and loss != loss
    assert trained.progress.diverged_at == 0
    assert trained.trained.outcome.eq(0)[0].all()  # a single step is still finite
    assert trained.progress.best.iteration == 0


def test_the_best_theta_is_the_one_that_was_best_on_validation_tasks() -> None:
    recipe = tiny(validate_every=1, meta_iterations=12, meta_lr=0.002)
    trained = train(recipe)
    losses = {int(row[0]): row[1] for row in trained.progress.validations}
    assert list(losses) == list(range(13))
    best = trained.progress.best.iteration
    assert best == min(losses, key=lambda at: losses[at]) and 0 < best < 12
    assert torch.equal(trained.progress.best.theta, train(replace(recipe, meta_iterations=best)).progress.theta)
    # and it is that one which is tested
    assert torch.equal(trained.trained.loss, train(replace(recipe, meta_iterations=best)).trained.loss)
    assert not torch.equal(trained.progress.best.theta, trained.progress.theta)


def test_imaml_learns_the_sinusoid() -> None:
    """Fifty iterations, with a strength that makes the loop converge, lower the loss after adaptation by a tenth."""
    recipe = tiny(method="imaml", strength=50.0, meta_iterations=50, tasks=10, meta_lr=0.01, precision="float32",
                  inner_steps=5, validate_every=50, validation_tasks=20, test_tasks=20, test_steps=(5,))  # fmt: skip
    trained = train(recipe)
    assert float(trained.trained.loss.mean()) < 0.9 * float(trained.untrained.loss.mean())


def test_warnings_are_counted_and_do_not_end_a_run() -> None:
    progress = train(tiny(method="imaml", cg_iterations=1)).progress
    assert progress.iteration == 6 and progress.diverged_at == -1
    assert progress.warned == [3] * 6  # one iteration of CG is never finished
    assert Outcome.UNFINISHED.code != 0
