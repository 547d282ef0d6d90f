"""One data set of images: its classes, which split each belongs to, and where the pixels come from when asked for.

Rows are images and go by split, then class, then name, whatever order the files were found in; so the same files give
the same episodes on every machine. Nothing is decoded until rows are read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diagnostics.checks import one_of
from diagnostics.data.bad_data import BadData

Read = Callable[[NDArray[np.int64]], NDArray[np.uint8]]  # rows (M,) -> images (M, C, H, W)


class Source(Protocol):
    """Where pixels come from: D images of one shape. It can be pickled, and is small beside the images."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(D, C, H, W)."""
        ...

    @property
    def key(self) -> str:
        """A hash of what the pixels are made from: names, sizes and times of files, not their bytes."""
        ...

    def read(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """Those images, (M, C, H, W), 0 to 255. Raises `BadData` naming the file at fault."""
        ...

    def name(self, row: int, /) -> str:
        """What a message calls that image."""
        ...


@dataclass(frozen=True)
class Rows:
    """A run of a source's rows that is indexed like an array: `images[rows]` decodes those rows and no others."""

    read: Read
    first: int
    shape: tuple[int, int, int, int]
    dtype: np.dtype[np.uint8] = np.dtype(np.uint8)

    @property
    def ndim(self) -> int:
        """The number of dimensions, as an array tells it."""
        return len(self.shape)

    def __len__(self) -> int:
        """D."""
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """Those images; each is read once, however often it is asked for."""
        unique, places = np.unique(rows, return_inverse=True)
        return self.read(self.first + unique)[places.reshape(-1)]


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one split, as `diagnostics.data.episodes.draw` takes them."""

    images: Rows
    labels: NDArray[np.int64]  # (D,), from 0 to C - 1, ascending
    names: tuple[str, ...]  # (C,)


@dataclass(frozen=True, eq=False)
class ImageData:
    """D images of C classes, the classes shared out among splits; see `assembled`."""

    layout: str  # how the files lie: "omniglot", "csv lists", ...
    source: Source
    classes: tuple[str, ...]  # (C,), the classes of a split side by side
    counts: NDArray[np.int64]  # (C,), images of each class; the rows of a class lie side by side
    splits: Mapping[str, range]  # split -> its classes
    named: bool = True  # whether the files name the classes; if not, two splits cannot be compared by class

    def classes_of(self, split: str) -> range:
        """The classes of a split; `ValueError` for one that is not there."""
        if split not in self.splits and len(self.splits) == 1:
            raise ValueError(
                f"split: expected {next(iter(self.splits))!r}, the only one there is, found {split!r}; sort the "
                "classes into folders train, validation and test, or list them in train.txt, val.txt and test.txt"
            )
        return self.splits[one_of("split", split, tuple(self.splits))]

    def split(self, name: str, read: Read | None = None) -> Split:
        """The split called `name`; `read` replaces the source's own (see `diagnostics.data.workers`).

        Raises `ValueError` for a split that is not there.
        """
        classes = self.classes_of(name)
        ends = np.concatenate([[0], np.cumsum(self.counts)])
        first, last = int(ends[classes.start]), int(ends[classes.stop])
        labels = np.repeat(np.arange(len(classes)), self.counts[classes.start : classes.stop])
        images = Rows(read or self.source.read, first, (last - first, *self.source.shape[1:]))
        return Split(images, labels, self.classes[classes.start : classes.stop])

    def require(self, split: str, ways: int, shots: int, queries: int) -> None:
        """Refuse an episode that the split has too few classes or images for."""
        classes = self.classes_of(split)
        if ways > len(classes):
            raise BadData(
                f"{split}: expected at least {ways} classes for an episode of {ways} ways, found {len(classes)}; "
                "ask for fewer ways"
            )
        least = classes.start + int(np.argmin(self.counts[classes.start : classes.stop]))
        if shots + queries > self.counts[least]:
            raise BadData(
                f"{split}: expected at least {shots + queries} images of each class ({shots} shots and {queries} "
                f"queries), found {self.counts[least]} of {self.classes[least]!r}; ask for fewer"
            )


def shared(splits: Mapping[str, tuple[str, ...]]) -> tuple[str, str, str] | None:
    """The first class that two splits share, as (class, split, other split)."""
    seen: dict[str, str] = {}
    for split, classes in splits.items():
        for name in classes:
            if name in seen and seen[name] != split:
                return name, seen[name], split
            seen[name] = split
    return None
