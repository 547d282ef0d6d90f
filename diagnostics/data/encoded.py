"""Images that are decoded from their files each time they are asked for."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import __version__ as pillow_version

from diagnostics.data.decoding import RECIPE, decoded, measured
from diagnostics.data.listing import Folder, Zips

SIDE = 84  # of images that come in many sizes, where none is asked for: what few-shot practice cuts ImageNet to


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """The files `names` of a container, as images of one shape."""

    container: Folder | Zips
    names: tuple[str, ...]
    channels: int
    side: int
    dark_ink: bool
    key: str

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(D, C, H, W)."""
        return len(self.names), self.channels, self.side, self.side

    def read(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """Those images, (M, C, H, W). Raises `BadData` naming the file at fault."""
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, row in enumerate(rows.tolist()):
            content = self.container.read(self.names[row])
            images[place] = decoded(content, self.name(row), self.channels, self.side, self.dark_ink)
        return images

    def name(self, row: int, /) -> str:
        """What a message calls that image."""
        return self.container.full(self.names[row])


def encoded_images(
    container: Folder | Zips, names: Sequence[str], samples: Sequence[str], stamp: str, side: int, dark_ink: bool
) -> EncodedImages:
    """The images, with the channels and the side that the headers of `samples` (one name a class) tell.

    The set is in colour if a sample is. If the samples are squares of one side, that is the side of the set; otherwise
    it is `side`, or `SIDE` where that is 0. Raises `BadData` for a sample that is no image.
    """
    shapes = [measured(container.read(name), container.full(name)) for name in samples]
    channels = max(channels for channels, _, _ in shapes)
    sides = {length for _, height, width in shapes for length in (height, width)}
    chosen = sides.pop() if len(sides) == 1 else side or SIDE
    made_from = (stamp, tuple(names), channels, chosen, dark_ink, RECIPE, pillow_version)
    return EncodedImages(
        container, tuple(names), channels, chosen, dark_ink, hashlib.sha256(repr(made_from).encode()).hexdigest()
    )
