"""A stand-in for a GPU, on any machine: tensors that say `cuda:0`, keep their numbers apart, and tell who reads them.

An `Away` tensor computes with a tensor of the CPU that no code under test can see. An operation on it and on a tensor
of the CPU is refused as on a GPU, which takes numbers of no dimension alone. Whatever makes the host wait for a number
(`bool`, `item`, `tolist`, `equal`, a copy back, an index of truth values) is done, and entered in the log with the
function that asked.

What it does not show: kernels that a GPU lacks or that differ there, its rounding, its memory, and its speed. To the
parts of torch that are not Python these tensors are the CPU's: autograd in a build without CUDA cannot run otherwise.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from diagnostics.arithmetic.extended import Extended

CUDA = torch.device("cuda:0")
ROOT = Path(__file__).resolve().parent.parent
WAITS = ("_local_scalar_dense", "item", "equal", "allclose", "is_nonzero", "nonzero", "masked_select", "_unique2")


@dataclass
class Log:
    """Who made the host wait for a number (`reads`), or sent one over (`sends`), by name, in order."""

    reads: list[str] = field(default_factory=list)
    sends: list[str] = field(default_factory=list)


_log = Log()


class Away(Tensor):
    """A tensor of the stand-in; `here` is the CPU's tensor with its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "Away":
        """The wrapper that torch sees."""
        return Tensor._make_wrapper_subclass(
            cls, here.size(), strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype
        )

    def __init__(self, here: Tensor) -> None:
        """Keep the numbers."""
        self.here = here

    def __repr__(self, *, tensor_contents: object = None) -> str:
        """The numbers."""
        return f"Away({self.here})"

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def untyped_storage(self) -> torch.UntypedStorage:
        """That of the numbers."""
        return self.here.untyped_storage()

    def data_ptr(self) -> int:
        """Where the numbers are."""
        return self.here.data_ptr()

    def tolist(self) -> Any:
        """The numbers, waited for."""
        _log.reads.append(_asker())
        return self.here.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """As on a GPU."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
        """A copy for the host, waited for."""
        return _moved(self, torch.device("cpu"), self.dtype)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What goes by where a tensor is, which the parts of torch that are not Python are not told."""
        kwargs = dict(kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            if func is not Tensor.to:
                return func(*args, **kwargs)
            if len(args) > 1 and isinstance(args[1], Tensor):
                return _moved(args[0], args[1].device, args[1].dtype)
            place, dtype, _, _ = torch._C._nn._parse_to(*args[1:], **kwargs)  # type: ignore[attr-defined]
            return _moved(args[0], place or args[0].device, dtype or args[0].dtype)

    @classmethod
    def __torch_dispatch__(
        cls, func: OpOverload, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Do one aten operation on the device."""
        kwargs = kwargs or {}
        tensors = _tensors_of(args, kwargs)
        return NotImplemented if _has_words(tensors) else _done(func, args, dict(kwargs), tensors)


def _done(func: OpOverload, args: Sequence[Any], kwargs: dict[str, Any], tensors: list[Tensor]) -> Any:
    name = func.overloadpacket.__name__
    there = any(isinstance(x, Away) for x in tensors)
    place = kwargs.get("device")
    ends_there = there if place is None else torch.device(place).type == "cuda"
    copies = name in ("_to_copy", "copy_")
    if copies and there and not (ends_there if name == "_to_copy" else isinstance(args[0], Away)):
        _log.reads.append(_asker())
    elif copies and not all(isinstance(x, Away) for x in tensors):
        _log.sends.append(_asker())
    elif there and not copies and any(_of_the_cpu(x) and x.dim() > 0 for x in tensors):
        raise RuntimeError(f"{func}: expected all tensors on one device, found cuda:0 and cpu")
    chosen = args[1] if name in ("index", "index_put", "index_put_") else ()
    if there and (name in WAITS or any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in chosen)):
        _log.reads.append(_asker())
    if place is not None:
        kwargs["device"] = torch.device("cpu")
    found = func(*[_here(x) for x in args], **{key: _here(x) for key, x in kwargs.items()})
    if name.endswith("_") and func._schema.is_mutable:
        return args[0]
    return _away(found) if ends_there else found


def _tensors_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors among an operation's arguments, those in lists included."""
    found = []
    for x in (*args, *kwargs.values()):
        if isinstance(x, Tensor):
            found.append(x)
        elif isinstance(x, list | tuple):
            found.extend(y for y in x if isinstance(y, Tensor))
    return found


def _here(x: Any) -> Any:
    if isinstance(x, list | tuple):
        return [_here(y) for y in x]
    return x.here if isinstance(x, Away) else x


def _away(x: Any) -> Any:
    if isinstance(x, list | tuple):
        return type(x)(_away(y) for y in x)
    return Away(x) if isinstance(x, Tensor) else x


def _moved(x: Tensor, place: torch.device, dtype: torch.dtype) -> Tensor:
    if x.device.type == place.type and x.dtype == dtype:
        return x
    return torch.ops.aten._to_copy.default(x, dtype=dtype, device=place)


def _of_the_cpu(x: Tensor) -> bool:
    """Whether a tensor is one of the CPU; zeros that a formula of torch's own for a derivative has made are neither's.

    Such a formula asks its inputs where to make them, and is told what autograd here must believe: on the CPU.
    """
    return not isinstance(x, Away) and not hasattr(x, "made_in_backward")


def _made_in_backward() -> bool:
    """Whether the operation that is being dispatched was not called from Python, but from a backward pass."""
    return sys._getframe(2).f_code.co_name == "_engine_run_backward"


def _has_words(tensors: list[Tensor]) -> bool:
    """Whether an operation is one on `Extended` numbers, which takes it apart into operations on their words."""
    return any(isinstance(x, Extended) for x in tensors)


def _asker() -> str:
    """The innermost function of the project that is being run, as `module.function`."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path != Path(__file__) and ROOT in path.parents and not {".venv", "site-packages"} & set(path.parts):
            return f"{path.stem}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "unknown"


class _Factories(TorchDispatchMode):
    """Sends the tensors that are made on the device, or moved there, to the stand-in."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to say so takes time at each operation

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = _tensors_of(args, kwargs)
        if _has_words(tensors):
            return NotImplemented
        if func.overloadpacket is torch.ops.aten.to:  # below autograd it comes whole: it is a copy, or nothing
            with self:
                return func.decompose(*args, **kwargs)
        place = kwargs.get("device")
        if any(isinstance(x, Away) for x in tensors) or (place is not None and torch.device(place).type == "cuda"):
            return _done(func, args, dict(kwargs), tensors)
        found = func(*args, **kwargs)
        neither = not any(map(_of_the_cpu, tensors)) if tensors else _made_in_backward()
        if neither and isinstance(found, Tensor):
            found.made_in_backward = True  # type: ignore[attr-defined]
        return found


def _extended_of_the_cpu(cls: type[Extended], high: Tensor, low: Tensor) -> Tensor:
    """The wrapper of two words, wherever they are, as autograd can have it here."""
    return Tensor._make_wrapper_subclass(
        cls, high.size(), strides=high.stride(), storage_offset=high.storage_offset(), dtype=torch.float64
    )


@contextmanager
def second_device() -> Iterator[Log]:
    """The stand-in is there, and a log of who waits for it is kept; always by the name `cuda:0`, never `cuda`."""
    _log.reads, _log.sends = [], []
    lifting = torch._C._only_lift_cpu_tensors()  # so that `torch.tensor(numbers, device)` is a copy that can be seen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "get_device_name", lambda device=None: "a stand-in")
        patch.setattr(Extended, "__new__", staticmethod(_extended_of_the_cpu))
        patch.setattr(Extended, "device", property(lambda x: x.high.device), raising=False)
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            with _Factories():
                yield _log
        finally:
            torch._C._set_only_lift_cpu_tensors(lifting)


def back(x: Tensor) -> Tensor:
    """The numbers of a tensor of the stand-in, without an entry in the log; any other tensor fails."""
    assert isinstance(x, Away), f"expected a tensor on {CUDA}, found one on {x.device}"
    return x.here
