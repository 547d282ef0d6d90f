"""Quarter turns as classes of their own, as few-shot practice does with Omniglot (Santoro et al. 2016)."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diagnostics.data.image_data import ImageData, Source

TURNS = (1, 4)  # how many of the four turns are used


@dataclass(frozen=True, eq=False)
class Turned:
    """Rows `row * turns + turn` of a source of square images, turned by `turn` quarters, anticlockwise."""

    source: Source
    turns: int
    of: NDArray[np.int64]  # (D * turns,), row of the source
    by: NDArray[np.int64]  # (D * turns,), quarters

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(D, C, H, W)."""
        return len(self.of), *self.source.shape[1:]

    @property
    def key(self) -> str:
        """The source's, and the turns."""
        return f"{self.source.key}, turned {self.turns}"

    def read(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """Those images, (M, C, H, W)."""
        images = self.source.read(self.of[rows])
        turned = [np.rot90(image, quarters, (1, 2)) for image, quarters in zip(images, self.by[rows], strict=True)]
        return np.stack(turned) if turned else images

    def name(self, row: int, /) -> str:
        """What a message calls that image."""
        return self.source.name(int(self.of[row]))


def turned(data: ImageData, turns: int) -> ImageData:
    """The data with each class in `turns` (1 or 4) of its quarter turns; a class and its turns are of one split."""
    if turns == 1:
        return data
    ends = np.cumsum(data.counts)
    of = [np.arange(end - count, end) for end, count in zip(ends, data.counts, strict=True) for _ in range(turns)]
    by = [np.full(count, quarter) for count in data.counts for quarter in range(turns)]
    return replace(
        data,
        source=Turned(data.source, turns, np.concatenate(of), np.concatenate(by)),
        classes=tuple(f"{name}/rot{90 * quarter:03d}" for name in data.classes for quarter in range(turns)),
        counts=np.repeat(data.counts, turns),
        splits={name: range(turns * at.start, turns * at.stop) for name, at in data.splits.items()},
    )
