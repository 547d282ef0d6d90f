"""The most bytes of tensors that a call has alive at once.

    live(t) = sum of the sizes of the storages that were allocated since the call began and are not yet freed,
    peak = max over t of live(t)

A storage counts once however many views it has, from the operation that made it until its last tensor dies, whoever
held it: a variable, or autograd's graph. It is a property of the computation, the same on every machine and in every
run. The profiler of torch adds up the allocator's own events and comes to the same peak, with two exceptions. It sees
what a kernel takes and gives back within one operation: its workspace, and the few bytes that a Python number becomes
on its way in. And a backward pass without a graph that adds several gradients of one variable does so in place, but
not below a dispatch mode such as the one that counts here: the peak may then be too high by one gradient of it.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import UntypedStorage
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from diagnostics.arithmetic.after_each import tensors_in, written_to
from diagnostics.arithmetic.extended import Extended

T = TypeVar("T")


@dataclass(frozen=True)
class LiveBytes(Generic[T]):
    """What a call gave, `peak` bytes alive at once, `left` alive at its end, and `given`: what it used that was there.

    `left` contains the result. `given` counts the storages that existed before the call and that it looked at; they are
    no part of `peak`.
    """

    result: T
    peak: int
    left: int
    given: int


def live_bytes(call: Callable[[], T]) -> LiveBytes[T]:
    """Make the call and count. It must not run inside another call that is being counted.

    An extended number is two float64 numbers, which are what is counted.
    """
    with _Ledger() as ledger:
        result = call()
    return LiveBytes(result, ledger.peak, ledger.now, ledger.given)


class _Ledger(TorchDispatchMode):
    """Sees every operation that reaches a kernel, those of a backward pass included."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.given = 0
        self.sizes: dict[int, int] = {}  # storage -> bytes that it counts for; 0 for one that was there before
        self.watched: dict[int, weakref.ref[UntypedStorage]] = {}

    def __torch_dispatch__(
        self, operation: OpOverload, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for value in (*args, *kwargs.values()) for x in tensors_in(value)]
        if any(isinstance(x, Extended) for x in tensors):
            return NotImplemented  # it is taken apart into operations on its words, and those come here
        made_just_now = operation.overloadpacket.__name__ == "lift_fresh"  # how `torch.tensor` announces its numbers
        for x in tensors:
            self.see(x.untyped_storage(), new=made_just_now)
        results = operation(*args, **kwargs)
        for x in tensors_in(results):
            self.see(x.untyped_storage(), new=True)
        for x in written_to(operation, args, kwargs):
            self.resize(x.untyped_storage())
        return results

    def see(self, storage: UntypedStorage, *, new: bool) -> None:
        """Enter a storage that is not known yet."""
        key = storage._cdata  # noqa: SLF001  the address of the storage itself; that of its numbers is 0 when empty
        if key in self.sizes:
            return
        size = storage.nbytes()
        self.sizes[key] = size if new else 0
        self.watched[key] = weakref.ref(storage, lambda _: self.free(key))
        if new:
            self.count(size)
        else:
            self.given += size

    def resize(self, storage: UntypedStorage) -> None:
        """Count what an operation in place, or with `out=`, added to a storage that the call had made."""
        key = storage._cdata  # noqa: SLF001
        if (before := self.sizes[key]) and (change := storage.nbytes() - before):
            self.sizes[key] += change
            self.count(change)

    def free(self, key: int) -> None:
        """Take a storage that died out of the count."""
        self.now -= self.sizes.pop(key)
        del self.watched[key]

    def count(self, size: int) -> None:
        """Add to what is alive."""
        self.now += size
        self.peak = max(self.peak, self.now)
