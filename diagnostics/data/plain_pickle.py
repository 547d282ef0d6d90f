"""Pickles of plain data, read without running what they say.

A pickle is a program: it names functions and calls them. Here a name stands for one of the few objects below, which
are written out in this file and build numbers and arrays; every other name ends the reading. numpy's own functions are
not called either, for they trust their arguments. It is read by the interpreter of pickles that is written in Python,
whose memo is a dictionary: that of the one in C is an array, for which a few bytes can ask for gigabytes.
"""

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from diagnostics.data.bad_data import BadData

DEEPEST = 8  # containers within containers; the caches of few-shot data have three


class Refused(pickle.UnpicklingError):
    """A pickle that asks for something other than plain data."""


def read_pickle(path: Path) -> object:
    """Dictionaries, lists, tuples, text, numbers and arrays, whatever Python 2 or 3 pickled them.

    Byte strings that are UTF-8 become text, also where they are keys. Raises `BadData` for a file that is missing, cut
    short or no pickle, and for one that calls code, naming what it would call.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            reader = _Reader(_Bounded(file, size))
            return _plain(reader.load(), DEEPEST, {})
    except Refused as error:
        raise BadData(
            f"{path}: expected a pickle of plain arrays, found {error}; it was not run: do not load it"
        ) from None
    except OSError as error:
        raise BadData(f"{path}: expected a pickle, found {error.strerror or error}") from None
    except Exception as error:  # a damaged pickle can fail in any way that Python can
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadData(f"{path}: expected a whole pickle, found a damaged one ({reason:.120}); replace it") from None


@dataclass(frozen=True)
class _Bounded:
    """A file that is never asked for more bytes than are left, whatever lengths the pickle claims."""

    file: BinaryIO
    size: int

    def read(self, count: int) -> bytes:
        """Exactly so many bytes, or `EOFError`."""
        if not 0 <= count <= self.size - self.file.tell():
            raise EOFError("it ends too soon")
        return self.file.read(count)

    def readline(self) -> bytes:
        """A line."""
        return self.file.readline()


@dataclass(eq=False)
class _Type:
    """A numpy type as a pickle builds it: a code, then a state that gives the byte order."""

    code: str
    order: str = "="

    def __setstate__(self, state: object) -> None:
        """(version, byte order, subarray, names, fields, ...)."""
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise Refused("a structured numpy type")
        self.order = {"|": "=", "<": "<", ">": ">", "=": "="}[_text(state[1])]

    @property
    def numpy(self) -> np.dtype:
        """The type; one of numbers, text or truth values."""
        dtype = np.dtype(self.code).newbyteorder(self.order)  # type: ignore[call-overload]
        if dtype.kind not in "buifSU":
            raise Refused(f"an array of type {dtype}")
        return dtype


@dataclass(eq=False)
class _Array:
    """An array as a pickle builds it: empty, then a state that gives shape, type and numbers."""

    value: list[object] = field(default_factory=list)  # of one array, or of a list that stood for it

    def __setstate__(self, state: object) -> None:
        """(version, shape, type, whether Fortran's order, numbers)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("an array of unknown form")
        _, shape, dtype, fortran, numbers = state
        self.value[:] = [_array(numbers, dtype, shape, "F" if fortran else "C")]


def _array(numbers: object, dtype: object, shape: object, order: object) -> object:
    if not isinstance(dtype, _Type) or not isinstance(shape, tuple) or any(type(n) is not int for n in shape):
        raise Refused("an array of unknown form")
    if isinstance(numbers, list) and dtype.code.lstrip("|<>=").startswith("O") and len(shape) == 1:
        return numbers  # an array of objects, here only of text: `_plain` looks at each
    if isinstance(numbers, str):
        numbers = numbers.encode("latin-1")
    if not isinstance(numbers, bytes | bytearray):
        raise Refused("an array of objects")
    return np.frombuffer(numbers, dtype.numpy).reshape(shape, order="F" if _text(order) == "F" else "C")


class _Named:
    """What a name in a pickle stands for. It has no attributes that a pickle could set."""

    __slots__ = ()


class _ArrayName(_Named):
    __slots__ = ()


class _Reconstruct(_Named):
    __slots__ = ()

    def __call__(self, of: object, *_: object) -> _Array:
        if not isinstance(of, _ArrayName):
            raise Refused("an array of unknown form")
        return _Array()


class _FromBuffer(_Named):
    __slots__ = ()

    def __call__(self, numbers: object, dtype: object, shape: object, order: object, axes: object = None) -> _Array:
        if axes is not None:
            raise Refused("an array of unknown form")
        return _Array([_array(numbers, dtype, shape, order)])


class _MakeType(_Named):
    __slots__ = ()

    def __call__(self, code: object, *_: object) -> _Type:
        return _Type(_text(code))


class _Scalar(_Named):
    __slots__ = ()

    def __call__(self, dtype: object, number: object) -> object:
        value = _array(number, dtype, (), "C")
        return value.item() if isinstance(value, np.ndarray) else value


class _Encode(_Named):
    """Bytes as Python 3 spells them in the pickles of Python 2: text whose code points are the bytes."""

    __slots__ = ()

    def __call__(self, text: object = "", encoding: object = "latin1") -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise Refused("bytes of unknown form")
        return text.encode("latin-1")


NAMES: dict[tuple[str, str], _Named] = {
    ("numpy", "ndarray"): _ArrayName(),
    ("numpy", "dtype"): _MakeType(),
    ("_codecs", "encode"): _Encode(),
    ("__builtin__", "bytes"): _Encode(),
    ("builtins", "bytes"): _Encode(),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct() for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar() for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer() for core in ("core", "_core")},
}


class _Reader(pickle._Unpickler):  # type: ignore[name-defined, misc]
    def __init__(self, file: _Bounded) -> None:
        super().__init__(file, fix_imports=False, encoding="bytes", errors="strict")

    def find_class(self, module: str, name: str) -> _Named:
        """What the name stands for here; anything else is refused."""
        if (module, name) not in NAMES:
            raise Refused(f"one that calls {f'{module}.{name}'!r:.80}")
        return NAMES[module, name]

    def get_extension(self, code: int) -> None:
        """Codes that programs agree on stand for functions too."""
        raise Refused(f"one that calls extension {code}")

    def _load_bytearray(self: Any) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))  # read first: Python allocates first

    dispatch = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _load_bytearray}  # type: ignore[attr-defined]


def _plain(value: object, depth: int, done: dict[int, object]) -> object:
    """The value with arrays in place of what stood for them, byte strings as text; `Refused` for anything else.

    `done` keeps each container's result: one that is named a thousand times is gone through once.
    """
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    if depth < 0 or done.get(id(value), value) is done:
        raise Refused(f"containers more than {DEEPEST} deep, or within themselves")
    if id(value) not in done:
        done[id(value)] = done  # until it is done
        done[id(value)] = _container(value, depth - 1, done)
    return done[id(value)]


def _container(value: object, depth: int, done: dict[int, object]) -> object:
    if isinstance(value, _Array):
        if len(value.value) != 1:
            raise Refused("an array without numbers")
        return value.value[0] if isinstance(value.value[0], np.ndarray) else _plain(value.value[0], depth, done)
    if isinstance(value, dict):
        return {_plain(key, depth, done): _plain(entry, depth, done) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry, depth, done) for entry in value]
    if isinstance(value, tuple):
        return tuple(_plain(entry, depth, done) for entry in value)
    raise Refused(f"something that is no plain data: {type(value).__name__.strip('_').lower()}")


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str):
        raise Refused("a numpy type of unknown form")
    return value
