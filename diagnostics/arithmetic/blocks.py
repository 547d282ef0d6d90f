"""Functions of each element of tensors, in blocks that stay in the cache, and mended where a result is not finite.

A double-word operation is some twenty passes over its tensors, so that it should find them in the cache. Infinities and
NaN are rare, so that they are looked for once, at the end, and dealt with apart, element by element: no element depends
on another.
"""

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from diagnostics.arithmetic.ordinary import Pair

# Elements at a time. 96 KiB a tensor: from 128 on, the C library may fetch new pages for every temporary, which costs
# more than to fill them.
BLOCK = 12288

Kernel = Callable[..., Pair]  # words in, a pair out

# glibc keeps freed memory for later up to a limit that grows with the largest tensor freed so far. With this one, whose
# pages are never touched, it keeps the temporaries, which saves a third of the time at a million elements.
torch.empty(4_000_000, dtype=torch.float64)


def _finite(x: Tensor) -> bool:
    """Whether all of `x` is finite; false too if its sum overflows, true of one that has a shape and no numbers."""
    if x.is_meta:
        return True
    s = x.sum().item()
    return s - s == 0.0


def _mended(kernel: Kernel, rescue: Kernel, words: tuple[Tensor, ...]) -> Pair:
    high, low = kernel(*words)
    if _finite(low):
        return high, low
    good = low.isfinite()
    rescued_high, rescued_low = rescue(*words)
    high, low = torch.where(good, high, rescued_high), torch.where(good, low, rescued_low)
    return high, torch.where(low.isfinite() & high.isfinite(), low, 0.0)


def elementwise(kernel: Kernel, rescue: Kernel, *words: Tensor) -> Pair:
    """A function of each element of tensors that broadcast.

    Where the low word that `kernel` gives is not finite, the element is `rescue`'s instead, with a low word of 0 if one
    of its words is not finite either.
    """
    if max(word.numel() for word in words) <= BLOCK:
        return _mended(kernel, rescue, words)
    shape = torch.broadcast_shapes(*(word.shape for word in words))
    size = prod(shape)
    result = [torch.empty(size, dtype=torch.float64, device=words[0].device) for _ in range(2)]
    flat = [word.expand(shape).reshape(-1).split(BLOCK) if word.numel() != 1 else None for word in words]
    for i, parts in enumerate(zip(*(word.split(BLOCK) for word in result), strict=True)):
        block = tuple(
            word.reshape(()) if pieces is None else pieces[i] for word, pieces in zip(words, flat, strict=True)
        )
        for part, computed in zip(parts, _mended(kernel, rescue, block), strict=True):
            part.copy_(computed)
    return result[0].view(shape), result[1].view(shape)
