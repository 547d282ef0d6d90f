"""The device that a run computes on: whether it is there, and what it is called.

On a GPU no loop of an inner optimizer, an estimator or a linear solver waits for a number. Who does wait: a loop before
it begins, for whether all numbers are finite; the search for the minimiser, once in 20 steps and at each of Newton's;
rows, when they are read back; and extended precision, whose operations each look at a sum for what is not finite, so
that references in it cost there what they cost in waiting.
"""

import torch


def require_device(name: str) -> None:
    """Raise `ValueError` unless this machine has the device: `cpu`, `cuda` or `cuda:N`."""
    device = torch.device(name)
    if device.type == "cpu":
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        other = torch.accelerator.current_accelerator(check_available=True)
        found = f"torch {torch.__version__}, which sees {'no GPU' if other is None else f'{other} only'}"
        raise ValueError(f"device: expected {name} to be there, found {found}; use --device cpu")
    if (device.index or 0) >= count:
        there = ", ".join(f"cuda:{index}" for index in range(count))
        raise ValueError(f"device: expected {name} to be there, found {there}; use one of these")


def described(name: str) -> str:
    """The device with what its maker calls it, where it is a GPU that is there."""
    device = torch.device(name)
    if device.type == "cpu" or not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        return name
    return f"{name} ({torch.cuda.get_device_name(device)})"
