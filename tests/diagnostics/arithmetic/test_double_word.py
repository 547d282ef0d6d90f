"""Double-words against exact fractions (their bounds are theorems), and at the edges against float64, bit for bit."""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diagnostics.arithmetic import blocks, ordinary
from diagnostics.arithmetic import double_word as dw
from diagnostics.arithmetic.double_word import Pair
from tests.cases import check_ratio

U = Fraction(1, 2**53)
LEAST = Fraction(1, 2**960)  # below that the low word loses bits
NOISE = Fraction(1, 2**1070)  # what is lost there, next to a result
# The bounds are theorems, and the ratios are rounded to float64 after they are computed exactly.
LIMIT = 1 + 1e-12
BOUNDS = {
    "add": 3 * U**2 + 13 * U**3,
    "subtract": 3 * U**2 + 13 * U**3,
    "multiply": 5 * U**2,
    "divide": 15 * U**2 + 56 * U**3,
    "add_double": 2 * U**2,
    "multiply_double": 3 * U**2,
    "divide_double": 3 * U**2,
    "square": 5 * U**2,
    "square_root": 9 * U**2,
    "reciprocal": 15 * U**2 + 56 * U**3,
}
EXACT: dict[str, Callable[..., Fraction]] = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
    "square": lambda x: x * x,
    "reciprocal": lambda x: 1 / x,
}
BINARY = ("add", "subtract", "multiply", "divide")
MIXED = ("add_double", "multiply_double", "divide_double")
SPECIAL = [
    0.0, 1.0, 3.0, math.inf, math.nan, 1.7976931348623157e308, 8.98846567431158e307, 1.7976931348623155e308, 2.0**997,
    1.3 * 2.0**1000, 2.2250738585072014e-308, 1.1e-310, 5e-324, 1.5e-323, 3.3e-162, 1.1e-154, 1e-290, 1e290, 0.1,
]  # fmt: skip
SPECIAL += [-number for number in SPECIAL]


def double(x: object) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def fraction(x: Pair, i: int) -> Fraction:
    return Fraction(x[0][i].item()) + Fraction(x[1][i].item())


def pairs(n: int, seed: int, spread: int = 30) -> Pair:
    """Normalised pairs of exponents in `+-spread`, with mantissas of all lengths and low words up to half an ulp."""
    generator = torch.Generator().manual_seed(seed)

    def mantissas() -> Tensor:
        bits = torch.randint(1, 54, (n,), generator=generator)
        whole = torch.randint(0, 2**53, (n,), generator=generator)
        return ((whole >> (53 - bits)) | 1).double() * torch.exp2(-bits.double())

    sign = 1 - 2 * torch.randint(0, 2, (2, n), generator=generator).double()
    exponent = torch.randint(-spread, spread + 1, (n,), generator=generator).double()
    below = torch.randint(0, 12, (n,), generator=generator).clamp(0, 9).double() - 8
    high = sign[0] * mantissas() * torch.exp2(exponent)
    low = sign[1] * mantissas() * torch.exp2(torch.frexp(high).exponent.double() - 54 + below.clamp(max=0))
    return dw.fast_two_sum(high, low)


def near(x: Pair, seed: int) -> Pair:
    """Numbers that differ from `x` in some late bit, so that a difference cancels."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(1, 107, x[0].shape, generator=generator).double()
    return dw.add(x, dw.exact(x[0] * torch.exp2(-place)))


def check(family: str, computed: Pair, exact: list[Fraction], bound: Fraction, where: object = "") -> None:
    """Assert that the relative errors are within the bound, and that the pairs are normalised."""
    errors = []
    for i, true in enumerate(exact):
        error = abs(fraction(computed, i) - true)
        allowed = bound * abs(true) + (NOISE if abs(true) < LEAST else 0)
        errors.append(float(error / allowed) if allowed else float(error != 0) * math.inf)
    check_ratio(family, double(errors), 1.0, where, limit=LIMIT)
    assert torch.equal(computed[0] + computed[1], computed[0])


def bits_equal(x: Tensor, y: Tensor) -> bool:
    """Equal with the sign of zeros; any NaN equals any other."""
    same = (x.view(torch.int64) == y.view(torch.int64)) | (x.isnan() & y.isnan())
    return x.shape == y.shape and bool(same.all())


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("kind", ["any", "close exponents", "cancelling"])
def test_operations_are_within_their_bounds(name: str, kind: str) -> None:
    n = 1500
    x = pairs(n, 1, 400 if kind == "any" else 1)
    y = near(x, 2) if kind == "cancelling" else pairs(n, 3, 400 if kind == "any" else 1)
    y = dw.negate(y) if name == "add" and kind == "cancelling" else y
    exact = [EXACT[name](fraction(x, i), fraction(y, i)) for i in range(n)]
    check(f"double-word {name} over its bound", getattr(dw, name)(x, y), exact, BOUNDS[name], kind)


@pytest.mark.parametrize("name", MIXED)
def test_operations_with_a_float64_are_within_their_bounds(name: str) -> None:
    n = 1500
    for spread in (400, 1):
        x, y = pairs(n, 4, spread), pairs(n, 5, spread)[0]
        exact = [EXACT[name.removesuffix("_double")](fraction(x, i), Fraction(y[i].item())) for i in range(n)]
        check(f"double-word {name} over its bound", getattr(dw, name)(x, y), exact, BOUNDS[name], spread)
    computed = getattr(dw, name)(x, 0.1)
    exact = [EXACT[name.removesuffix("_double")](fraction(x, i), Fraction(0.1)) for i in range(n)]
    check(f"double-word {name} over its bound", computed, exact, BOUNDS[name], "0.1")


@pytest.mark.parametrize("name", ["square", "reciprocal"])
def test_operations_on_one_number_are_within_their_bounds(name: str) -> None:
    x = pairs(1500, 6, 400)
    exact = [EXACT[name](fraction(x, i)) for i in range(1500)]
    check(f"double-word {name} over its bound", getattr(dw, name)(x), exact, BOUNDS[name])


def test_square_root_is_within_its_bound() -> None:
    """`|s - r| <= b r` for the true root `r` follows from `|s^2 / x - 1| <= 2 b - b^2`."""
    x = dw.absolute(pairs(1500, 7, 400))
    root = dw.square_root(x)
    unit = 2 * BOUNDS["square_root"] - BOUNDS["square_root"] ** 2
    errors = [float(abs(fraction(root, i) ** 2 / fraction(x, i) - 1) / unit) for i in range(1500)]
    check_ratio("double-word square_root over its bound", double(errors), 1.0, limit=LIMIT)


@given(st.floats(-1e150, 1e150), st.floats(-1e150, 1e150))
def test_error_free_transforms_are(a: float, b: float) -> None:
    x, y = double([a]), double([b])
    assert fraction(dw.two_sum(x, y), 0) == Fraction(a) + Fraction(b)
    assert bits_equal(dw.two_sum(x, y)[0], x + y)
    larger, smaller = (x, y) if abs(a) >= abs(b) else (y, x)
    assert fraction(dw.fast_two_sum(larger, smaller), 0) == Fraction(a) + Fraction(b)
    if a == 0 or b == 0 or abs(a * b) > 2.0**-960:
        assert fraction(dw.two_prod(x, y), 0) == Fraction(a) * Fraction(b)
    assert bits_equal(dw.two_prod(x, y)[0], x * y)


def test_products_of_the_halves_of_any_two_numbers_are_exact() -> None:
    """Mantissas around those where a split is tight: next to powers of two, ties, all ones."""
    whole = {2**52 + d * 2**s for d in (0, 1, 2, 3) for s in (0, 1, 24, 25, 26, 27, 28)}
    whole |= {2**53 - d * 2**s for d in (1, 2, 3) for s in (0, 1, 24, 25, 26, 27, 28)}
    whole |= {2**52 + 2**s + d for s in (24, 25, 26, 27, 51) for d in (-1, 1)}
    a, b = (word.flatten() for word in torch.meshgrid(double(sorted(whole)), double(sorted(whole)), indexing="ij"))
    for left, right in itertools.product(ordinary.split(a), ordinary.split(b)):
        product = (left * right).tolist()
        assert product == [Fraction(p) * Fraction(q) for p, q in zip(left.tolist(), right.tolist(), strict=True)]
    p, e = dw.two_prod(a, b)
    for i in range(len(a)):
        assert fraction((p, e), i) == Fraction(a[i].item()) * Fraction(b[i].item())


def grid() -> tuple[Tensor, Tensor]:
    a, b = torch.meshgrid(double(SPECIAL), double(SPECIAL), indexing="ij")
    return a.flatten(), b.flatten()


def correct_root(x: Tensor) -> Tensor:
    """The nearest float64 to the root; torch's may be another, by a unit."""
    return double([math.sqrt(number) if number >= 0 else math.nan for number in x.tolist()])


NATIVE: dict[str, Callable[..., Tensor]] = {
    "add": torch.add, "subtract": torch.sub, "multiply": torch.mul, "divide": torch.div, "add_double": torch.add,
    "multiply_double": torch.mul, "divide_double": torch.div, "square_root": correct_root, "square": torch.square,
    "reciprocal": torch.reciprocal, "absolute": torch.abs, "negate": torch.neg,
}  # fmt: skip


def check_as_float64(name: str, *numbers: Tensor) -> None:
    """The operation on float64 numbers has float64's high word, bit for bit, and a finite low word."""
    words = [dw.exact(number) for number in numbers]
    last = numbers[-1] if name in MIXED else words[-1]
    high, low = getattr(dw, name)(*words[:-1], last)
    assert bits_equal(high, NATIVE[name](*numbers)), name
    assert low.isfinite().all(), name
    assert (low[~high.isfinite()] == 0).all(), name


@pytest.mark.parametrize("name", sorted(NATIVE))
def test_edges_are_those_of_float64(name: str) -> None:
    one = name in ("square_root", "square", "reciprocal", "absolute", "negate")
    if name == "square_root":  # the largest float64's is nearer to a tie than two words can tell
        check_as_float64(name, double([number for number in SPECIAL if number != SPECIAL[5]]))
    else:
        check_as_float64(name, *((double(SPECIAL),) if one else grid()))


@given(st.floats(), st.floats())
def test_float64_numbers_behave_as_in_float64(a: float, b: float) -> None:
    for name in (*BINARY, *MIXED):
        check_as_float64(name, double([a]), double([b]))
    for name in ("square", "reciprocal"):
        check_as_float64(name, double([a]))


def scaled(x: Pair, exponent: Tensor) -> Pair:
    half = torch.floor(exponent / 2)
    for part in (half, exponent - half):
        x = dw.scale_by_power_of_two(x, torch.exp2(part))
    return x


@pytest.mark.parametrize("name", [*BINARY, *MIXED])
@pytest.mark.parametrize("side", ["any", "large left", "large right"])
def test_bounds_hold_up_to_overflow_and_fade_towards_underflow(name: str, side: str) -> None:
    """Over the whole range; below LEAST the low word, and at last the high one, are cut off at a fixed place."""
    n = 1500
    generator = torch.Generator().manual_seed(10)
    exponents = torch.randint(-1074, 1024, (2, n), generator=generator).double()
    if side != "any":
        exponents[int(side == "large right")] = 1020.0
    left, right = (scaled(pairs(n, 8 + seed, 1), exponents[seed]) for seed in range(2))
    if name in MIXED:
        right = dw.exact(right[0])
    keep = right[0] != 0
    x, y = ((pair[0][keep], pair[1][keep]) for pair in (left, right))
    computed = getattr(dw, name)(x, y[0] if name in MIXED else y)
    errors = []
    for i in computed[0].isfinite().nonzero().flatten().tolist():
        dividend, divisor = fraction(x, i), fraction(y, i)
        true = EXACT[name.removesuffix("_double")](dividend, divisor)
        allowed = BOUNDS[name] * abs(true) + (NOISE if abs(true) < LEAST else 0)
        if name.startswith("divide") and abs(dividend) < LEAST:
            allowed += NOISE / abs(divisor)
        errors.append(float(abs(fraction(computed, i) - true) / allowed))
    assert len(errors) > n / 4
    check_ratio(f"double-word {name} over its bound", double(errors), 1.0, f"whole range, {side}", limit=LIMIT)


def test_scaling_by_a_power_of_two_is_exact_and_overflows_to_a_plain_infinity() -> None:
    x = pairs(100, 11, 30)
    for k in (-500, -1, 0, 3, 900):
        y = dw.scale_by_power_of_two(x, 2.0**k)
        assert [fraction(y, i) for i in range(100)] == [fraction(x, i) * Fraction(2) ** k for i in range(100)]
    high, low = dw.scale_by_power_of_two((double([1e308, -0.0]), double([1e291, 0.0])), 4.0)
    assert bits_equal(high, double([math.inf, -0.0])) and bits_equal(low, double([0.0, 0.0]))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 64, 1000])
def test_total_is_within_its_bound(n: int) -> None:
    x = pairs(n, 12, 20)
    computed = dw.total(x, (0,), False)
    assert computed[0].shape == ()
    terms = [fraction(x, i) for i in range(n)]
    error = abs(fraction((computed[0][None], computed[1][None]), 0) - sum(terms, Fraction(0)))
    depth = max(n - 1, 0).bit_length()
    # (1 + b)^depth - 1 <= 1.01 depth b
    allowed = Fraction(101, 100) * depth * BOUNDS["add"] * sum(map(abs, terms), Fraction(0))
    check_ratio("double-word total over its bound", double(float(error / allowed) if allowed else float(error)), 1.0, n)


@pytest.mark.parametrize("dims", [(0,), (1,), (2,), (0, 2), (-1, 1), (0, 1, 2), ()])
@pytest.mark.parametrize("keepdim", [False, True])
def test_total_sums_the_dimensions_asked_for(dims: tuple[int, ...], keepdim: bool) -> None:
    whole = torch.arange(60, dtype=torch.float64).reshape(3, 4, 5)
    high, low = dw.total(dw.exact(whole), dims, keepdim)
    expected = whole.sum(dims, keepdim=keepdim) if dims else whole
    assert torch.equal(high, expected) and not low.any()


def test_total_of_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    high, low = (word.reshape(40, 50) for word in pairs(2000, 13))
    high[7, 3] = math.inf
    together = dw.total((high, low), (1,), False)
    for row in range(40):
        alone = dw.total((high[row], low[row]), (0,), False)
        assert bits_equal(together[0][row], alone[0]) and bits_equal(together[1][row], alone[1])


@pytest.mark.parametrize("n", [-3, -1, 0, 1, 2, 3, 7, 10])
def test_power_is_repeated_multiplication(n: int) -> None:
    x = pairs(200, 14, 5)
    exact = [fraction(x, i) ** n for i in range(200)]
    # at most |n| - 1 products, and a quotient
    check("double-word power over its bound", dw.power(x, n), exact, abs(n) * 5 * U**2 + 16 * U**2, n)


def test_power_at_the_edges_is_as_in_float64() -> None:
    x = double([0.0, -0.0, math.inf, -math.inf, math.nan, 1e200, -2.0])
    for n in (-2, -1, 0, 1, 2, 3):
        assert bits_equal(dw.power(dw.exact(x), n)[0], x**n), n


def test_comparisons_look_at_the_low_word() -> None:
    one, nan = double(1.0), double(math.nan)
    x, y, z = (one, double(2.0**-60)), (one, double(-(2.0**-60))), dw.exact(nan)
    assert dw.less(y, x) and not dw.less(x, y) and not dw.less(x, x) and dw.less(x, dw.exact(one * 2))
    assert dw.equal(x, x) and not dw.equal(x, y)
    assert not dw.less(z, x) and not dw.less(x, z) and not dw.equal(z, z)
    assert dw.equal(dw.exact(double(0.0)), dw.exact(double(-0.0)))
    assert dw.value(x) == 1.0


def test_absolute_value_and_negation_carry_the_low_word() -> None:
    x = pairs(200, 15)
    assert [fraction(dw.absolute(x), i) for i in range(200)] == [abs(fraction(x, i)) for i in range(200)]
    assert [fraction(dw.negate(x), i) for i in range(200)] == [-fraction(x, i) for i in range(200)]


@pytest.mark.parametrize("name", BINARY)
def test_blocks_broadcasting_and_strides_change_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one piece and contiguous, or in blocks of 16 and any layout: the same, an infinity in one place included."""
    operation = getattr(dw, name)
    high, low = pairs(20 * 30, 16)
    high[77], low[77] = math.inf, 0.0
    matrix = high.reshape(20, 30), low.reshape(20, 30)
    row, column = pairs(30, 17), tuple(word.unsqueeze(1) for word in pairs(20, 18))
    one, three = pairs(1, 19), tuple(word.reshape(3, 1, 30) for word in pairs(90, 20))
    turned = tuple(word.T.contiguous().T for word in matrix)
    for other in (matrix, row, column, one, three, turned):
        shape = torch.broadcast_shapes(matrix[0].shape, other[0].shape)
        full = [tuple(word.expand(shape).contiguous() for word in pair) for pair in (matrix, other)]
        expected = operation(*full)
        for left in (matrix, turned):
            with monkeypatch.context() as patch:
                patch.setattr(blocks, "BLOCK", 16)
                computed = operation(left, other)
            direct = operation(left, other)
            for word, in_blocks, at_once in zip(expected, computed, direct, strict=True):
                assert bits_equal(word, in_blocks.contiguous()) and bits_equal(word, at_once.contiguous())


@pytest.mark.parametrize("name", BINARY)
def test_a_number_does_not_depend_on_its_neighbours(name: str) -> None:
    x, y = pairs(50, 21), pairs(50, 22)
    clean = getattr(dw, name)(x, y)
    spoilt = x[0].clone(), x[1].clone()
    spoilt[0][9], spoilt[1][9] = math.nan, 0.0
    result = getattr(dw, name)(spoilt, y)
    others = torch.arange(50) != 9
    assert all(bits_equal(p[others], q[others]) for p, q in zip(clean, result, strict=True))
    assert result[0][9].isnan() and result[1][9] == 0


@pytest.mark.parametrize("shape", [(0,), (3, 0), (), (1,), (1, 1)])
def test_sizes_zero_and_one(shape: tuple[int, ...]) -> None:
    x = dw.exact(torch.full(shape, 3.0, dtype=torch.float64))
    for name in BINARY:
        high, low = getattr(dw, name)(x, x)
        assert high.shape == low.shape == shape
    for name in ("square", "square_root", "reciprocal", "absolute"):
        assert getattr(dw, name)(x)[1].shape == shape
    assert dw.multiply_double(x, 2.0)[0].shape == shape
    tall = dw.exact(torch.ones(blocks.BLOCK + 1, *(1 for _ in shape), dtype=torch.float64))
    assert dw.add(tall, x)[0].shape == (blocks.BLOCK + 1, *shape)


def test_inputs_are_left_alone() -> None:
    x, y = pairs(40, 23), pairs(40, 24)
    before = [word.clone() for word in (*x, *y)]
    for name in BINARY:
        getattr(dw, name)(x, y)
    for name in MIXED:
        getattr(dw, name)(x, y[0])
    for name in ("square", "reciprocal", "absolute", "negate"):
        getattr(dw, name)(x)
    dw.square_root(dw.absolute(x))
    dw.total(x, (0,), False)
    dw.power(x, 5)
    for transform in (dw.two_sum, dw.two_prod, dw.fast_two_sum):
        transform(x[0], y[0])
    assert all(torch.equal(word, kept) for word, kept in zip((*x, *y), before, strict=True))
