"""Rows as bytes: what comes back is what went in, bit for bit; hashes tell apart what differs."""

import math

from hypothesis import given
from hypothesis import strategies as st

from analyses.packed import pack, seal, unpack


def same(a: object, b: object) -> bool:
    """Of one kind and equal; floats in every bit, but that one NaN is like another."""
    if isinstance(a, float) and isinstance(b, float):
        return a.hex() == b.hex() or (math.isnan(a) and math.isnan(b))
    return type(a) is type(b) and a == b


AWKWARD = st.sampled_from([math.inf, -math.inf, math.nan, -0.0, 5e-324, -2.2e-308, 1.7976931348623157e308, 0.1])
VALUES = st.one_of(st.floats(), AWKWARD, st.integers(), st.booleans(), st.none(), st.text(st.characters()))
ROWS = st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=4), max_size=6)


@given(rows=ROWS)
def test_rows_come_back_exactly(rows: list[dict[str, object]]) -> None:
    back = unpack(pack(rows))
    assert len(back) == len(rows)
    for old, new in zip(rows, back, strict=True):
        assert old.keys() == new.keys()
        assert all(same(old[name], new[name]) for name in old)


@given(st.lists(VALUES, max_size=4), st.lists(VALUES, max_size=4))
def test_only_equal_lists_have_one_fingerprint(first: list[object], second: list[object]) -> None:
    equal = len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    assert (seal(*first) == seal(*second)) == equal


def test_a_fingerprint_tells_kinds_and_ends() -> None:
    lists = [("ab", "c"), ("a", "bc"), ("abc",), (b"ab", b"c"), ("1", 1), (1, "1"), (1.0, 1), (1, 1.0), (0.0,), (-0.0,)]
    assert len({seal(*fields) for fields in lists}) == len(lists)
