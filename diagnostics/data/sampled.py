"""Episodes of a data set by its name: what a problem needs to know of them, and what draws them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from diagnostics.checks import one_of, whole_number
from diagnostics.data import glyphs, library
from diagnostics.data.bad_data import BadData
from diagnostics.data.episodes import JITTER, draw
from diagnostics.data.workers import reading

LEAST = 16  # pixels of a side that four poolings leave one of
USUAL = {1: 28, 3: 84}  # channels -> side of an episode's images


@dataclass(frozen=True)
class Sampled:
    """Episodes of images (channels, side, side); `draw(tasks, seed)` as in `diagnostics.data.episodes.draw`."""

    channels: int
    side: int
    draw: Callable[[int, int], dict[str, Tensor]]


def sampled(
    data: str,
    split: str,
    ways: int,
    shots: int,
    queries: int,
    *,
    partition: str = "",
    turns: int = 1,
    size: int = 0,
    workers: int = 0,
) -> Sampled:
    """The episodes of `data`, a path or `glyphs`; `size` 0 is the usual side, or that of the images if it is less.

    Glyphs are moved at random, and read when first drawn. Images from disk are shown as they are, so an episode that a
    class has too few of is refused. The episodes of a seed are the same with any number of `workers`.

    Raises `BadData` for a data set that is not as it should be, `ValueError` for settings that mean nothing.
    """
    whole_number("size", size, 0)
    whole_number("workers", workers, 0)
    if data == library.GLYPHS and not partition and turns == 1:
        one_of("split", split, glyphs.SPLITS)
        side = _side(size, 1, glyphs.SIDE)
        return Sampled(1, side, lambda tasks, seed: draw(glyphs.load(split), tasks, ways, shots, queries, seed, side))
    found = library.load(data, partition, turns, size)
    channels, height = found.source.shape[1:3]
    side, moves = _side(size, channels, height), JITTER if data == library.GLYPHS else None
    if found.source.shape[2] != found.source.shape[3]:
        raise BadData(f"{data}: expected square images, found {found.source.shape[2:]}; cut them to squares")
    if moves is None:
        found.require(split, ways, shots, queries)

    def drawn(tasks: int, seed: int) -> dict[str, Tensor]:
        with reading(found.source, workers) as read:
            return draw(found.split(split, read), tasks, ways, shots, queries, seed, side, moves)

    found.classes_of(split)
    return Sampled(channels, side, drawn)


def _side(size: int, channels: int, most: int) -> int:
    side = size or min(USUAL[channels], most)
    if side > most:
        raise ValueError(f"size: expected at most {most}, the side of the images, found {side}; lower it")
    if side < LEAST:
        raise ValueError(f"size: expected at least {LEAST}, found {side}; four poolings leave nothing of less")
    return side
