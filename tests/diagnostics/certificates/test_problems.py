"""The derivatives written out by hand: of the losses written out by hand, and of the losses that torch computes."""

import pytest
from flint import arb_mat, ctx
from torch import Tensor

from diagnostics.certificates.balls import Enclosure, each, identity, matrix
from diagnostics.certificates.gradients import implicit
from diagnostics.certificates.problems import logistic, tanh_mlp
from diagnostics.hessian import second_order
from diagnostics.inner import loss_gradient
from diagnostics.models import mlp
from diagnostics.rows import row_norms
from tests.cases import check_ratio, provoked, theta_and_data, vectors
from tests.diagnostics.certificates.differences import BITS, close, differences, loss_by_hand
from tests.diagnostics.certificates.tasks import BY_HAND, NAMES, losses, one_task, problem, tanh_problem


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("name", NAMES)
def test_the_derivatives_are_those_of_the_losses_by_central_differences_of_300_bits(name: str, size: int) -> None:
    settings = {"dimension": size} if name in BY_HAND else {"points": size}
    given = problem(name, **settings, **({"examples": size + 1} if name in ("linear_regression", "logistic") else {}))
    theta, data = theta_and_data(given, 1, seed=size)
    for key in data.keys() & {"support_y", "query_y"}:
        data[key] = data[key] * 1.25  # labels of size 1 would hide a factor
    known = losses(name, data)
    direction = vectors(1, known.size, size)[0]
    with ctx.workprec(BITS):
        w, v = matrix(theta[0]), matrix(direction)
        for prefix, gradient in (("support", known.gradient), ("query", known.outer_gradient)):

            def loss(at: arb_mat, prefix: str = prefix) -> arb_mat:
                return arb_mat(1, 1, [loss_by_hand(name, one_task(data, 0), prefix, at.entries())])

            # The torch loss in float64: that the two are the same function, not a question of digits.
            torch_loss = (given.inner_loss if prefix == "support" else given.outer_loss)(theta, theta, data)
            check_ratio(
                "loss by hand", (torch_loss - float(loss(w)[0, 0])).abs(), 2.0**-53 * (1 + torch_loss.abs()), name
            )
            assert close(v.transpose() * gradient(w), differences(loss, w, v))
        products = known.hessian(w, v)
        assert close(products, differences(known.gradient, w, v))
        hessian = known.hessian(w, identity(known.size))
        assert close(hessian, hessian.transpose()) and close(hessian * v, products)


@pytest.mark.parametrize("name", NAMES)
def test_the_derivatives_are_autograds(name: str) -> None:
    """Another sample, in float64: of gradient, Hessian product and outer gradient at once for several tasks."""
    given = problem(name)
    theta, data = theta_and_data(given, 3, seed=7)
    w, direction = theta + 0.3 * vectors(3, theta.shape[1], 1), vectors(3, theta.shape[1], 2)
    point = second_order(given, w, w, data)  # at theta = w the proximal term's gradient is zero
    expected = {
        "gradient": point.gradient,
        "product": point.hessian(direction) - (given.strength or 0.0) * direction,
        "outer": loss_gradient(given.outer_loss, w, w, data),
    }
    for row in range(3):
        known = losses(name, data, row)
        at, v = matrix(w[row]), matrix(direction[row])
        found = {"gradient": known.gradient(at), "product": known.hessian(at, v), "outer": known.outer_gradient(at)}
        for key, balls in found.items():
            mine = Enclosure(balls, 53).high
            # Sums of some tens of terms of the size of the weights and of the result.
            unit = 2.0**-53 * 10 * (row_norms(expected[key][row : row + 1]) + row_norms(w[row : row + 1]))
            check_ratio(f"hand-written {key}", row_norms((mine - expected[key][row]).unsqueeze(0)), unit, name)


def test_a_quadratic_that_is_not_symmetric_is_differentiated_as_autograd_does() -> None:
    given = problem("quadratic", dimension=3)
    theta, data = theta_and_data(given, 1)
    data["A"][:, 0, 2] += 0.5
    data["C"][:, 2, 1] -= 0.25
    known, w = losses("quadratic", data), matrix(theta[0])
    for balls, loss in ((known.gradient(w), given.inner_loss), (known.outer_gradient(w), given.outer_loss)):
        mine = Enclosure(balls, 53).high
        unit = 2.0**-53 * 10 * (1 + row_norms(theta))
        check_ratio("not symmetric", row_norms(mine - loss_gradient(loss, theta, theta, data)), unit)
    assert implicit(known, theta[0], 0.1).bits == 256  # the symmetric part, which 53 bits do not hold, is exact


def test_the_differences_notice_one_wrong_sign() -> None:
    theta, data = theta_and_data(problem("logistic", dimension=2), 1)
    known = losses("logistic", data)
    with ctx.workprec(BITS):
        w, v = matrix(theta[0]), matrix(vectors(1, 2)[0])
        flipped = each(lambda ball: -ball, known.hessian(w, v))
        assert not close(flipped, differences(known.gradient, w, v))


def test_examples_that_do_not_match_are_refused() -> None:
    _, data = theta_and_data(problem("logistic", dimension=2, examples=3), 1)
    for key, message in (
        ("support_y", "found 2 and 3 in the support set"),
        ("query_x", "found 3 and 2 in the query set"),
    ):
        task = one_task(data, 0)
        with pytest.raises(ValueError, match=f"expected as many answers as inputs, and at least one, {message}"):
            logistic(task | {key: task[key][:2]})
    with pytest.raises(ValueError, match="found 0 and 0 in the support set"):
        logistic(task | {"support_x": task["support_x"][:0], "support_y": task["support_y"][:0]})


def test_widths_that_are_no_network_are_refused() -> None:
    given = tanh_problem((1, 3, 1))
    _, data = theta_and_data(given, 1)
    with pytest.raises(ValueError, match="expected the widths of at least an input and an output, found"):
        tanh_mlp(one_task(data, 0), (1,))
    with pytest.raises(ValueError, match="expected inputs of 2 and outputs of 1 numbers as in widths, found 1 and 1"):
        tanh_mlp(one_task(data, 0), (2, 3, 1))


def test_a_network_of_two_outputs_averages_over_both() -> None:
    """Against autograd; two inputs and two outputs a point, which the sinusoid does not have."""
    widths = (2, 3, 2)
    net = mlp(widths, initialisation="torch")
    data = {f"{prefix}_{key}": vectors(4, 2, seed) for seed, (prefix, key) in enumerate(
        [("support", "x"), ("support", "y"), ("query", "x"), ("query", "y")]
    )}  # fmt: skip
    known, w = tanh_mlp(data, widths), net.init(3).unsqueeze(0)

    def loss(w: Tensor, theta: Tensor, data: dict[str, Tensor]) -> Tensor:
        return ((net.apply(w, data["support_x"]) - data["support_y"]) ** 2).mean((-2, -1))

    batch = {key: value.unsqueeze(0) for key, value in data.items()}
    expected = loss_gradient(loss, w, w, batch)  # type: ignore[arg-type]
    mine = Enclosure(known.gradient(matrix(w[0])), 53).high
    check_ratio("two outputs", row_norms(mine - expected), 2.0**-53 * 10 * (1 + row_norms(expected)))
    with provoked():
        check_ratio("two outputs", row_norms(2 * mine - expected), 2.0**-53 * 10 * (1 + row_norms(expected)))
