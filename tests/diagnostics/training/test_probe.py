"""Probes: the distances to both references, in the original coordinates, and what they say of the mean gradient."""

import torch

from diagnostics.inner import run_inner
from diagnostics.metrics import distance
from diagnostics.outcome import Outcome, decode
from diagnostics.reference import stationary_reference, unrolled_reference
from diagnostics.training.batches import batch
from diagnostics.training.probe import Probe, probe
from diagnostics.training.progress import PROBE_COLUMNS
from diagnostics.training.recipe import Recipe, parts
from diagnostics.training.train import start, train
from tests.cases import check_ratio
from tests.diagnostics.training.cases import tiny

EPS = torch.finfo(torch.float64).eps


def probed(recipe: Recipe) -> dict[str, Probe]:
    made = parts(recipe)
    data = batch(made.problems["train"], 3, recipe.seed, "probe", 0)
    return {one.target: one for one in probe(made, start(made), data)}


def test_the_distances_are_those_to_the_references() -> None:
    recipe = tiny(method="fomaml", strength=50.0, inner_steps=10, patience=2000)
    made, found = parts(recipe), probed(recipe)
    problem, data = made.problems["train"], batch(made.problems["train"], 3, recipe.seed, "probe", 0)
    loop = run_inner(problem, made.optimizer, start(made).expand(3, -1), data, 10)
    value = made.estimator(problem, loop).value
    references = {
        "unrolled": unrolled_reference(problem, loop, (10,))[0],
        "stationary": stationary_reference(problem, loop),
    }
    assert set(found) == set(references)
    for name, reference in references.items():
        each, whole = distance(value, reference.value), distance(value.mean(0)[None], reference.value.mean(0)[None])
        one = found[name]
        assert torch.equal(one.distance.cosine[:-1], each.cosine)
        assert torch.equal(one.distance.relative_error[:-1], each.relative_error)
        assert torch.equal(one.distance.relative_error[-1:], whole.relative_error)
        assert torch.equal(one.stationarity[:-1], loop.stationarity[-1]) and one.stationarity[-1].isnan()
        assert {each.label for each in decode(one.outcome)} == {"ok"}


def test_an_exact_gradient_is_told_to_be_beyond_what_float64_can_resolve() -> None:
    one = probed(tiny(method="maml"))["unrolled"]
    assert (one.distance.relative_error == 0).all()
    assert set(decode(one.outcome)) == {Outcome.UNRESOLVED}
    finer = probed(tiny(method="maml", reference_seconds=100.0))["unrolled"]
    assert finer.reference == "extended"
    assert (finer.distance.relative_error > 0).all() and set(decode(finer.outcome)) == {Outcome.OK}


def test_the_stationary_target_is_left_out_unless_asked_for_or_known() -> None:
    assert set(probed(tiny())) == {"unrolled"}
    assert set(probed(tiny(strength=0.0, patience=100))) == {"unrolled"}
    assert set(probed(tiny(problem="quadratic"))) == {"unrolled", "stationary"}


def test_a_rescaled_gradient_is_compared_in_the_original_coordinates() -> None:
    """With no inner steps the gradient of theta does not depend on the coordinates of the loop."""
    recipe = tiny(method="fomaml", inner_steps=0, precision="float32")
    plain, scaled = (probed(tiny(**{**vars(recipe), "scaling": name}))["unrolled"] for name in ("none", "standardize"))
    for one in (plain, scaled):
        check_ratio("probe: no steps", one.distance.relative_error, torch.finfo(torch.float32).eps, one.reference)
    longer = probed(tiny(method="fomaml", inner_steps=5, scaling="standardize"))["unrolled"]
    assert (longer.distance.relative_error > 1e-3).all()


def test_probes_are_kept_as_rows() -> None:
    recipe = tiny(method="fomaml", probe_every=3, probe_tasks=3)
    first = probed(recipe)["unrolled"].distance  # of tasks of their own, which are not those of any training batch
    kept = [row[5] for row in train(recipe).progress.probes[:4]]
    assert PROBE_COLUMNS[5] == "relative_error" and kept == first.relative_error.tolist()
    progress = train(tiny(method="fomaml", probe_every=3, probe_tasks=2)).progress
    rows = [dict(zip(PROBE_COLUMNS, row, strict=True)) for row in progress.probes]
    assert [(row["iteration"], row["task"]) for row in rows] == [(at, task) for at in (0, 3, 6) for task in (0, 1, -1)]
    assert all(0.5 < row["cosine"] < 1 and row["relative_error"] > 0.1 for row in rows)
