"""The minimiser of the inner loss, proven to exist and enclosed by Krawczyk's test; and the gradient through it.

For a midpoint m, Y close to H(m)^-1 and a box E about zero, with g the gradient of the inner loss and H its Hessian,

    K = -Y g(m) + (I - Y H(m + E)) E

If K lies in the interior of E then m + E contains exactly one zero of g, and m + K contains it (Krawczyk 1969, Moore
1977). If further H is positive definite throughout m + K, that zero is a minimiser.
"""

from diagnostics.certificates.balls import (
    BITS,
    RADIUS,
    Enclosure,
    Words,
    arb,
    arb_mat,
    ctx,
    each,
    enclosed,
    identity,
    positive_definite,
)
from diagnostics.certificates.gradients import implicit_at, inner_gradient, inner_hessian, weights
from diagnostics.certificates.problems import Losses
from diagnostics.checks import positive

NEWTON_STEPS = 100  # more than any start within reach needs; convergence is quadratic


def stationary(
    losses: Losses, theta: Words, near: Words, strength: float, *, bits: int = BITS, radius: float = RADIUS
) -> Enclosure:
    """The derivative `(N,)` of the outer loss at the minimiser w*(theta), `theta (N,)`, to which Newton's method leads.

    Newton's method starts from `near (N,)`. Balls of infinite radius say that it led to no point where a minimiser was
    proven.
    """
    positive("certificate: strength", strength)

    def there() -> arb_mat:
        start = weights(losses, near, "near")
        return implicit_at(losses, minimiser(losses, weights(losses, theta, "theta"), start, strength), strength)

    return enclosed(there, bits, radius, most=8 * bits)  # where there is no minimiser, no bits will prove one


def minimiser(losses: Losses, theta: arb_mat, near: arb_mat, strength: float) -> arb_mat:
    """Balls `(N, 1)` that contain one minimiser of the inner loss, with the bits now in use; NaN if none is proven."""
    middle = _newton(losses, theta, near.mid(), strength)
    inverse = inner_hessian(losses, middle, strength).mid().inv(nonstop=True).mid()
    step = inverse * inner_gradient(losses, middle, theta, strength)
    rounding = arb(2) ** (8 - ctx.prec)
    box = each(lambda step, m: arb(0, 2 * step.abs_upper() + rounding * (1 + m.abs_upper())), step, middle)
    hessian = inner_hessian(losses, middle + box, strength)
    image = (identity(losses.size) - inverse * hessian) * box - step
    proven = all(e.contains_interior(k) for e, k in zip(box.entries(), image.entries(), strict=True))
    return middle + image if proven and positive_definite(hessian) else middle * arb.nan()


def _newton(losses: Losses, theta: arb_mat, w: arb_mat, strength: float) -> arb_mat:
    """Newton's method on the midpoints, until its steps no longer shrink; this proves nothing."""
    last = arb.pos_inf()
    for _ in range(NEWTON_STEPS):
        gradient, hessian = inner_gradient(losses, w, theta, strength), inner_hessian(losses, w, strength)
        step = hessian.mid().solve(gradient.mid(), nonstop=True).mid()
        length = max((ball.abs_upper() for ball in step.entries()), default=arb(0))
        if not length < last:
            break
        w, last = (w - step).mid(), length
    return w
