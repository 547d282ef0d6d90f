"""Decoding in processes of their own, which gives the same images, whatever their number.

Worth it where many images are decoded at once: a process takes some tenths of a second to begin. The processes are
started afresh (not forked: torch's threads do not survive that), import only numpy and Pillow, and end with their
parent, be it killed.
"""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection

import numpy as np
from numpy.typing import NDArray

from diagnostics.checks import whole_number
from diagnostics.data.bad_data import BadData
from diagnostics.data.image_data import Read, Source

PIECE = 32  # images decoded in one go by one process

_SOURCES: list[Source] = []  # in a worker process, the one source that it reads from


@contextmanager
def reading(source: Source, workers: int) -> Iterator[Read]:
    """What reads rows of the source, in so many processes; with 0, the source's own `read`.

    Rows come back in the order asked for. Raises `BadData` as the source does, and where a process dies.
    """
    if whole_number("workers", workers, 0) == 0:
        yield source.read
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_begin, initargs=(source,)) as pool:

        def read(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
            pieces = [rows[first : first + PIECE] for first in range(0, len(rows), PIECE)]
            images = np.empty((len(rows), *source.shape[1:]), np.uint8)
            try:
                for first, piece in zip(range(0, len(rows), PIECE), pool.map(_read, pieces), strict=True):
                    images[first : first + PIECE] = piece
            except BrokenProcessPool:
                raise BadData(
                    f"decoding: expected {workers} processes to live, found one killed, perhaps for memory; "
                    "use fewer workers"
                ) from None
            return images

        yield read


def _begin(source: Source) -> None:
    _SOURCES[:] = [source]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _read(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    return _SOURCES[0].read(rows)
