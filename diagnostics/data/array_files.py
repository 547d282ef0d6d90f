"""Arrays of images on disk, read through memory maps and written piece by piece.

A map is opened for each reading and closed after it, so that what was read before does not stay in the process: reading
episodes from 20 GB takes no more memory than from 20 MB.
"""

import hashlib
import io
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from diagnostics.data.bad_data import BadData

_LOCAL_HEADER = struct.Struct("<26xHH")  # the two lengths at the end of a zip member's own header


@dataclass(frozen=True)
class ArrayAt:
    """An array of images (D, H, W[, C]) or (D, C, H, W), uint8, at an offset of a file."""

    path: str
    offset: int
    stored: tuple[int, ...]
    channels_last: bool

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(D, C, H, W)."""
        if len(self.stored) == 3:
            return self.stored[0], 1, self.stored[1], self.stored[2]
        count, a, b, c = self.stored
        return (count, c, a, b) if self.channels_last else (count, a, b, c)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Those images, (M, C, H, W). Raises `BadData` where the file is shorter than it was."""
        try:
            mapped = np.memmap(self.path, np.uint8, "r", self.offset, self.stored)
        except (OSError, ValueError) as error:
            raise BadData(f"{self.path}: expected the array that was here, found {error}; restore it") from None
        images = np.asarray(mapped[rows])
        if len(self.stored) == 3:
            return images[:, None]
        return images.transpose(0, 3, 1, 2) if self.channels_last else images


@dataclass(frozen=True, eq=False)
class StoredImages:
    """Images in arrays, one after the other, all of one shape; `order` says which of them each row is."""

    arrays: tuple[ArrayAt, ...]
    order: NDArray[np.int64]  # (D,)
    key: str

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(D, C, H, W)."""
        return len(self.order), *self.arrays[0].shape[1:]

    def read(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """Those images, (M, C, H, W)."""
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        wanted, first = self.order[rows], 0
        for array in self.arrays:
            mine = np.nonzero((wanted >= first) & (wanted < first + array.shape[0]))[0]
            if len(mine):
                images[mine] = array.read(wanted[mine] - first)
            first += array.shape[0]
        return images

    def name(self, row: int, /) -> str:
        """What a message calls that image."""
        place = int(self.order[row])
        for array in self.arrays:
            if place < array.shape[0]:
                return f"{array.path}, image {place}"
            place -= array.shape[0]
        return f"image {row}"


def in_npy(path: Path, offset: int = 0) -> tuple[tuple[int, ...], np.dtype, int]:
    """(shape, type, offset of the numbers) of the .npy that begins at `offset`. Raises `BadData`."""
    with open(path, "rb") as file:
        file.seek(offset)
        shape, dtype = npy_header(file, str(path))
        begin = file.tell()
    found = path.stat().st_size - begin
    needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if needed > found:
        raise BadData(f"{path}: expected {needed} bytes of numbers, found {found}; the file is cut short: replace it")
    return shape, dtype, begin


def npy_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, type) of the .npy that `file` stands at the beginning of. Raises `BadData` for what is none.

    An array in Fortran's order, or of Python objects, is refused.
    """
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise BadData(f"{name}: expected an array of numpy's format, found {error}; replace it") from None
    if fortran or dtype.hasobject:
        what = "Python objects" if dtype.hasobject else "Fortran's order"
        raise BadData(f"{name}: expected plain numbers in C's order, found {what}; save it again")
    return shape, dtype


def stored_at(path: Path, member: zipfile.ZipInfo) -> int:
    """Where the bytes of an uncompressed member begin in the zip."""
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size:
            raise BadData(f"{path}: expected a whole zip, found it cut short; replace it")
        return member.header_offset + _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack(header))


def write_npy(path: Path, shape: tuple[int, ...], pieces: Iterable[NDArray[np.uint8]]) -> str:
    """Write the pieces, one after the other, as one .npy of uint8; the sum (sha256) of the file.

    The file appears whole or not at all. Raises `ValueError` unless the pieces fill the shape.
    """
    digest = hashlib.sha256()
    with whole_file(path) as file:
        for chunk in _npy_bytes(np.dtype(np.uint8), shape, pieces):
            file.write(chunk)
            digest.update(chunk)
    return digest.hexdigest()


def write_npz(
    path: Path, arrays: Mapping[str, NDArray], name: str, shape: tuple[int, ...], pieces: Iterable[NDArray[np.uint8]]
) -> None:
    """Write the arrays, and the pieces as one more called `name`, into one uncompressed .npz, whole or not at all."""
    with whole_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for key, array in arrays.items():
            with archive.open(_member(key), "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)
        with archive.open(_member(name), "w", force_zip64=True) as member:
            for chunk in _npy_bytes(np.dtype(np.uint8), shape, pieces):
                member.write(chunk)


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"{name}.npy")  # dated 1980, so that equal arrays make equal files


def _npy_bytes(dtype: np.dtype, shape: tuple[int, ...], pieces: Iterable[NDArray[np.uint8]]) -> Iterator[bytes]:
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    yield header.getvalue()
    written, whole = 0, int(np.prod(shape, dtype=object))
    for piece in pieces:
        if piece.dtype != dtype or piece.shape[1:] != shape[1:]:
            raise ValueError(f"expected pieces of {dtype} (.., {shape[1:]}), found {piece.dtype} {piece.shape}")
        written += piece.size
        yield np.ascontiguousarray(piece).tobytes()
    if written != whole:
        raise ValueError(f"expected {whole} numbers in all, found {written}")


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` that takes its place when all went well, and is gone otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o644)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
