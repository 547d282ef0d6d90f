"""The arithmetics by name."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from diagnostics.arithmetic import precision as module
from diagnostics.arithmetic.extended import EPS, Extended, extended, wrap
from diagnostics.arithmetic.machine import Unfit
from diagnostics.arithmetic.precision import PRECISIONS, arithmetic_of, enter_rows, epsilon, precision
from tests.cases import vectors

DTYPES = {
    "bfloat16": torch.bfloat16,
    "bfloat16_pure": torch.bfloat16,
    "float16": torch.float16,
    "float16_pure": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}
every_dtype = pytest.mark.parametrize(("name", "dtype"), DTYPES.items(), ids=DTYPES)


@every_dtype
def test_numbers_enter_and_leave(name: str, dtype: torch.dtype) -> None:
    x = vectors(2, 3)
    there = precision(name)
    assert there.name == name and there.eps == torch.finfo(dtype).eps and there.tiny == torch.finfo(dtype).tiny
    assert there.enter(x).dtype == dtype and there.leave(there.enter(x)).dtype == torch.float64
    assert torch.equal(there.leave(there.enter(x)), x.to(dtype).double())
    assert there.enter(x[:0]).shape == (0, 3)
    rows = enter_rows(there, {"x": x, "label": torch.tensor([1, 2])})
    assert rows["x"].dtype == dtype and rows["label"].dtype == torch.int64
    assert epsilon(there.enter(x)) == there.eps
    assert arithmetic_of(there.enter(x)) == name.removesuffix("_pure")


def test_every_arithmetic_is_known_by_its_name() -> None:
    assert set(PRECISIONS) == {*DTYPES, "extended"}
    assert all(precision(name) is PRECISIONS[name] for name in PRECISIONS)


def test_extended_holds_float64_exactly_and_an_extended_number_as_it_is() -> None:
    x, there = vectors(2, 3), precision("extended")
    entered = there.enter(x)
    assert isinstance(entered, Extended) and torch.equal(entered.high, x) and not bool(entered.low.any())
    assert torch.equal(there.leave(entered), x) and there.eps == EPS == epsilon(entered)
    assert there.tiny == torch.finfo(torch.float64).tiny and arithmetic_of(entered) == "extended"
    finer = wrap((x, x * 2.0**-60))
    assert there.enter(finer) is finer
    assert torch.equal(there.leave(finer), x)


@every_dtype
def test_an_extended_number_is_rounded_into_the_others(name: str, dtype: torch.dtype) -> None:
    x = vectors(2, 3)
    assert torch.equal(precision(name).enter(wrap((x, x * 2.0**-60))), x.to(dtype))


def test_what_is_beyond_a_range_becomes_infinite_and_nothing_else() -> None:
    x = torch.tensor([1e6, 1e39, 1e300], dtype=torch.float64)
    finite = {name: p.leave(p.enter(x)).isfinite().tolist() for name, p in PRECISIONS.items()}
    assert finite["float16"] == [False, False, False]
    assert finite["bfloat16"] == finite["float32"] == [True, False, False]
    assert finite["float64"] == finite["extended"] == [True, True, True]


@pytest.mark.parametrize(("name", "near"), [("float61", "float64"), ("flaot64", "float64"), ("extendend", "extended")])
def test_an_unknown_name_is_told_with_the_nearest_known(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"unknown precision '{name}'; did you mean .{near}.\\?") as caught:
        precision(name)
    assert "\n" not in str(caught.value)


def test_float32_is_not_tf32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    precision("float32")
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32


@pytest.fixture
def flushed() -> Iterator[None]:
    assert torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("name", PRECISIONS)
def test_no_arithmetic_is_handed_out_while_denormals_are_flushed(name: str, flushed: None) -> None:
    with pytest.raises(Unfit, match=r"expected denormals kept.*set_flush_denormal\(False\)"):
        precision(name)


@pytest.mark.parametrize("name", PRECISIONS)
def test_nothing_enters_on_a_device_without_float64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = torch.ones(2, device="meta")
    assert PRECISIONS[name].enter(elsewhere).shape == (2,)  # this one has it

    def refuse(*size: int, **options: object) -> Tensor:
        raise TypeError("no float64 here")

    monkeypatch.setattr(torch, "zeros", refuse)
    with pytest.raises(Unfit, match="expected a device with float64, found meta .*move the problem to the CPU"):
        PRECISIONS[name].enter(elsewhere)


def test_on_the_cpu_the_device_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "require_float64", lambda device: pytest.fail("asked"))
    assert torch.equal(precision("extended").enter(torch.ones(2)) - extended(torch.ones(2)), extended(torch.zeros(2)))
