"""The parts of a gradient's error: that they add up, that each is what it says it is, and what becomes of failures."""

from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from diagnostics import error_split as module
from diagnostics.arithmetic.extended import extended
from diagnostics.arithmetic.precision import PRECISIONS, Precision, enter_rows, precision
from diagnostics.certified import Certified
from diagnostics.error_split import (
    TARGETS,
    Chain,
    ErrorSplit,
    chain,
    exact_gradients,
    measured_gradients,
    solved_at_ends,
    split,
)
from diagnostics.hessian import second_order
from diagnostics.inner import Trajectory, run_inner
from diagnostics.meta_gradient import outer_gradients
from diagnostics.outcome import Outcome, decode
from diagnostics.problem import Problem
from diagnostics.problem_names import build
from diagnostics.rows import Data, row_norms
from diagnostics.sweep import Sweep, outcome_at_ends
from diagnostics.theory import quadratic_prediction
from tests.cases import check_ratio, gd, only, provoked, small, theta_and_data, vectors

EXTENDED, FLOAT64 = precision("extended"), precision("float64")
EPS = FLOAT64.eps
STEPS, ITERATIONS, TASKS = (0, 1, 8, 40), (1, 3), 3
LOW = ("bfloat16", "float16", "float32")


def same_numbers(problem: Problem, tasks: int = TASKS, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Numbers that every arithmetic holds exactly."""
    theta, data = theta_and_data(problem, tasks, seed)

    def held(x: Tensor) -> Tensor:
        for name in LOW:
            x = PRECISIONS[name].leave(PRECISIONS[name].enter(x)) if x.is_floating_point() else x
        return x

    return held(theta), {key: held(x) for key, x in data.items()}


def run(problem: Problem, arithmetic: Precision, theta: Tensor, data: dict[str, Tensor], steps: int) -> Trajectory:
    with arithmetic.running():
        return run_inner(problem, gd(problem), arithmetic.enter(theta), enter_rows(arithmetic, data), steps)


@lru_cache
def case(name: str, exact: str = "float64") -> tuple[Problem, Tensor, dict[str, Tensor], dict[str, Certified]]:
    """A problem, its numbers, and its exact gradients."""
    problem = small("sinusoid", strength=50.0, shots=3) if name == "sinusoid" else small(name)
    theta, data = same_numbers(problem)
    arithmetic = precision(exact)
    loop = run(problem, arithmetic, theta, data, max(STEPS))
    known = exact_gradients(problem, loop, STEPS, ITERATIONS, arithmetic, precision("float32"), patience=500)
    return problem, theta, data, known


@lru_cache
def measured(name: str, arithmetic: str) -> dict[str, Sweep]:
    problem, theta, data, _ = case(name)
    loop = run(problem, precision(arithmetic), theta, data, max(STEPS))
    return measured_gradients(problem, loop, STEPS, ITERATIONS, precision(arithmetic))


def relative(found: Tensor, truth: Tensor, scale: Tensor) -> Tensor:
    return row_norms(found - truth) / row_norms(scale)


# ---- the parts add up


@pytest.mark.parametrize("arithmetic", [*LOW, "float64"])
@pytest.mark.parametrize(
    ("name", "exact"), [("quadratic", "extended"), ("quadratic", "float64"), ("logistic", "float64"),
                        ("sinusoid", "float64")],
)  # fmt: skip
def test_the_parts_add_up_to_the_total_and_their_shares_to_one(name: str, exact: str, arithmetic: str) -> None:
    known = case(name, exact)[-1]
    for gradient, sweep in measured(name, arithmetic).items():
        for target in TARGETS:
            found = split(sweep, chain(gradient, target), known)
            vectors_of = [part.vector for part in found.parts.values()]
            assert found.total.vector.isfinite().all()
            # One rounding for each difference and each sum, of numbers no longer than the gradients between them.
            lengths = [row_norms(sweep.value.double()), *(found.target_norm + row_norms(x) for x in vectors_of)]
            unit = EPS * sum(lengths)
            error = row_norms(found.total.vector - sum(vectors_of))
            check_ratio("parts of an error add up", error, unit, (name, exact, arithmetic, gradient, target))
            total = row_norms(found.total.vector)
            shares = torch.stack([found.share(part) for part in found.parts.values()]).sum(0)
            some = total > 0
            check_ratio("shares add up to 1", (shares - 1).abs()[some], (unit / total)[some], (name, gradient, target))
            whole = (found.share(found.total) - 1).abs()[some]
            check_ratio("the share of the whole is 1", whole, EPS, (name, gradient, target))


def test_a_wrong_link_would_be_noticed() -> None:
    """The total is formed by itself, so that a part which is not what the next one begins with breaks the sum."""
    known = case("quadratic")[-1]
    sweep = measured("quadratic", "float32")["cg 1"]
    found = split(sweep, chain("cg 1", "stationary"), known)
    wrong = split(sweep, chain("cg 3", "stationary"), known)
    off = {**found.parts, "solver": wrong.parts["solver"]}
    error = row_norms(found.total.vector - sum(part.vector for part in off.values()))
    with provoked():
        check_ratio("parts of an error add up", error, EPS * found.target_norm)


# ---- each part is what it says


@pytest.mark.parametrize("exact", ["float64", "extended"])
def test_on_a_quadratic_truncation_and_inner_are_those_of_the_closed_form(exact: str) -> None:
    problem, theta, data, known = case("quadratic", exact)
    loop = run(problem, FLOAT64, theta, data, max(STEPS))
    theory = quadratic_prediction(problem, loop, STEPS)
    for gradient, part, target, expected in (
        ("unrolled", "truncation", "stationary", theory.unrolled - theory.stationary),
        ("cg 1", "inner", "stationary", theory.implicit - theory.stationary),
        ("cg 1", "inner", "unrolled", theory.implicit - theory.unrolled),
    ):
        found = split(measured("quadratic", "float32")[gradient], chain(gradient, target), known)
        error = row_norms(found.parts[part].vector - expected)
        # Condition number (1 + 0.1) / (0.01 + 0.1) = 10; the float64 oracle is off by as much as the parts.
        check_ratio("parts, closed form", error, 10 * EPS * found.target_norm, (exact, gradient, target))


def test_solver_is_what_conjugate_gradients_leave_of_the_solution() -> None:
    """CG's iterate minimises over the Krylov space: x_i = V (V'HV)^-1 V'b with a basis V from a QR factorisation."""
    problem, theta, data, known = case("quadratic")
    loop = run(problem, FLOAT64, theta, data, max(STEPS))
    ends = loop.endpoints(STEPS)
    b, _ = outer_gradients(problem, ends)
    strength = problem.strength or 0.0
    hessian = ends.data["A"] + strength * torch.eye(b.shape[1], dtype=b.dtype)
    solution = torch.linalg.solve(hessian, b)
    for count in ITERATIONS:
        powers = [b]
        for _ in range(count - 1):
            powers.append((hessian @ powers[-1].unsqueeze(-1)).squeeze(-1))
        basis = torch.linalg.qr(torch.stack(powers, -1)).Q
        small_system = basis.mT @ hessian @ basis
        x = (basis @ torch.linalg.solve(small_system, basis.mT @ b.unsqueeze(-1))).squeeze(-1)
        expected = (strength * (x - solution)).unflatten(0, (len(STEPS), TASKS))
        links = chain(f"cg {count}", "stationary")
        found = split(measured("quadratic", "float32")[f"cg {count}"], links, known)
        error = row_norms(found.parts["solver"].vector - expected)
        check_ratio("solver part, Krylov space", error, 10 * EPS * found.target_norm, count)
        assert bool((found.relative(found.parts["solver"]) > 1e-4).all())


@pytest.mark.parametrize("arithmetic", LOW)
def test_rounding_is_the_distance_to_plain_autograd_from_the_same_numbers(arithmetic: str) -> None:
    problem, theta, data, known = case("logistic")
    sweep = measured("logistic", arithmetic)["unrolled"]
    found = split(sweep, chain("unrolled", "stationary"), known).parts["rounding"]
    for end, steps in enumerate(STEPS):
        at = theta.clone().requires_grad_()
        w = at
        for _ in range(steps):
            (gradient,) = torch.autograd.grad(problem.inner_loss(w, at, data).sum(), w, create_graph=True)
            w = w - problem.learning_rate * gradient
        (truth,) = torch.autograd.grad(problem.outer_loss(w, at, data).sum(), at)
        error = row_norms(found.vector[end] - (sweep.value[end].double() - truth))
        check_ratio("rounding part, autograd", error, EPS * (1 + steps) * row_norms(truth), (arithmetic, steps))
        assert bool((row_norms(found.vector[end]) > 1e-9 * row_norms(truth)).all()) or steps == 0


def test_first_order_leaves_out_what_the_unrolled_gradient_has() -> None:
    problem, theta, data, known = case("quadratic")
    loop = run(problem, FLOAT64, theta, data, max(STEPS))
    theory = quadratic_prediction(problem, loop, STEPS)
    ends = loop.endpoints(STEPS)
    by_w = (ends.data["C"] @ (ends.final - ends.data["c"]).unsqueeze(-1)).squeeze(-1)
    found = split(measured("quadratic", "float32")["first_order"], chain("first_order", "unrolled"), known)
    expected = by_w.unflatten(0, (len(STEPS), TASKS)) - theory.unrolled
    error = row_norms(found.parts["first_order"].vector - expected)
    check_ratio("first-order part, closed form", error, 10 * EPS * found.target_norm)
    assert bool((found.parts["first_order"].vector[0] == 0).all())  # with no steps there is nothing to leave out
    assert list(split(measured("quadratic", "float32")["first_order"], chain("first_order", "stationary"), known).parts)
    assert [name for name, _ in chain("first_order", "stationary")] == ["rounding", "first_order", "truncation"]


@pytest.mark.parametrize("arithmetic", LOW)
def test_all_but_rounding_is_the_same_in_every_arithmetic_and_rounding_is_of_its_size(arithmetic: str) -> None:
    _, _, _, known = case("quadratic", "extended")
    eps = PRECISIONS[arithmetic].eps
    for gradient, sweep in measured("quadratic", arithmetic).items():
        links = chain(gradient, "unrolled")
        found = split(sweep, links, known)
        other = split(measured("quadratic", "float32")[gradient], links, known)
        for name in found.parts:
            assert name == "rounding" or torch.equal(found.parts[name].vector, other.parts[name].vector)
        sizes = found.relative(found.parts["rounding"])[1:]
        check_ratio("rounding part", sizes, eps * 10 * 10, (arithmetic, gradient), limit=3.0)  # steps that count, cond
        assert bool((sizes > eps / 100).all()), sizes


def test_parts_told_by_float64_and_by_extended_precision_agree() -> None:
    for gradient, sweep in measured("quadratic", "float32").items():
        links = chain(gradient, "stationary")
        rough, fine = (split(sweep, links, case("quadratic", exact)[-1]) for exact in ("float64", "extended"))
        for name, part in fine.all.items():
            error = row_norms(part.vector - rough.all[name].vector)
            # And what float64 says that it may be off by is no less than what it is off by.
            assert bool((error <= rough.all[name].uncertainty * rough.target_norm + EPS * row_norms(part.vector)).all())
            check_ratio("parts, two references", error, 100 * EPS * rough.target_norm, (gradient, name))


def test_the_second_setting_runs_the_loop_again() -> None:
    """Extended precision against float64: were the loop not run again in it, the two would agree to all digits."""
    known = case("quadratic", "extended")[-1]
    for name in ("unrolled", "first_order", "cg 1", "cg 3", "exact_solve"):
        uncertainty = known[name].uncertainty[2:]  # one step from numbers of few bits can be exact in both
        assert bool((uncertainty > EPS / 1e3).all()), name
        check_ratio("uncertainty of the links", uncertainty, 10 * EPS, name)


# ---- shares and sizes of vectors that are known


def sweep_of(value: Tensor, code: Outcome = Outcome.OK) -> Sweep:
    codes = torch.full(value.shape[:2], code.code)
    return Sweep(value, codes, torch.full(value.shape[:2], torch.nan), codes, codes)


def certain(*numbers: float, code: Outcome = Outcome.OK, uncertainty: float = 0.0) -> Certified:
    value = torch.tensor([[numbers]], dtype=torch.float64)
    return Certified(sweep_of(value, code), "float64", torch.full((1, 1), uncertainty, dtype=torch.float64))


LINKS: Chain = (("solver", "solved"), ("inner", "target"))


def made(measured: Certified, solved: Certified, target: Certified) -> ErrorSplit:
    return split(measured.sweep, LINKS, {"solved": solved, "target": target})


def test_parts_that_cancel_have_shares_beyond_one_and_below_zero() -> None:
    found = made(certain(3.0, 4.0), certain(-12.0, 4.0), certain(2.0, 4.0))
    assert found.share(found.parts["solver"]).item() == 15 and found.share(found.parts["inner"]).item() == -14
    assert found.relative(found.total).item() == pytest.approx(1 / 20**0.5)
    assert found.relative(found.parts["solver"]).item() == pytest.approx(15 / 20**0.5)


def test_differences_are_formed_in_the_arithmetic_of_the_exact_gradients() -> None:
    """A rounding error of float64 itself, 2^-70 of the gradient, is gone once the exact gradient is rounded."""
    one = torch.ones(1, 1, 2, dtype=torch.float64)
    exact = Certified(sweep_of(extended(one) + 2.0**-70), "extended", torch.zeros(1, 1, dtype=torch.float64))
    found = split(sweep_of(one), chain("unrolled", "unrolled"), {"unrolled": exact})
    assert found.parts["rounding"].vector.tolist() == [[[-(2.0**-70)] * 2]]
    assert found.relative(found.total).item() == pytest.approx(2.0**-70, rel=1e-12)


def test_a_part_across_the_total_has_a_size_and_no_share() -> None:
    found = made(certain(1.0, 1.0), certain(1.0, 5.0), certain(0.0, 1.0))
    assert [found.share(part).item() for part in found.parts.values()] == [0.0, 1.0]
    assert found.relative(found.parts["solver"]).item() == 4.0


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_shares_do_not_overflow_or_underflow(size: float) -> None:
    found = made(certain(3 * size, 0.0), certain(2 * size, 0.0), certain(size, 0.0))
    assert [found.share(part).item() for part in found.parts.values()] == [0.5, 0.5]


def test_no_error_has_no_shares_and_a_target_of_zero_no_sizes() -> None:
    same = made(*[certain(1.0, 2.0)] * 3)
    assert same.relative(same.total).item() == 0 and same.share(same.parts["inner"]).isnan().all()
    nothing = made(certain(1.0, 0.0), certain(1.0, 0.0), certain(0.0, 0.0, uncertainty=torch.nan))
    assert nothing.relative(nothing.parts["inner"]).isnan().all()
    assert nothing.relative(nothing.parts["solver"]).item() == 0  # nothing of nothing


def test_what_is_too_small_for_the_exact_gradients_is_unresolved() -> None:
    """Both gradients of a part count, and they are told in units of the target."""
    solved, target = certain(4.0, 0.0, uncertainty=1e-3), certain(2.0, 0.0, uncertainty=1e-4)
    found = made(certain(4.1, 0.0), solved, target)
    assert found.parts["solver"].uncertainty.item() == pytest.approx(2e-3)
    assert found.parts["inner"].uncertainty.item() == pytest.approx(2e-3 + 1e-4)
    assert found.total.uncertainty.item() == pytest.approx(1e-4)
    outcomes = {name: only(found.outcome(part)) for name, part in found.all.items()}
    assert outcomes == {"total": Outcome.OK, "solver": Outcome.UNRESOLVED, "inner": Outcome.OK}


def test_a_gradient_that_is_missing_takes_its_two_parts_and_no_other() -> None:
    lost = certain(torch.nan, torch.nan, code=Outcome.UNSOLVED)
    found = made(certain(3.0, 0.0), lost, certain(2.0, 0.0))
    assert found.relative(found.total).item() == 0.5 and only(found.outcome(found.total)) is Outcome.OK
    for part in found.parts.values():
        assert found.relative(part).isnan().all() and only(found.outcome(part)) is Outcome.UNSOLVED


def test_a_target_that_is_missing_is_why_no_size_is_known() -> None:
    nowhere = certain(torch.nan, torch.nan, code=Outcome.NOT_STATIONARY)
    found = made(certain(3.0, 0.0), certain(2.0, 0.0), nowhere)
    assert found.parts["solver"].vector.tolist() == [[[1.0, 0.0]]]
    for part in found.all.values():
        assert found.relative(part).isnan().all() and only(found.outcome(part)) is Outcome.NOT_STATIONARY


def test_chains_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a target of stationary, unrolled, found 'exact_solve'"):
        chain("unrolled", "exact_solve")
    with pytest.raises(ValueError, match="expected a chain of at least one part, found none"):
        split(certain(1.0).sweep, (), {})
    assert [name for name, _ in chain("unrolled", "unrolled")] == ["rounding"]
    assert chain("cg 5", "unrolled")[-1] == ("inner", "unrolled")


# ---- the exact solve


def by_writing_out(problem: Problem, loop: Trajectory, steps: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The implicit gradients by a dense solve, and the eigenvalues of the Hessians."""
    ends = loop.endpoints(steps)
    point = second_order(problem, ends.final, ends.theta, ends.data)
    by_w, by_theta = outer_gradients(problem, ends)
    w = ends.final.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(problem.inner_loss(w, ends.theta, ends.data).sum(), w, create_graph=True)
    rows = [torch.autograd.grad(gradient[:, place].sum(), w, retain_graph=True)[0] for place in range(w.shape[1])]
    hessian = torch.stack(rows, 1)
    value = by_theta - point.mixed(torch.linalg.solve(hessian, by_w))
    shape = (len(steps), len(loop.theta))
    return value.unflatten(0, shape), torch.linalg.eigvalsh(hessian).unflatten(0, shape)


@pytest.mark.parametrize("exact", ["float64", "extended"])
@pytest.mark.parametrize("written_out", [0, 10_000])
def test_an_indefinite_system_is_solved_and_says_so(
    exact: str, written_out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = tiny()
    monkeypatch.setattr(module, "WRITTEN_OUT", written_out)
    theta, data = same_numbers(problem)
    loop = run(problem, precision(exact), theta, data, 2)
    plain = run(problem, FLOAT64, theta, data, 2)
    truth, values = by_writing_out(problem, plain, (1, 2))
    assert bool((values[..., 0] < 0).any())
    found = solved_at_ends(problem, loop, (1, 2), precision(exact))
    condition = values.abs().amax(-1) / values.abs().amin(-1)
    error = row_norms(precision(exact).leave(found.value) - truth) / row_norms(truth)
    check_ratio("exact solve, indefinite", error, condition * EPS, (exact, written_out))
    negative = [found.outcome[end, task].item() == Outcome.NEGATIVE_CURVATURE.code
                for end in range(2) for task in range(TASKS)]  # fmt: skip
    assert negative == (values[..., 0] < 0).flatten().tolist()


def test_conjugate_gradients_go_on_past_negative_curvature() -> None:
    """As they are released. In twice as many iterations as there are weights they then solve an indefinite system too,
    and nothing is left for the solver's part; had they stopped, most of it would be.
    """
    problem = tiny()
    loop = run(problem, FLOAT64, *same_numbers(problem), 2)
    known = exact_gradients(problem, loop, (1, 2), (26,), FLOAT64, precision("float32"), patience=0)
    sweep = known["cg 26"].sweep
    assert Outcome.NEGATIVE_CURVATURE in decode(sweep.outcome)
    found = split(sweep, chain("cg 26", "unrolled"), known)
    assert bool((found.relative(found.parts["solver"]) < 1e-6).all())


def tiny() -> Problem:
    """A tanh network of 13 weights, whose loss is not convex."""

    def fit(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        hidden = torch.tanh(x * w[:, None, :4] + w[:, None, 4:8])
        return ((hidden @ w[:, 8:12, None] + w[:, None, 12:] - y) ** 2).mean((-2, -1))

    def inner(w: Tensor, theta: Tensor, data: Data) -> Tensor:
        return fit(w, data["x"], data["y"]) + 0.15 * ((w - theta) ** 2).sum(-1)

    def outer(w: Tensor, theta: Tensor, data: Data) -> Tensor:
        return fit(w, data["u"], data["v"])

    def sample(tasks: int, seed: int) -> dict[str, Tensor]:
        return {name: vectors(tasks * 6, 1, place).view(tasks, 6, 1) for place, name in enumerate("xyuv")}

    return Problem(
        "tiny", inner, outer, lambda seed: 2 * vectors(1, 13, 90 + seed)[0], sample, strength=0.3, learning_rate=0.01
    )


def test_a_solve_that_is_not_finished_gives_no_exact_solve_whatever_else_it_met(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative curvature is the graver outcome of a solution, and must not hide that the solution is none."""
    monkeypatch.setattr(module, "WRITTEN_OUT", 0)
    problem = tiny()
    theta, data = same_numbers(problem)
    loop = run(problem, FLOAT64, theta, data, 2)
    found = solved_at_ends(problem, loop, (1, 2), FLOAT64, iterations=6)
    assert found.value.isnan().all() and only(found.outcome) is Outcome.UNSOLVED
    known = exact_gradients(problem, loop, (1, 2), (1,), FLOAT64, precision("float32"), patience=0, exact_iterations=6)
    sweep = measured_gradients(problem, run(problem, precision("float32"), theta, data, 2), (1, 2), (1,),
                               precision("float32"))["cg 1"]  # fmt: skip
    parts = split(sweep, chain("cg 1", "unrolled"), known)
    assert only(parts.outcome(parts.parts["solver"])) is Outcome.UNSOLVED
    assert parts.relative(parts.total).isfinite().all() and parts.relative(parts.parts["rounding"]).isfinite().all()


# ---- failures


def test_where_no_minimiser_is_near_nothing_is_made_up() -> None:
    problem = tiny()
    loop = run(problem, FLOAT64, *same_numbers(problem), 4)
    known = exact_gradients(problem, loop, (1, 4), (2,), FLOAT64, precision("float32"), patience=0)
    found = split(known["cg 2"].sweep, chain("cg 2", "stationary"), known)
    for part in found.all.values():
        assert found.relative(part).isnan().all() and only(found.outcome(part)) is Outcome.NOT_STATIONARY
    instead = split(known["cg 2"].sweep, chain("cg 2", "unrolled"), known)
    assert instead.relative(instead.total).isfinite().all()


def test_a_loop_that_diverges_says_so_in_every_part_and_in_its_own_task_alone() -> None:
    problem = small("quadratic")
    theta, data = same_numbers(problem)
    data["A"][1] *= 1e4  # steps of 0.5 where 2e-4 would do: |1 - 0.5 * 1e4| ^ 100 overflows
    loop = run(problem, FLOAT64, theta, data, 100)
    known = exact_gradients(problem, loop, (1, 100), (2,), FLOAT64, precision("float32"), patience=10)
    assert outcome_at_ends(loop, (1, 100))[:, 1].tolist() == [0, Outcome.DIVERGED.code]
    assert decode(known["exact_solve"].sweep.outcome[1, 1]) == [Outcome.DIVERGED]
    sweep = measured_gradients(problem, loop, (1, 100), (2,), FLOAT64)["cg 2"]
    found = split(sweep, chain("cg 2", "unrolled"), known)
    for part in found.all.values():
        assert decode(found.outcome(part)[1, 1]) == [Outcome.DIVERGED] and found.relative(part)[1, 1].isnan()
        assert found.relative(part)[:, [0, 2]].isfinite().all() and found.relative(part)[0].isfinite().all()


def test_an_overflow_of_the_arithmetic_is_lost_rounding_and_the_rest_is_known() -> None:
    problem = small("quadratic")
    theta, data = same_numbers(problem)
    known = case("quadratic")[-1]
    low = run(problem, precision("float16"), theta, data, max(STEPS))
    sweep = measured_gradients(problem, low, STEPS, ITERATIONS, precision("float16"))["cg 3"]
    value, codes = sweep.value.clone(), sweep.outcome.clone()
    value[2, 1], codes[2, 1] = torch.inf, Outcome.NOT_FINITE.code
    found = split(replace(sweep, value=value, outcome=codes), chain("cg 3", "stationary"), known)
    for name, part in found.all.items():
        lost = name in ("total", "rounding")
        assert found.relative(part)[2, 1].isfinite().item() is not lost
        assert (decode(found.outcome(part)[2, 1]) == [Outcome.NOT_FINITE]) is lost
        assert not found.share(part)[2, 1].isfinite() and found.share(part)[2, [0, 2]].isfinite().all()


def test_without_a_proximal_term_there_are_only_the_gradients_of_the_algorithm() -> None:
    problem = build("quadratic", dimension=4, strength=0)
    theta, data = same_numbers(problem)
    loop = run(problem, FLOAT64, theta, data, 5)
    known = exact_gradients(problem, loop, (5,), (2,), FLOAT64, precision("float32"))
    assert set(known) == {"unrolled", "first_order"}
    low = measured_gradients(problem, run(problem, precision("float32"), theta, data, 5), (5,), (2,),
                             precision("float32"))  # fmt: skip
    found = split(low["first_order"], chain("first_order", "unrolled"), known)
    assert found.total.vector.isfinite().all() and set(low) == {"unrolled", "first_order"}


def test_small_parts_near_the_minimiser_are_told_by_extended_precision_only() -> None:
    problem = small("quadratic", condition=2.0)
    theta, data = same_numbers(problem)
    found = {}
    for exact in (FLOAT64, EXTENDED):
        loop = run(problem, exact, theta, data, 80)
        known = exact_gradients(problem, loop, (80,), (2,), exact, FLOAT64)
        found[exact.name] = split(known["unrolled"].sweep, chain("unrolled", "stationary"), known)
    for name, code in (("float64", Outcome.UNRESOLVED), ("extended", Outcome.OK)):
        part = found[name].parts["truncation"]
        assert only(found[name].outcome(part)) is code
    sizes = found["extended"].relative(found["extended"].parts["truncation"])
    rate = 1 - problem.learning_rate * (0.5 + (problem.strength or 0))  # of the slowest direction
    assert bool((sizes < 10 * rate**80).all()) and bool((sizes > 1e-3 * rate**80).all())
