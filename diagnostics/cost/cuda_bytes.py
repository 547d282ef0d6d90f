"""The peak of a GPU's memory during a call, as torch's allocator counts it."""

from collections.abc import Callable

import torch


def cuda_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most bytes that the call has allocated at once on the GPU, beyond what was allocated before it.

    Kernels' workspaces count where torch allocates them, and each size is rounded up to the allocator's blocks. Raises
    `ValueError` for a device that is no GPU.
    """
    if device.type != "cuda":
        raise ValueError(f"cuda_bytes: expected a CUDA device, found {device}; use live_bytes on the CPU")
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = call()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    del result
    return peak
