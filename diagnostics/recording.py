"""Tensor programs recorded once and run again without autograd: the same operations on the same numbers, in less time.

Most of the time of a small network's inner step goes into autograd's bookkeeping, the operations on tensors of ones and
zeros that its formulas contain, and views that undo each other. `recorded(key, linearise, *arguments)` gives what
`linearise(*arguments)` gives, bit for bit. Once that has taken long enough with tensors of one layout, the operations
are recorded (`make_fx`), simplified by rules that change no bit (`recorded_graph`), compared with the original on the
tensors at hand, and used from then on. A function that cannot be recorded (its path depends on
numbers, it draws random ones, it writes in place) or that fails the comparison stays as it is.

With `recording("compile")` what was recorded goes through `torch.compile` as well. It then fuses operations, so that
results differ in the last bits from those without, and the first call takes many seconds.
"""

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.recorded_graph import Program, record

Products = tuple[Callable[[Tensor], tuple[Tensor, ...]], ...]
Linearised = tuple[tuple[Tensor, ...], Products]  # values at a point, and maps linear in one tensor like the first

MODES = ("off", "auto", "now", "compile")
LONG = 1.0  # seconds in the original after which it is recorded, which takes 0.2 s for a small network, 3 s for a Conv4
KEPT = 256  # programs; each holds code and a few constants, no data

_mode: ContextVar[str] = ContextVar("recording", default="auto")


@dataclass
class _Entry:
    spent: float = 0.0  # seconds in the original
    program: Program | None = None
    tried: bool = False


_entries: dict[Hashable, _Entry] = {}


@contextmanager
def recording(mode: str) -> Iterator[None]:
    """What `recorded` does inside: `off`; `auto`, once it pays; `now`, at the first call; `compile`, likewise.

    `auto` leaves calls under a dispatch mode alone (an arithmetic that rounds each operation, say), whose draws must
    not depend on what was called before. Raises `ValueError` for another name.
    """
    if mode not in MODES:
        raise ValueError(f"recording: expected one of {', '.join(MODES)}, found {mode!r}")
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


def compiling() -> bool:
    """Whether what is recorded is compiled as well."""
    return _mode.get() == "compile"


def recorded(key: Hashable, linearise: Callable[..., Linearised], *arguments: Tensor) -> Linearised:
    """`linearise(*arguments)`, from a recording where there is one.

    `key` must tell functions apart that differ in anything but their tensors; where it has no hash nothing is recorded.
    A product's argument has the shape of the first of `arguments`, or of the first value where that differs.
    """
    mode = _mode.get()
    plain = all(type(x) is Tensor for x in arguments)
    unusual = not (plain and _hashable(key)) or (mode == "auto" and torch._C._len_torch_dispatch_stack() > 0)
    if mode == "off" or unusual:
        return linearise(*arguments)
    layout = tuple((x.shape, x.stride(), x.dtype, x.device) for x in arguments)
    entry = _entries.setdefault((key, layout, mode == "compile"), _Entry())
    if not entry.tried and (mode != "auto" or entry.spent >= LONG):
        entry.tried = True
        entry.program = record(linearise, arguments, compiled=mode == "compile")
        while len(_entries) > KEPT:
            del _entries[next(iter(_entries))]
    if entry.program is not None:
        return entry.program.at(*arguments)
    begun = time.perf_counter()
    found = linearise(*arguments)
    entry.spent += time.perf_counter() - begun
    return found


def _hashable(key: Hashable) -> bool:
    try:
        hash(key)
    except TypeError:  # an optimizer of someone's that holds a tensor, say
        return False
    return True
