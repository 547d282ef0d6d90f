"""The arithmetics by name."""

import torch

from diagnostics.arithmetic.precision import PRECISIONS, enter_rows, precision
from tests.cases import vectors


def test_numbers_enter_and_leave() -> None:
    x = vectors(2, 3)
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        there = precision(name)
        assert there.name == name and there.eps == torch.finfo(dtype).eps
        assert there.enter(x).dtype == dtype and there.leave(there.enter(x)).dtype == torch.float64
        assert torch.equal(there.leave(there.enter(x)), x.to(dtype).double())
        rows = enter_rows(there, {"x": x, "label": torch.tensor([1, 2])})
        assert rows["x"].dtype == dtype and rows["label"].dtype == torch.int64
    assert {"float32", "float64"} <= set(PRECISIONS)


def test_float32_is_not_tf32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    precision("float32")
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
