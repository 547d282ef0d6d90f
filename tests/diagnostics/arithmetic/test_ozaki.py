"""Products of double-words against exact rational numbers: the bound, the exact slices, the edges of the range."""

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from flint import fmpq, fmpq_mat
from torch import Tensor

from diagnostics.arithmetic import ozaki
from diagnostics.arithmetic.double_word import Pair
from diagnostics.arithmetic.ozaki import cut, matmul, slice_count, slice_width
from tests.cases import check_ratio

Draw = Callable[[Tensor], Tensor]
U2 = 2.0**-104  # what the double-word operations themselves are good to


def wide(x: Tensor) -> Tensor:
    return x * torch.exp2((100 * x).round().clamp(-300, 300))


def sparse(x: Tensor) -> Tensor:
    return torch.where(x > 0, wide(x), 0.0)


KINDS: dict[str, Draw] = {
    "normal": lambda x: x,
    "log-normal": lambda x: x.sign() * torch.exp(3 * x),
    "wide": wide,
    "sparse": sparse,
    "saturated": lambda x: torch.where(x > 0.5, x, x * 1e-12),
}


def pair(*shape: int, seed: int = 0, kind: str = "normal") -> Pair:
    """A random pair, normalised, whose low words have all lengths."""
    generator = torch.Generator().manual_seed(seed)
    high = KINDS[kind](torch.randn(*shape, generator=generator, dtype=torch.float64))
    low = high * 2.0**-54 * torch.randn(*shape, generator=generator, dtype=torch.float64).clamp(-1, 1)
    return high + low, (high - (high + low)) + low


def exact(x: Pair, row: int, absolute: bool = False) -> fmpq_mat:
    """Row `row` of a batch of matrices, as rational numbers."""
    entries = [
        fmpq(*h.as_integer_ratio()) + fmpq(*low.as_integer_ratio())
        for h, low in zip(x[0][row].flatten().tolist(), x[1][row].flatten().tolist(), strict=True)
    ]
    rows, columns = x[0].shape[1:]
    return fmpq_mat(rows, columns, [abs(e) if absolute else e for e in entries])


def fraction(q: fmpq) -> Fraction:
    return Fraction(int(q.p), int(q.q))


def relative_errors(found: Pair, x: Pair, y: Pair) -> Tensor:
    """`|error| / |x||y|` of every entry; 0 where both are 0."""
    errors = []
    for row in range(len(x[0])):
        truth, scale = exact(x, row) * exact(y, row), exact(x, row, True) * exact(y, row, True)
        wrong = exact(found, row) - truth
        for e, s in zip(wrong.entries(), scale.entries(), strict=True):
            assert s != 0 or e == 0, "an empty sum must be zero"
            errors.append(float(abs(fraction(e)) / fraction(s)) if s != 0 else 0.0)
    return torch.tensor(errors, dtype=torch.float64)


SHAPES = [
    (3, 1, 1, 1),
    (2, 1, 2, 1),
    (2, 2, 1, 3),
    (2, 3, 5, 4),
    (1, 4, 10, 4),
    (2, 1, 20, 3),
    (1, 3, 43, 2),
    (1, 2, 300, 2),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_product_is_within_its_bound(shape: tuple[int, int, int, int], kind: str) -> None:
    b, m, k, n = shape
    for seed in range(3):
        x, y = pair(b, m, k, seed=2 * seed, kind=kind), pair(b, k, n, seed=2 * seed + 1, kind=kind)
        error = relative_errors(matmul(x, y), x, y)
        check_ratio(f"ozaki, bound, {kind}", error, k * 2.0**-100, f"{shape}, seed {seed}", limit=1.0)
        if kind == "normal":  # where nothing is small beside the rest, as good as the arithmetic
            check_ratio("ozaki, well scaled", error, U2, f"{shape}, seed {seed}")


@pytest.mark.parametrize("bits", [1, 20, 53, 80, 107, 130, 200])
def test_the_bits_asked_for_are_there(bits: int) -> None:
    for k, kind in ((7, "normal"), (7, "wide"), (90, "normal")):
        x, y = pair(2, 2, k, kind=kind), pair(2, k, 3, seed=1, kind=kind)
        unit = k * max(2.0**-100, 2.0 ** (7 - bits))
        check_ratio(
            f"ozaki, {bits} bits", relative_errors(matmul(x, y, bits), x, y), unit, f"{kind}, k = {k}", limit=1.0
        )


def test_two_slice_counts_agree() -> None:
    x, y = pair(2, 5, 64), pair(2, 64, 5, seed=1)
    assert slice_count(64, 107) < slice_count(64, 130)
    (high, low), (other, rest) = matmul(x, y), matmul(x, y, 130)
    size = x[0].abs() @ y[0].abs()
    check_ratio("ozaki, two slice counts", ((high - other) + (low - rest)).abs(), U2 * size)


def test_a_slice_has_no_more_bits_than_a_sum_can_hold() -> None:
    for k in [*range(1, 3000), 2**16, 2**20 - 1]:
        fit = 2 ** (55 - 2 * slice_width(k)) // k
        assert fit >= 3
        assert fit * k * (2 ** (slice_width(k) - 1)) ** 2 <= 2**53
        assert slice_count(k, 107) * slice_width(k) >= 107
    with pytest.raises(ValueError, match="slice_count: expected at least 1 bit, found 0"):
        slice_count(3, 0)


@pytest.mark.parametrize("k", [1, 2, 3, 10, 42, 43, 170, 512, 682, 683])
def test_products_of_slices_are_exact_even_at_their_largest(k: int) -> None:
    width = slice_width(k)
    terms, top = 2 ** (55 - 2 * width) // k * k, 2 ** (width - 1)
    generator = torch.Generator().manual_seed(k)
    below = torch.randint(0, 3, (2, 4, terms), generator=generator)
    left, right = top - below[0], top - below[1]
    left[0], right[0] = top, top  # the sum that is 2^53 itself, or the nearest to it
    found = torch.bmm(left.double().unsqueeze(0), right.double().mT.unsqueeze(0))[0]
    for i in range(4):
        for j in range(4):
            truth = sum(a * b for a, b in zip(left[i].tolist(), right[j].tolist(), strict=True))
            assert int(found[i, j]) == truth <= 2**53


@pytest.mark.parametrize("k", [2, 10, 42, 512, 683])
def test_no_float64_product_has_more_terms_than_are_exact(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terms, product = [], torch.bmm

    def spy(left: Tensor, right: Tensor) -> Tensor:
        terms.append(left.shape[2])
        return product(left, right)

    monkeypatch.setattr(torch, "bmm", spy)
    for bits in (107, 200):
        matmul(pair(1, 2, k), pair(1, k, 2, seed=1), bits)
    assert sum(terms) >= k * sum(n * (n + 1) // 2 for n in (slice_count(k, 107), slice_count(k, 200)))
    assert max(terms) * (2 ** (slice_width(k) - 1)) ** 2 <= 2**53


@pytest.mark.parametrize("width", [2, 3, 16, 21, 22, 24, 25, 26])
@pytest.mark.parametrize("kind", ["normal", "wide"])
def test_slices_are_whole_numbers_of_their_units_and_add_up(width: int, kind: str) -> None:
    count = 4
    high, low = pair(2, 30, 3, kind=kind)
    high, low = high / high.abs().amax() * 7.5, low / high.abs().amax() * 7.5
    below = 1 - 2.0**-53
    high[0, :5, 0] = torch.tensor([8.0 * below, -8.0 * below, 0.0, 5e-324, 2.0], dtype=torch.float64)
    low[0, :5, 0] = torch.tensor([2.0**-52, -(2.0**-52), 0.0, 0.0, -(2.0**-54)], dtype=torch.float64)
    # half a unit of the first slice, and a low word that says to which side
    high[1, 0, 0], low[1, 0, 0] = 3 * 2.0 ** (3 - width), 2.0 ** (-70 - width)
    high, low = high + low, (high - (high + low)) + low
    slices = cut(high.clone(), low.clone(), count, width)
    units = [Fraction(2) ** (4 - width * (t + 1)) for t in range(count)]
    pieces = slices.movedim(1, 3).flatten(0, 2).tolist()
    for h, rest, parts in zip(high.flatten().tolist(), low.flatten().tolist(), pieces, strict=True):
        for part, unit in zip(parts, units, strict=True):
            assert (Fraction(part) / unit).denominator == 1
            assert abs(Fraction(part) / unit) <= 2 ** (width - 1)
        remainder = Fraction(h) + Fraction(rest) - sum(map(Fraction, parts))
        assert abs(remainder) <= units[-1] / 2 * (1 + Fraction(2) ** -20)  # the low word may tip a tie


def test_the_order_of_the_terms_and_the_batch_change_no_bit() -> None:
    for kind in ("normal", "wide"):
        x, y = pair(5, 7, 60, kind=kind), pair(5, 60, 6, seed=1, kind=kind)
        high, low = matmul(x, y)
        for row in range(5):
            one = matmul(_rows(x, row), _rows(y, row))
            assert torch.equal(one[0], high[row : row + 1])
            assert torch.equal(one[1], low[row : row + 1])
        part = matmul((x[0][:, 2:3], x[1][:, 2:3]), (y[0][:, :, 4:], y[1][:, :, 4:]))
        assert torch.equal(part[0], high[:, 2:3, 4:])
        assert torch.equal(part[1], low[:, 2:3, 4:])
    x, y = pair(1, 7, 60), pair(1, 60, 6, seed=1)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    turned = matmul((x[0][..., order], x[1][..., order]), (y[0][:, order], y[1][:, order]))
    assert all(torch.equal(a, b) for a, b in zip(turned, matmul(x, y), strict=True))


def _rows(x: Pair, row: int) -> Pair:
    return x[0][row : row + 1], x[1][row : row + 1]


def test_whole_numbers_give_whole_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-1000, 1000, (3, 4, 50), generator=generator).double()
    y = torch.randint(-1000, 1000, (3, 50, 4), generator=generator).double()
    high, low = matmul((x, torch.zeros_like(x)), (y, torch.zeros_like(y)))
    assert torch.equal(high, x @ y)
    assert not low.any()


def test_cancellation_leaves_the_low_words() -> None:
    """`(1 + e) 1 - 1 (1 + f)`: the high words cancel, and what is left is exact."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    x = torch.cat([one, -one], 2), torch.cat([one * 2.0**-60, one * 2.0**-70], 2)
    high, low = matmul(x, (torch.cat([one, one], 1), torch.zeros(1, 2, 1, dtype=torch.float64)))
    assert float(high) == 2.0**-60 + 2.0**-70
    assert float(low) == 0


@pytest.mark.parametrize(
    "shape", [(b, m, k, n) for b in (0, 1) for m in (0, 1) for k in (0, 1) for n in (0, 1)], ids=str
)
def test_sizes_of_0_and_1(shape: tuple[int, int, int, int]) -> None:
    b, m, k, n = shape
    x, y = pair(b, m, k), pair(b, k, n, seed=1)
    high, low = matmul(x, y)
    assert high.shape == low.shape == (x[0] @ y[0]).shape
    assert torch.equal(high, x[0] @ y[0]) or k == 1
    check_ratio("ozaki, one entry", relative_errors((high, low), x, y), U2, limit=1.0)


def test_views_are_read_as_they_are_and_nothing_is_changed() -> None:
    x, y = pair(3, 6, 4), pair(3, 5, 6, seed=1)
    before = [word.clone() for word in (*x, *y)]
    found = matmul((x[0].mT, x[1].mT), (y[0].mT, y[1].mT))
    other = matmul((x[0].mT.contiguous(), x[1].mT.contiguous()), (y[0].mT.contiguous(), y[1].mT.contiguous()))
    assert all(torch.equal(a, b) for a, b in zip(found, other, strict=True))
    assert all(torch.equal(a, b) for a, b in zip((*x, *y), before, strict=True))
    shared = matmul((x[0][:1].mT.expand(3, -1, -1), x[1][:1].mT.expand(3, -1, -1)), (y[0].mT, y[1].mT))
    assert torch.equal(shared[0][0], found[0][0])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kind", ["normal", "wide"])
def test_entries_that_are_not_finite_are_those_of_float64(bad: float, kind: str) -> None:
    x, y = pair(3, 4, 6, kind=kind), pair(3, 6, 5, seed=1, kind=kind)
    clean = matmul(x, y)
    y[0][0, 2, 1], y[1][0, 2, 1] = 0.0, 0.0
    x[0][0, 1, 2], x[1][0, 1, 2] = bad, 0.0
    y[0][2, 3, 4], y[1][2, 3, 4] = bad, 0.0
    high, low = matmul(x, y)
    plain = x[0] @ y[0]
    broken = ~plain.isfinite()
    assert broken[0, 1].all() and broken[2, :, 4].all() and int(broken.sum()) == 5 + 4
    assert torch.equal(high[broken].nan_to_num(3.0), plain[broken].nan_to_num(3.0))
    assert not low[broken].any()
    broken[0, :, 1] = True  # a zero was put there
    assert torch.equal(high[~broken], clean[0][~broken])
    assert torch.equal(low[~broken], clean[1][~broken])


def test_overflow_is_infinite_and_comes_no_earlier_than_in_float64() -> None:
    top = torch.finfo(torch.float64).max
    x = torch.tensor([[[top, 0.0], [0.5 * top, 0.25 * top], [-top, -top], [0.0, 0.0]]], dtype=torch.float64)
    y = torch.tensor([[[1.0, 2.0, 1.0, top, 0.0], [1.0, 0.0, -0.5, top, top]]], dtype=torch.float64)
    high, low = matmul((x, torch.zeros_like(x)), (y, torch.zeros_like(y)))
    assert torch.equal(high, x @ y)
    assert not low[high.isinf()].any()
    assert low.isfinite().all()
    x, y = pair(1, 3, 4), pair(1, 4, 3, seed=1)  # nothing small, and everything overflows
    high, low = matmul((x[0] * 2.0**600, x[1] * 2.0**600), (y[0] * 2.0**500, y[1] * 2.0**500))
    assert torch.equal(high, torch.where(x[0] @ y[0] > 0, torch.inf, -torch.inf))
    assert not low.any()


@pytest.mark.parametrize("by", [2.0**-900, 2.0**-600, 2.0**-200, 2.0**200, 2.0**600, 2.0**900])
def test_a_power_of_four_changes_no_bit(by: float) -> None:
    x, y = pair(2, 3, 40), pair(2, 40, 3, seed=1)
    high, low = matmul(x, y)
    # The product of `by` and its inverse is 1, and neither underflows on its own.
    both = matmul((x[0] * by, x[1] * by), (y[0] / by, y[1] / by))
    assert torch.equal(both[0], high)
    assert torch.equal(both[1], low)
    left = matmul((x[0] * by, x[1] * by), y)
    assert torch.equal(left[0], high * by)
    assert torch.equal(left[1], low * by)


@pytest.mark.parametrize("exponent", [-1074, -1060, -1030, -1020, -700])
def test_subnormal_numbers_keep_the_bits_they_have(exponent: int) -> None:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randint(-7, 8, (1, 3, 20), generator=generator).double()
    x = (whole * 2.0 ** (exponent // 2)) * 2.0 ** (exponent - exponent // 2)
    y = pair(1, 20, 3, seed=1)
    high, low = matmul((x, torch.zeros_like(x)), y)
    truth = exact((whole, torch.zeros_like(whole)), 0) * exact(y, 0)
    for h, rest, t in zip(high.flatten().tolist(), low.flatten().tolist(), truth.entries(), strict=True):
        wanted = fraction(t) * Fraction(2) ** exponent
        error = abs(Fraction(h) + Fraction(rest) - wanted)
        unit = 20 * Fraction(2) ** -100 * 140 * Fraction(2) ** exponent  # |x||y| is below 20 * 7 * 5
        assert error <= unit + 20 * Fraction(2) ** -1075  # half of the last bit there is, for each product


@pytest.mark.parametrize("kind", KINDS)
def test_hundreds_of_products_are_within_the_bound(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    for seed in range(200):
        m, k, n = torch.randint(1, 5, (1,), generator=generator), torch.randint(1, 130, (1,), generator=generator), 3
        x, y = pair(1, int(m), int(k), seed=seed, kind=kind), pair(1, int(k), n, seed=seed + 10**6, kind=kind)
        error = relative_errors(matmul(x, y), x, y)
        check_ratio(f"ozaki, bound, {kind}", error, int(k) * 2.0**-100, f"k = {int(k)}, seed {seed}", limit=1.0)


def test_entries_that_need_it_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the second look, a product of small numbers beside a great one is lost: the test sees what it guards."""
    x = torch.tensor([[[1.0, 1e-40]]], dtype=torch.float64), torch.zeros(1, 1, 2, dtype=torch.float64)
    y = torch.tensor([[[1e-40], [1.0]]], dtype=torch.float64), torch.zeros(1, 2, 1, dtype=torch.float64)
    assert float(relative_errors(matmul(x, y), x, y)) <= U2
    monkeypatch.setattr(ozaki, "_mended", lambda found, *_: found)
    assert float(relative_errors(matmul(x, y), x, y)) > 2.0**-100
