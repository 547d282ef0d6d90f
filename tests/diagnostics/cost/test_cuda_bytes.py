"""A GPU's peak: only where there is one."""

import pytest
import torch

from diagnostics.cost.cuda_bytes import cuda_bytes, free_cuda_bytes

BLOCK = 512  # bytes; the allocator's granularity


def test_the_cpu_is_no_gpu() -> None:
    with pytest.raises(ValueError, match="expected a CUDA device, found cpu; use live_bytes"):
        cuda_bytes(lambda: None, torch.device("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_peak_is_what_lives_at_once() -> None:
    device = torch.device("cuda")
    x = torch.ones(BLOCK, device=device)
    size = 4 * BLOCK
    assert cuda_bytes(lambda: x + 1, device) == size
    assert cuda_bytes(lambda: (x + 1) * (x + 2), device) == 3 * size  # whatever was the peak before


def test_what_the_allocator_keeps_for_later_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert free_cuda_bytes(torch.device("cuda")) == 1500
