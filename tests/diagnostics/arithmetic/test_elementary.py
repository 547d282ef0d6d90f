"""Elementary functions of double-words against ball arithmetic of 400 bits, and at the edges against float64."""

import math
from collections.abc import Callable
from fractions import Fraction

import flint
import pytest
import torch
from flint import arb
from torch import Tensor

from diagnostics.arithmetic import blocks, elementary, fixed_point
from diagnostics.arithmetic import double_word as dw
from diagnostics.arithmetic.double_word import Pair
from tests.cases import check_ratio
from tests.diagnostics.arithmetic.test_double_word import bits_equal, double

UNIT = 2.0**-100  # the error that is promised, relative
BALLS: dict[str, Callable[[arb], arb]] = {
    "exp": arb.exp,
    "expm1": arb.expm1,
    "log": arb.log,
    "log1p": arb.log1p,
    "tanh": arb.tanh,
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "softplus": lambda x: x.exp().log1p(),
    "sin": arb.sin,
    "cos": arb.cos,
}
NATIVE: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "sin": torch.sin,
    "cos": torch.cos,
}
NAMES = sorted(BALLS)


def ball(x: Pair, i: int) -> arb:
    """The pair, exactly."""
    return arb(x[0][i].item()) + arb(x[1][i].item())


def with_low(high: Tensor, seed: int = 0) -> Pair:
    """Random low words of all sizes up to half an ulp."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(2, len(high), generator=generator, dtype=torch.float64)
    return dw.fast_two_sum(
        high, high * 2.0**-52 * (uniform[0] - 0.5) * torch.exp2(-20 * (uniform[1] - 0.5).clamp(min=0))
    )


def arguments(name: str, n: int) -> Tensor:
    """Arguments of all sizes at which the result keeps its low word, and more of them where an error would grow."""
    generator = torch.Generator().manual_seed(7)

    def normal() -> Tensor:
        return torch.randn(n, generator=generator, dtype=torch.float64)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)

    around_one = 1 + normal() * torch.exp2(uniform(-60, 0))
    if name in ("log", "log1p"):
        above = torch.cat([torch.exp2(uniform(-900, 1023)), around_one.abs(), uniform(0, 4)])
        if name == "log":
            return above
        return torch.cat([above, normal() * 0.03, -uniform(0, 1), torch.exp2(uniform(-50, 0)) - 1])
    small = normal() * torch.exp2(uniform(-900, 0))
    if name in ("sin", "cos"):
        q = torch.round(uniform(-6e5, 6e5))
        return torch.cat([uniform(-1e6, 1e6), uniform(-7, 7), small, q * (math.pi / 2)])
    cells = torch.round(uniform(-1500, 1500)) * (math.log(2) / 2048)  # the middle and the ends of a table's cells
    return torch.cat([uniform(-665, 709), uniform(-40, 40), normal(), small, around_one, cells])


def check(name: str, x: Pair, where: object = "") -> None:
    """Assert that the relative error is at most UNIT, and that the result is normalised."""
    flint.ctx.prec = 400
    result = getattr(elementary, name)(x)
    errors = []
    for i in range(len(x[0])):
        true, found = BALLS[name](ball(x, i)), ball(result, i)
        errors.append(0.0 if found == true else float(abs(found / true - 1).upper()))
    check_ratio(f"{name} in units of 2^-100", double(errors), UNIT, where, limit=1.0)
    assert torch.equal(result[0] + result[1], result[0])


@pytest.mark.parametrize("name", NAMES)
def test_functions_are_within_their_error(name: str) -> None:
    check(name, with_low(arguments(name, 150)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_functions_are_within_their_error_at_many_points(name: str) -> None:
    check(name, with_low(arguments(name, 20000), 1))


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_sine_and_cosine_keep_their_error_next_to_their_zeros(name: str) -> None:
    """The double-words nearest to multiples of pi/2, up to the largest."""
    flint.ctx.prec = 400
    high, low = [], []
    for q in [*range(1, 40), 999, 12345, 271828, 600011, 667543]:
        angle = arb.pi() * q / 2
        high.append(float(angle.mid()))
        low.append(float((angle - arb(high[-1])).mid()))
    check(name, (double(high), double(low)), "next to zeros")


def test_logarithms_keep_their_error_next_to_one() -> None:
    low = double([2.0**-54, -(2.0**-55), 2.0**-80, -(2.0**-105), 2.0**-300, 0.0])
    check("log", (torch.ones_like(low), low), "next to 1")
    check("log1p", dw.exact(low), "next to 0")


def test_logarithm_of_almost_nothing_above_minus_one() -> None:
    low = double([2.0**-54, 2.0**-90, 1.7e-30])
    check("log1p", (-torch.ones_like(low), low), "next to -1")


EDGES = [
    0.0,
    math.inf,
    math.nan,
    1.0,
    5e-324,
    1e-310,
    2.3e-308,
    1e-300,
    1e300,
    1.7976931348623157e308,
    40.0,
    720.0,
    760.0,
]
EDGES += [-number for number in EDGES]


@pytest.mark.parametrize("name", NAMES)
def test_edges_are_those_of_float64(name: str) -> None:
    """Zeros with their signs, infinities and NaN in the same places; elsewhere the same but for a few roundings.

    Torch's float64 loses subnormal arguments of log1p and results of softplus and sigmoid; what it makes of them may be
    off by the smallest normal number. Its softplus is linear above 20, and drops up to exp(-20).
    """
    x = double([number for number in EDGES if name not in ("sin", "cos") or not 2e6 < abs(number) < math.inf])
    high, low = getattr(elementary, name)(dw.exact(x))
    native = NATIVE[name](x)
    special = ~native.isfinite() | ((native == 0) & (x == 0))
    assert bits_equal(high[special], native[special])
    assert low.isfinite().all() and not low[~high.isfinite()].any()
    usual = ~special
    unit = torch.finfo(torch.float64).eps * native.abs() + torch.finfo(torch.float64).tiny
    check_ratio(f"{name} at the edges, next to float64", (high - native).abs()[usual], unit[usual])


@pytest.mark.parametrize("name", ["exp", "expm1", "sigmoid", "softplus", "log"])
def test_results_down_to_the_smallest_and_up_to_the_largest_numbers(name: str) -> None:
    """A subnormal result is off by at most its last place; overflow comes where the largest float64 is passed."""
    flint.ctx.prec = 400
    if name == "log":
        x = double([5e-324, 1.5e-323, 1e-310, 2.2250738585072014e-308, 1.7976931348623157e308])
    else:
        x = double([-745.0, -744.5, -720.0, -709.0, -708.0, 709.0, 709.7827, 709.782712893384])
    high, low = getattr(elementary, name)(dw.exact(x))
    for i in range(len(x)):
        true = BALLS[name](arb(x[i].item()))
        error = float(abs(arb(high[i].item()) + arb(low[i].item()) - true).upper())
        lost = 0.0 if float(abs(true).mid()) > 2.0**-960 else 2.0**-1073
        check_ratio(
            f"{name} at the ends of the range", double(error), float(abs(true).upper()) * UNIT + lost, x[i], 1.0
        )
    if name in ("exp", "expm1"):
        assert getattr(elementary, name)(dw.exact(double([709.7827128933841])))[0].isinf()


def test_angles_beyond_the_reduction_are_no_number() -> None:
    x = double([2.0**20, -1e300, math.inf])
    for name in ("sin", "cos"):
        high, low = getattr(elementary, name)(dw.exact(x))
        assert high.isnan().all() and not low.any()


@pytest.mark.parametrize("name", NAMES)
def test_blocks_strides_and_neighbours_change_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function = getattr(elementary, name)
    high, low = with_low(double([0.3, 1.7, 0.01, 3.0, 20.5, 0.9, 1.0, 2.0**-30, 5.5, 0.5, 15.0, 7.25]))
    high[4], low[4] = math.nan, 0.0
    expected = [
        torch.cat(words) for words in zip(*(function((high[i, None], low[i, None])) for i in range(12)), strict=True)
    ]
    turned = tuple(word.reshape(3, 4).T for word in (high, low))
    at_once = function(turned)
    monkeypatch.setattr(blocks, "BLOCK", 5)
    in_blocks = function(turned)
    for word, first, second in zip(expected, at_once, in_blocks, strict=True):
        assert bits_equal(word, first.T.reshape(-1)) and bits_equal(word, second.T.reshape(-1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(0,), (2, 0), (), (1,), (1, 1)])
def test_sizes_zero_and_one(name: str, shape: tuple[int, ...]) -> None:
    x = dw.exact(torch.full(shape, 0.5, dtype=torch.float64))
    high, low = getattr(elementary, name)(x)
    assert high.shape == low.shape == shape
    assert (x[0] == 0.5).all() and not x[1].any()


def test_constants_are_right_to_all_their_places() -> None:
    flint.ctx.prec = 400

    def places(number: int) -> arb:
        return arb(number) / arb(2) ** fixed_point.BITS

    last = 2.0 ** (10 - fixed_point.BITS)  # a few hundred truncated terms
    for found, true in [
        (fixed_point.LN2, arb.const_log2()),
        (fixed_point.PI, arb.pi()),
        (fixed_point.root_of_two(1024), (arb.const_log2() / 1024).exp()),
        (fixed_point.log(Fraction(1456, 1024)), (arb(1456) / 1024).log()),
        (fixed_point.log(Fraction(720, 1024)), (arb(720) / 1024).log()),
    ]:
        check_ratio(
            "constants in units of 2^10 of the last place", double(float(abs(places(found) - true).upper())), last
        )
    assert fixed_point.log(Fraction(1)) == 0


@pytest.mark.parametrize("number", [fixed_point.LN2, -fixed_point.PI, 0, 1, 3 << fixed_point.BITS])
def test_words_sum_to_the_number_and_leading_ones_are_short(number: int) -> None:
    words = fixed_point.words(number, 4, 32)
    error = abs(sum(map(Fraction, words)) - Fraction(number, fixed_point.ONE))
    assert error <= abs(Fraction(number, fixed_point.ONE)) / 2 ** (3 * 32 + 53)
    for word in words[:3]:
        assert abs(Fraction(word).numerator).bit_length() <= 32 or Fraction(word).denominator == 1
