"""The machine's probes: each says yes here, and no where what it looks at is not so."""

from dataclasses import replace

import pytest
import torch

from diagnostics.arithmetic import machine
from diagnostics.arithmetic.machine import PROBES, Unfit, require_fit, require_float64


def test_this_machine_is_fit() -> None:
    require_fit()
    assert [probe.what for probe in PROBES if not probe.holds()] == []
    for probe in PROBES:
        assert probe.advice and "\n" not in probe.advice


def test_flushed_denormals_are_found() -> None:
    assert torch.set_flush_denormal(True)  # this kind of processor can
    try:
        assert not machine.keeps_denormals()
        with pytest.raises(Unfit, match=r"expected denormals kept, .*call torch.set_flush_denormal\(False\)") as caught:
            require_fit()
        assert "\n" not in str(caught.value)
    finally:
        torch.set_flush_denormal(False)
    assert machine.keeps_denormals()


@pytest.mark.parametrize("at", range(len(PROBES)))
def test_the_probe_that_fails_is_named_with_its_advice(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = replace(PROBES[at], holds=lambda: False)
    monkeypatch.setattr(machine, "PROBES", (*PROBES[:at], failing, *PROBES[at + 1 :]))
    with pytest.raises(Unfit) as caught:
        require_fit()
    assert PROBES[at].what in str(caught.value) and PROBES[at].advice in str(caught.value)


def test_an_inexact_transformation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a compiler that reassociates would make of it: the error of a sum comes out as zero."""
    monkeypatch.setattr(machine, "two_sum", lambda a, b: (a + b, torch.zeros_like(a)))
    assert not machine.transforms_are_error_free()
    monkeypatch.undo()
    monkeypatch.setattr(machine, "two_prod", lambda a, b: (a * b, torch.zeros_like(a)))
    assert not machine.transforms_are_error_free()


def test_products_of_a_short_format_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 keeps 11 bits of a factor: 1 + 2^-12 becomes 1."""
    product = torch.Tensor.__matmul__

    def short(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return product(*((x * 2.0**10).round() / 2.0**10 for x in (a, b)))

    monkeypatch.setattr(torch.Tensor, "__matmul__", short)
    assert not machine.float32_products_are_float32()


def test_a_device_without_float64_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    require_float64(torch.device("cpu"))

    def zeros(*size: int, **options: object) -> torch.Tensor:
        raise TypeError("Cannot convert a float64 Tensor\nbecause the framework doesn't support it")

    monkeypatch.setattr(torch, "zeros", zeros)
    with pytest.raises(Unfit) as caught:
        require_float64(torch.device("mps"))
    said = str(caught.value)
    assert "expected a device with float64, found mps (Cannot convert a float64 Tensor)" in said
    assert "move the problem to the CPU" in said and "\n" not in said
