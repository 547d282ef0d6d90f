"""What a data set larger than memory costs in memory: `python benchmarks/image_memory.py`.

Sets of made-up images, 84 x 84 in colour, of 0.2 to 42 GB, a thousand classes each. For each, in fresh processes, by
how much the high-water mark of resident memory rises while

    made      episodes are drawn from images that are made when they are read
    array     episodes are drawn from a .npy of that size, through its memory map (a sparse file: it takes no disk)
    check     every image is decoded, hashed and compared, as `gradgauge data check` does (--all; minutes)
    index     the names, labels and rows of so many files are kept, which is what grows with a folder of images

Every set gives the same number of episodes, a batch of them at a time, as in training; the last lines draw more.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from diagnostics.cost.process_bytes import process_bytes
from diagnostics.data.array_files import ArrayAt, StoredImages, in_npy
from diagnostics.data.encoded import EncodedImages
from diagnostics.data.episodes import draw
from diagnostics.data.image_data import ImageData, Source
from diagnostics.data.inspection import checked
from diagnostics.data.listing import Folder

SIDE, CHANNELS, CLASSES = 84, 3, 1000
EACH = CHANNELS * SIDE * SIDE  # bytes of an image


@dataclass(frozen=True)
class Made:
    """Images that exist only when they are read: noise from the number of their row."""

    count: int
    key: str = "made"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(D, C, H, W)."""
        return self.count, CHANNELS, SIDE, SIDE

    def read(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """Those images."""
        images = [np.random.default_rng(row).bytes(EACH) for row in rows.tolist()]
        return np.frombuffer(b"".join(images), np.uint8).reshape(len(rows), CHANNELS, SIDE, SIDE)

    def name(self, row: int, /) -> str:
        """What a message calls it."""
        return f"image {row}"


def data_of(source: Source) -> ImageData:
    """The source's images in classes of equal size, all of one split."""
    counts = np.full(CLASSES, source.shape[0] // CLASSES)
    return ImageData("made up", source, tuple(map(str, range(CLASSES))), counts, {"all": range(CLASSES)})


def stored(path: str) -> StoredImages:
    """The array in the file."""
    shape, _, offset = in_npy(Path(path))
    return StoredImages((ArrayAt(path, offset, shape, False),), np.arange(shape[0]), path)


def drawing(source: Callable[[], Source], batches: int) -> Callable[[], object]:
    """Draws `batches` batches of 4 episodes, 5-way 1-shot with 15 queries; one is drawn at once, to load the code."""
    draw(data_of(Made(32 * CLASSES)).split("all"), 4, 5, 1, 15, 0, SIDE, None)

    def call() -> None:
        split = data_of(source()).split("all")
        for seed in range(batches):
            draw(split, 4, 5, 1, 15, seed, SIDE, None)

    return call


def checking(count: int) -> Callable[[], object]:
    """Decodes and compares everything."""
    small, large = data_of(Made(CLASSES)), data_of(Made(count))
    checked(small, small.source.read, None, None, lambda done: None)
    return lambda: checked(large, large.source.read, None, None, lambda done: None)


def indexing(count: int) -> Callable[[], object]:
    """Keeps the names of so many files."""

    def call() -> object:
        names = tuple(f"n{row % CLASSES:08d}/n{row % CLASSES:08d}_{row:08d}.JPEG" for row in range(count))
        return names, data_of(EncodedImages(Folder("/data"), names, CHANNELS, SIDE, False, "")).split("all")

    return call


def sparse(folder: str, count: int) -> str:
    """A .npy of so many images that takes no place on the disk."""
    path = Path(folder) / f"{count}.npy"
    with open(path, "wb") as file:
        npy.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (count, CHANNELS, SIDE, SIDE)}
        )
        file.truncate(file.tell() + count * EACH)
    return str(path)


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--all", action="store_true", help="the check too, which reads every byte")
    options = parser.parse_args()
    print("images      GB   batches   made MB  array MB  index MB" + ("  check MB" if options.all else ""))
    sizes = [(count, options.batches) for count in (10_000, 100_000, 1_000_000, 2_000_000)]
    for count, batches in [*sizes, (1_000_000, 4 * options.batches), (1_000_000, 16 * options.batches)]:
        with tempfile.TemporaryDirectory() as folder:
            path = sparse(folder, count)
            rises = [
                process_bytes(partial(drawing, partial(Made, count), batches)),
                process_bytes(partial(drawing, partial(stored, path), batches)),
                process_bytes(partial(indexing, count)),
                process_bytes(partial(checking, count)) if options.all else 0,
            ]
        shown = "".join(f"{(rise or 0) / 2**20:10.0f}" for rise in rises[: 3 + options.all])
        print(f"{count:7d} {count * EACH / 1e9:8.1f}{batches:8d}{shown}", flush=True)


if __name__ == "__main__":
    main()
