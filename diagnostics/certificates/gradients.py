"""Meta-gradients in balls: the unrolled one by two recursions written out by hand, and the implicit one.

The loop is `w_(k+1) = w_k - a (g(w_k) + strength (w_k - theta))` from `w_0 = theta`. With H the Jacobian of g,
`M_k = I - a (H(w_k) + strength I)` and v the outer loss's gradient at w_K,

    adjoint:   a_K = v,   a_k = M_k a_(k+1);    d outer / d theta = a_0 + a strength (a_1 + ... + a_K)
    tangent:   T_0 = I,   T_(k+1) = M_k T_k + a strength I;    d outer / d theta = T_K' v
    implicit:  strength (H(w) + strength I)^-1 v(w),   at a minimiser of the inner loss or any other w

The learning rate and the strength are the float64 numbers that they are given as, and are exact.
"""

from diagnostics.certificates.balls import (
    BITS,
    RADIUS,
    Enclosure,
    Words,
    arb,
    arb_mat,
    dot,
    each,
    enclosed,
    identity,
    matrix,
)
from diagnostics.certificates.problems import Losses
from diagnostics.checks import at_least, positive, whole_number


def unrolled(
    losses: Losses,
    theta: Words,
    strength: float,
    learning_rate: float,
    steps: int,
    *,
    bits: int = BITS,
    radius: float = RADIUS,
) -> Enclosure:
    """`d outer(w_K(theta)) / d theta (N,)` after `steps` of gradient descent, at `theta (N,)`.

    Both recursions are run, and the enclosure is what they have in common. Raises `ArithmeticError` should they have
    nothing in common: then one of them is wrong.
    """
    _check_loop(strength, learning_rate, steps)

    def both() -> arb_mat:
        states = _loop(losses, theta, strength, learning_rate, steps)
        adjoint = _adjoint(losses, states, strength, learning_rate)
        tangent = _tangent(losses, states, strength, learning_rate)
        return _common(adjoint, tangent)

    return enclosed(both, bits, radius)


def implicit(
    losses: Losses,
    w: Words,
    strength: float,
    iterations: int | None = None,
    *,
    bits: int = BITS,
    radius: float = RADIUS,
) -> Enclosure:
    """The implicit meta-gradient `(N,)` at the point `w (N,)`.

    The linear system is solved exactly, or by so many `iterations` of conjugate gradients in exact arithmetic. Balls of
    infinite radius say that the Hessian was not proven regular, or not positive along a direction of the iteration;
    the latter too where the iterations are more than solve the system.
    """
    _check_implicit(strength, iterations)
    return enclosed(lambda: implicit_at(losses, weights(losses, w, "w"), strength, iterations), bits, radius)


def implicit_after(
    losses: Losses,
    theta: Words,
    strength: float,
    learning_rate: float,
    steps: int,
    iterations: int | None = None,
    *,
    bits: int = BITS,
    radius: float = RADIUS,
) -> Enclosure:
    """The implicit meta-gradient where `steps` of gradient descent end in exact arithmetic; as `implicit` otherwise."""
    _check_loop(strength, learning_rate, steps)
    _check_implicit(strength, iterations)

    def there() -> arb_mat:
        return implicit_at(losses, _loop(losses, theta, strength, learning_rate, steps)[-1], strength, iterations)

    return enclosed(there, bits, radius)


def implicit_at(losses: Losses, w: arb_mat, strength: float, iterations: int | None = None) -> arb_mat:
    """The implicit meta-gradient `(N, 1)` with the bits now in use, at every point within the balls `w (N, 1)`."""
    v = losses.outer_gradient(w)
    if iterations is not None:
        return _conjugate_gradients(losses, w, v, strength, iterations) * strength
    return inner_hessian(losses, w, strength).solve(v, nonstop=True) * strength


def weights(losses: Losses, w: Words, name: str) -> arb_mat:
    """`w (N,)` as a column `(N, 1)`; `ValueError` for another size."""
    column = matrix(w)
    if (column.nrows(), column.ncols()) != (losses.size, 1):
        found = column.nrows() * column.ncols()
        raise ValueError(f"certificate: expected a vector of {losses.size} numbers in {name}, found {found}")
    return column


def inner_gradient(losses: Losses, w: arb_mat, theta: arb_mat, strength: float) -> arb_mat:
    """The gradient `(N, 1)` of the inner loss, the proximal term included."""
    return losses.gradient(w) + (w - theta) * strength


def inner_hessian(losses: Losses, w: arb_mat, strength: float) -> arb_mat:
    """The Hessian `(N, N)` of the inner loss, the proximal term included."""
    return _times_hessian(losses, w, identity(losses.size), strength)


def _times_hessian(losses: Losses, w: arb_mat, v: arb_mat, strength: float) -> arb_mat:
    return losses.hessian(w, v) + v * strength


def _loop(losses: Losses, theta: Words, strength: float, learning_rate: float, steps: int) -> list[arb_mat]:
    """The states after 0, 1, ... `steps` steps."""
    start = weights(losses, theta, "theta")
    states = [start]
    for _ in range(steps):
        states.append(states[-1] - inner_gradient(losses, states[-1], start, strength) * learning_rate)
    return states


def _adjoint(losses: Losses, states: list[arb_mat], strength: float, learning_rate: float) -> arb_mat:
    adjoint = losses.outer_gradient(states[-1])
    by_theta = arb_mat(losses.size, 1)
    for w in reversed(states[:-1]):
        by_theta += adjoint * strength * learning_rate
        adjoint -= _times_hessian(losses, w, adjoint, strength) * learning_rate
    return by_theta + adjoint


def _tangent(losses: Losses, states: list[arb_mat], strength: float, learning_rate: float) -> arb_mat:
    unit = identity(losses.size)
    tangents = unit
    for w in states[:-1]:
        tangents -= (losses.hessian(w, tangents) + (tangents - unit) * strength) * learning_rate
    return tangents.transpose() * losses.outer_gradient(states[-1])


def _common(one: arb_mat, other: arb_mat) -> arb_mat:
    """What two enclosures of the same numbers have in common."""
    if not one.overlaps(other):
        raise ArithmeticError("certificate: the adjoint and the tangent recursion exclude each other; one is wrong")
    return each(lambda x, y: x.intersection(y), one, other)


def _conjugate_gradients(losses: Losses, w: arb_mat, v: arb_mat, strength: float, iterations: int) -> arb_mat:
    """The iterate after so many iterations of conjugate gradients from zero (Hestenes and Stiefel 1952)."""
    x, r, p = arb_mat(losses.size, 1), v, v
    for _ in range(iterations):
        product = _times_hessian(losses, w, p, strength)
        curvature, squared = dot(p, product), dot(r, r)
        if squared == 0:
            return x  # solved, and so exactly
        if not curvature > 0:
            return x * arb.nan()
        x, r = x + p * (squared / curvature), r - product * (squared / curvature)
        p = r + p * (dot(r, r) / squared)
    return x


def _check_loop(strength: float, learning_rate: float, steps: int) -> None:
    at_least("certificate: strength", strength, 0)
    positive("certificate: learning_rate", learning_rate)
    whole_number("certificate: steps", steps, 0)


def _check_implicit(strength: float, iterations: int | None) -> None:
    positive("certificate: strength", strength)
    if iterations is not None:
        whole_number("certificate: iterations", iterations, 0)
