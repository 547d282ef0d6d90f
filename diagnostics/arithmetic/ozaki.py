"""Matrix products of double-words from float64 products that make no rounding error (Ozaki, Ogita, Oishi, Rump 2012).

A row of the left factor, scaled by a power of four to lie below 8, is cut on a fixed grid into slices of `width` bits,

    x = x_0 + x_1 + ... + x_(S-1) + remainder,     x_t = (whole number of at most 2^(width-1)) * 2^(4 - width (t+1)),

and so is a column of the right factor. The products `x_i y_j` of one group `i + j = g` are whole multiples of one unit,
and `2^(55 - 2 width) / k` of them, each a sum of `k` terms, add up to no more than 2^53 units: float64 holds the sum
exactly, in whatever order it was taken. So a group is one float64 product, or a few, of slices laid end to end (the
sums within groups of Uchino, Ozaki and Imamura 2024). The groups below S are added smallest first, and the sum is the
same to the bit on every device and in every batch.

What is cut off is small beside the greatest numbers of the row and the column. An entry that is itself so small beside
them that this may count is computed again, as a sum of double-word products.
"""

from math import ceil

import torch
from torch import Tensor

from diagnostics.arithmetic.double_word import Pair, multiply, total

GUARD = 9  # bits beyond those asked for, so that few entries have to be computed again where numbers differ a lot
CHUNK = 2**18  # products held at a time where entries are computed again

_EXPONENT = 0x7FE0000000000000  # the bits of a float64's exponent, but for the last
_SMALLEST = 2.0**-1021
_ORDINARY = 2.0**250  # roots below this never make a product overflow


def slice_width(k: int) -> int:
    """The bits of a slice, for sums of `k` products: at least three such sums fit in the 53 bits of a float64."""
    return (55 - (3 * max(k, 1) - 1).bit_length()) // 2


def slice_count(k: int, bits: int = 107) -> int:
    """The slices that hold `bits` bits of the greatest number of a row of length `k`; `ValueError` for bits < 1."""
    if bits < 1:
        raise ValueError(f"slice_count: expected at least 1 bit, found {bits}")
    return ceil((bits + GUARD) / slice_width(k))


def matmul(x: Pair, y: Pair, bits: int = 107) -> Pair:
    """The product `(B, m, n)` of `x (B, m, k)` and `y (B, k, n)`, with `|error| <= k 2^-100 |x||y|` entry by entry.

    More `bits` take more slices, so that two results can be compared; with fewer the bound is `k 2^(7-bits) |x||y|`.
    Where a factor is infinite or NaN, the entry is what float64 makes of it. An entry depends on its row and its column
    alone. The bound does not hold where the numbers of one row or column span more than 2^1800.
    """
    rows, k = x[0].shape[1:]
    if k == 0 or x[0].numel() == 0 or y[0].numel() == 0:
        zero = x[0].new_zeros(len(x[0]), rows, y[0].shape[2])
        return zero, zero.clone()
    count, width = slice_count(k, bits), slice_width(k)
    high, low, root = _scaled(torch.cat([x[0].mT, y[0]], 2), torch.cat([x[1].mT, y[1]], 2))
    slices = cut(high, low, count, width)
    high, low = _summed(slices[..., :rows], slices[..., rows:], width)
    # What an entry of `|x||y|` is at least, is the entry itself; NaN compares false.
    sure = bool(high.abs().amin() >= _trusted(count, width, bits)) and bool(root.amax() < _ORDINARY)
    outer = root[..., :rows].mT * root[..., rows:]
    for word in (high, low):
        word.mul_(outer).mul_(outer)
    return (high, low) if sure else _mended((high, low), x, y, root, _trusted(count, width, bits))


def cut(high: Tensor, low: Tensor, count: int, width: int) -> Tensor:
    """The first slices `(B, count, k, c)` of `high + low (B, k, c)`, which is below 8 in size and is used up.

    Slice t is a multiple of `2^(4 - width (t+1))`, of at most `2^(width-1)` units, and what is left in the end is at
    most half a unit of the last slice.
    """
    slices = high.new_empty(len(high), count, *high.shape[1:])
    spare = torch.empty_like(high)
    for t in range(count):
        shift = 1.5 * 2.0 ** (56 - width * (t + 1))  # adding it rounds to the unit of the slice
        piece = slices[:, t]
        torch.add(high, shift, out=piece)
        piece.sub_(shift)
        if t + 1 < count:
            high.sub_(piece)  # exact, and either 0 or at least 2 |low|: hence Dekker's sum
            torch.add(high, low, out=spare)
            low.add_(high.sub_(spare))
            high, spare = spare, high
    return slices


def _scaled(high: Tensor, low: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Columns over a power of four, which brings the greatest number to [2, 8), in place; and its root `(B, 1, c)`."""
    greatest = high.abs().amax(1, keepdim=True)
    power = (greatest.view(torch.int64) & _EXPONENT).view(torch.float64).clamp_(min=_SMALLEST)  # an odd power of two
    inverse = power.reciprocal().mul_(2.0)
    return high.mul_(inverse), low.mul_(inverse), power.mul_(0.5).sqrt_()


def _summed(left: Tensor, right: Tensor, width: int) -> Pair:
    """The sum of the products of the slices `(B, S, k, m)` and `(B, S, k, n)` whose numbers, from 0, add up to < S.

    The two smallest groups are added in float64. Their rounding is far below what is cut off, and still the same
    everywhere.
    """
    count, k = left.shape[1:3]
    left = left.flatten(1, 2).mT
    right = torch.cat([right[:, t] for t in range(count - 1, -1, -1)], 1)
    fit = 2 ** (55 - 2 * width) // k  # products of slices whose sum is exact

    def products(group: int) -> list[Tensor]:
        end, offset = (group + 1) * k, (count - 1 - group) * k
        parts = [(start, min(start + fit * k, end)) for start in range(0, end, fit * k)]
        return [torch.bmm(left[:, :, start:stop], right[:, offset + start : offset + stop]) for start, stop in parts]

    first, *others = [exact for group in range(count - 1, max(count - 3, -1), -1) for exact in products(group)]
    high, low = first, torch.zeros_like(first)
    for exact in others:
        high.add_(exact)
    for exact in (exact for group in range(count - 3, -1, -1) for exact in products(group)):
        s = exact + high  # Knuth's two_sum, whose errors gather in the low word
        following = s - exact
        high.sub_(following)
        exact.sub_(torch.sub(s, following, out=following)).add_(high)
        low.add_(exact)
        high = s
    s = high + low
    return s, low.add_(high.sub_(s))


def _trusted(count: int, width: int, bits: int) -> float:
    """From which size on, in scaled units, an entry of `|x||y|` leaves room for all that was cut off and rounded.

    For each term of the sum, `count + 1` products of slices or remainders are cut off, of at most
    `2^(6 - width count)` each, the two smallest groups are rounded at `2^-53`, and the low word, a few times, at
    `2^-106` of the second group. Half of the bound is for that.
    """
    cut_off = (count + 1) * 2.0 ** (6 - width * count) + count * 2.0 ** (7 - 53 - width * (count - 2))
    return (cut_off + count * 2.0 ** (6 - 106 - width)) / max(2.0**-101, 2.0 ** (6 - bits))


def _mended(found: Pair, x: Pair, y: Pair, root: Tensor, trusted: float) -> Pair:
    """The product, with entries that cannot be trusted computed again, and NaN replaced by what float64 makes of it."""
    (high, low), (rows, k) = found, x[0].shape[1:]
    far = 2.0**250  # keeps small products from underflow
    by_row, by_column = far / root[..., :rows].mT, far / root[..., rows:]
    size = torch.bmm(x[0].abs().mul_(by_row).mul_(by_row), y[0].abs().mul_(by_column).mul_(by_column))
    doubtful = (size < trusted * far**4) & (size > 0)
    for b, i, j in (part.unbind(1) for part in doubtful.nonzero().split(max(1, CHUNK // k)) if len(part)):
        high[b, i, j], low[b, i, j] = total(
            multiply((x[0][b, i], x[1][b, i]), (y[0][b, :, j], y[1][b, :, j])), (1,), False
        )
    if bool(high.isnan().any()):  # wherever a factor is not finite
        high = torch.where(high.isnan(), torch.bmm(x[0], y[0]), high)
    return high, torch.where(high.isfinite(), low, 0.0)
