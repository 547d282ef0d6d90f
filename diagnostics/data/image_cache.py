"""Decoded images kept in the cache folder as one .npy, read through a memory map ever after.

The name of the file is the source's key, so that files that were changed are decoded again. It appears whole or not at
all; its sum lies beside it, in the format of sha256sum.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diagnostics.data import cache
from diagnostics.data.array_files import ArrayAt, StoredImages, in_npy, write_npy
from diagnostics.data.bad_data import BadData
from diagnostics.data.image_data import Read, Source
from diagnostics.files import write_whole

PIECE = 256  # images decoded and written at a time


def kept(source: Source) -> Source:
    """The source as the cache folder holds it, or the source itself where it does not."""
    path = place(source)
    if isinstance(source, StoredImages) or not path.is_file():
        return source
    try:
        shape, dtype, offset = in_npy(path)
    except (BadData, OSError):
        return source
    if shape != source.shape or dtype != np.uint8:
        return source
    return StoredImages((ArrayAt(str(path), offset, shape, False),), np.arange(shape[0]), source.key)


def place(source: Source) -> Path:
    """Where the cache holds, or would hold, the source's images."""
    return cache.folder() / f"images-{source.key[:32]}.npy"


def keep(source: Source, read: Read, report: Callable[[int], None]) -> Path:
    """Decode every image and keep it; where. `report` is told how many are done.

    Raises `BadData` for an image that cannot be decoded, `ValueError` where the folder cannot be written or is full.
    """
    path, count = place(source), source.shape[0]

    def pieces() -> Iterator[NDArray[np.uint8]]:
        for first in range(0, count, PIECE):
            yield read(np.arange(first, min(first + PIECE, count)))
            report(min(first + PIECE, count))

    try:
        total = write_npy(path, source.shape, pieces())
        write_whole(path.with_name(path.name + ".sha256"), f"{total}  {path.name}\n".encode("ascii"))
    except OSError as error:
        size = math.prod(source.shape)
        raise ValueError(
            f"{path.parent}: expected a folder with room for {size} bytes, found {error.strerror}; "
            "set GRADGAUGE_CACHE to one"
        ) from None
    return path
