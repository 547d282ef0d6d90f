"""Constants to any precision, in fixed point: an integer `n` stands for `n / 2^BITS`.

Python's integers are exact, so that each constant below is right to a few units in the last of its BITS places, and no
table of digits has to be believed.
"""

import math
from fractions import Fraction

BITS = 320
ONE = 1 << BITS


def _arc_tangent(n: int, sign: int) -> int:
    """`atanh(1 / n)` for the sign 1, `atan(1 / n)` for -1, by their series."""
    term, total, k = ONE // n, 0, 0
    while term:
        total += sign**k * (term // (2 * k + 1))
        term //= n * n
        k += 1
    return total


LN2 = 18 * _arc_tangent(26, 1) - 2 * _arc_tangent(4801, 1) + 8 * _arc_tangent(8749, 1)
PI = 16 * _arc_tangent(5, -1) - 4 * _arc_tangent(239, -1)  # Machin


def log(ratio: Fraction) -> int:
    """`ln(ratio)` for a ratio near 1."""
    s = (ratio - 1) / (ratio + 1)
    z = s * s
    square, term = (z.numerator << BITS) // z.denominator, (s.numerator << BITS) // s.denominator
    total, k = 0, 1
    while term not in (0, -1):
        total += term // k
        term = (term * square) >> BITS
        k += 2
    return 2 * total


def root_of_two(n: int) -> int:
    """`2^(1 / n)` for `n` a power of two, by square roots."""
    root = 2 * ONE
    while n > 1:
        root, n = math.isqrt(root << BITS), n // 2
    return root


def words(number: int, count: int = 2, width: int = 53) -> list[float]:
    """`number` as a sum of `count` float64, the first ones of `width` bits and the last rounded."""
    parts = []
    for left in reversed(range(count)):
        shift = max(abs(number).bit_length() - (width if left else 53), 0)
        kept = (number + (1 << shift >> 1)) >> shift << shift
        parts.append(float(Fraction(kept, ONE)))
        number -= kept
    return parts
