"""What autograd saves for a backward pass: the part of a call's memory that is there because of differentiation.

Every tensor that an operation saves passes through a hook. Each storage counts once, from when it is first saved until
the last node that saved it is gone; the peak over the call is what is reported.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, UntypedStorage

from diagnostics.arithmetic.extended import Extended, words


def saved_bytes(call: Callable[[], object], given: Iterable[Tensor] = ()) -> int:
    """The most bytes that autograd holds at once for backward passes during the call.

    The storages of `given` were there before and cost nothing to save; they are not counted.
    """
    ledger = _Ledger({storage._cdata for x in given for storage in _storages(x)})  # noqa: SLF001
    with torch.autograd.graph.saved_tensors_hooks(ledger.hold, lambda held: held.tensor):
        call()
    return ledger.peak


@dataclass
class _Held:
    """A saved tensor, by a handle whose death tells that autograd let it go."""

    tensor: Tensor


@dataclass
class _Ledger:
    apart: set[int]
    now: int = 0
    peak: int = 0
    holders: Counter[int] = field(default_factory=Counter)

    def hold(self, tensor: Tensor) -> _Held:
        held = _Held(tensor.detach())  # an output would hold its own graph
        for storage in _storages(held.tensor):
            key, size = storage._cdata, storage.nbytes()  # noqa: SLF001
            if key in self.apart:
                continue
            if self.holders[key] == 0:
                self.now += size
                self.peak = max(self.peak, self.now)
            self.holders[key] += 1
            weakref.finalize(held, self.release, key, size)
        return held

    def release(self, key: int, size: int) -> None:
        self.holders[key] -= 1
        if self.holders[key] == 0:
            self.now -= size
            del self.holders[key]  # another storage may have this address next


def _storages(x: Tensor) -> list[UntypedStorage]:
    """The storages of a tensor: two for an extended one, whose words may share theirs."""
    parts = words(x) if isinstance(x, Extended) else (x,)
    return list({part.untyped_storage()._cdata: part.untyped_storage() for part in parts}.values())  # noqa: SLF001
