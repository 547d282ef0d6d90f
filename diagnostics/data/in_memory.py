"""Images that are in memory already."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class InMemory:
    """An array of images (D, C, H, W) of uint8 as a source."""

    images: NDArray[np.uint8]
    key: str

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(D, C, H, W)."""
        count, channels, height, width = self.images.shape
        return count, channels, height, width

    def read(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """Those images, (M, C, H, W)."""
        return self.images[rows]

    def name(self, row: int, /) -> str:
        """What a message calls that image."""
        return f"{self.key}, image {row}"
