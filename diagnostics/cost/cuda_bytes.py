"""A GPU's memory, as torch's allocator counts it: the peak during a call, and what is free."""

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


def free_cuda_bytes(device: torch.device) -> int:
    """The bytes of the GPU that this process could still take, those included that its allocator keeps for later."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
