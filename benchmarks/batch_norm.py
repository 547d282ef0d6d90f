"""The second derivative of batch norm here and in torch: `python benchmarks/batch_norm.py`.

One thread, float32, 5 images of 64 x 28 x 28; milliseconds of this thread for the pull through the gradient, medians
over interleaved rounds.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from diagnostics.batch_norm import batch_norm


def pull(norm: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[], object]:
    """The call that pulls through the norm's gradient once."""
    torch.manual_seed(0)
    x, v, u = torch.randn(3, 5, 64, 28, 28)
    variables = (x.requires_grad_(), torch.ones(64, requires_grad=True), torch.zeros(64, requires_grad=True))
    v.requires_grad_()
    gradients = torch.autograd.grad(norm(*variables), variables, v, create_graph=True)
    along = (u, torch.ones(64), torch.ones(64))
    return lambda: torch.autograd.grad(gradients, (*variables[:2], v), along, retain_graph=True)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    norms = {"here": batch_norm, "torch": lambda x, w, b: functional.batch_norm(x, None, None, w, b, True)}
    calls = {name: pull(norm) for name, norm in norms.items()}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(31):
        for name, call in calls.items():
            begun = time.thread_time()
            call()
            if turn:
                taken[name].append(time.thread_time() - begun)
    ratios = [a / b for a, b in zip(taken["here"], taken["torch"], strict=True)]
    print({name: f"{1e3 * median(found):.2f} ms" for name, found in taken.items()})
    print(f"here over torch: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
