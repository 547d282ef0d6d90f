"""Few-shot episodes: which drawings take part, and how each of them is moved before it is seen.

An episode has `ways` classes, `shots` support and `queries` query images of each. A class's drawings are shared out
between support and queries, so that no query is a support drawing in disguise (if the class has two drawings or more),
and every image is rotated, sheared, scaled and shifted on its own.

Each random variable has its own stream, drawn row-major with the tasks first. Hence episode b does not depend on how
many episodes follow it: drawing 4 gives the first 4 of drawing 8, bit for bit.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diagnostics.checks import positive, whole_number
from diagnostics.chunks import in_chunks
from diagnostics.draws import stream

_MOVES = ("rotation", "scale", "shear", "shift_x", "shift_y")
_STREAMS = ("classes", "drawings", *(f"{role} {move}" for role in ("support", "query") for move in _MOVES))
_CHUNK = 128  # images moved at once: bounds the memory, whatever the number of tasks, and is fastest


class Pixels(Protocol):
    """An array of images, or what is indexed like one and reads from disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, H, W) or (D, C, H, W)."""
        ...

    @property
    def ndim(self) -> int:
        """3 or 4."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """uint8."""
        ...

    def __len__(self) -> int:
        """D."""
        ...

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """Those images."""
        ...


class ImageSet(Protocol):
    """Labelled images: what `draw` needs of a data set."""

    @property
    def images(self) -> Pixels:
        """(D, H, W), or (D, C, H, W) in colour, 0 to 255; black is what moves in from outside."""
        ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """(D,), the class of each image, in any order; the values need not be consecutive."""
        ...


@dataclass(frozen=True)
class Jitter:
    """The range of the random move of an image; every quantity is uniform in its range.

    Raises ValueError unless 0 < smallest <= largest.
    """

    rotation: float = 10.0  # degrees, either way; the tangent of half the angle is what is uniform
    smallest: float = 0.85  # scale
    largest: float = 1.1
    shear: float = 0.1  # columns per row, either way
    shift: float = 1 / 14  # of the side, either way, across and down: two pixels of 28

    def __post_init__(self) -> None:
        """Refuse scales that would leave no image."""
        positive("jitter: smallest", self.smallest)
        if not self.smallest <= self.largest:
            raise ValueError(
                f"jitter: expected smallest <= largest, found {self.smallest} and {self.largest}: swap them"
            )


JITTER = Jitter()


@dataclass(frozen=True, eq=False)
class Choice:
    """Rows of the data set that take part in B episodes."""

    classes: NDArray[np.int64]  # (B, ways), label values
    support: NDArray[np.int64]  # (B, ways, shots), rows
    query: NDArray[np.int64]  # (B, ways, queries), rows


def draw(
    data: ImageSet,
    tasks: int,
    ways: int,
    shots: int,
    queries: int,
    seed: int,
    size: int = 28,
    jitter: Jitter | None = JITTER,
) -> dict[str, Tensor]:
    """`tasks` episodes as tensors; row b is episode b, and its rows go class by class, the classes in random order.

    Returns `support_images` (tasks, ways * shots, C, size, size), float64 in [0, 1], with C = 1 for
    grey images; `support_labels` (tasks, ways * shots), int64 from 0 to ways - 1; and `query_images`, `query_labels`
    with `queries` for `shots`.
    Images are moved at their own resolution, then averaged over areas down to `size`, so nothing is aliased; with
    `jitter` None they are not moved.

    Raises ValueError for counts that are not positive whole numbers, more ways than classes, a size above that of the
    images, and arrays of other shapes or types than `ImageSet` says.
    """
    _refuse_unfit(data.images, size)
    if len(data.images) != len(data.labels):
        raise ValueError(
            f"expected a label for each of {len(data.images)} images, found {len(data.labels)}: mend the data"
        )
    choice = choose(data.labels, tasks, ways, shots, queries, seed)
    episodes: dict[str, Tensor] = {}
    for role, rows in (("support", choice.support), ("query", choice.query)):
        episodes[f"{role}_images"] = shown(data.images, rows, seed, role, size, jitter).flatten(1, 2)
        episodes[f"{role}_labels"] = torch.arange(rows.shape[1]).repeat_interleave(rows.shape[2]).repeat(len(rows), 1)
    return episodes


def shown(
    images: Pixels,
    rows: NDArray[np.int64],
    seed: int,
    role: str,
    size: int = 28,
    jitter: Jitter | None = JITTER,
) -> Tensor:
    """Those rows `(tasks, ways, n)` of the images as an episode shows them, (tasks, ways, n, C, size, size).

    `role`, support or query, and the seed say how they are moved. Raises ValueError like `draw`.
    """
    _refuse_unfit(images, size)
    moves = np.stack([_uniform(seed, f"{role} {move}", rows.shape) for move in _MOVES], axis=-1)
    moved = _moved(images, rows.reshape(-1), moves.reshape(-1, len(_MOVES)), size, jitter)
    return moved.reshape(*rows.shape, *moved.shape[1:])


def choose(labels: NDArray[np.int64], tasks: int, ways: int, shots: int, queries: int, seed: int) -> Choice:
    """The drawings of `tasks` episodes, from the labels (D,) alone.

    Of a class's n drawings, support takes as many as it has shots and leaves the rest to the queries; if too few are
    left for one each, it takes n // 2 at most (and at least one). Whoever has more images than drawings uses each
    in turn. Only a class with a single drawing shows the same one on both sides. Raises ValueError like `draw`.
    """
    for name, value in (("tasks", tasks), ("ways", ways), ("shots", shots), ("queries", queries)):
        whole_number(name, value, 1)
    whole_number("seed", seed, 0)
    values, counts = np.unique(labels, return_counts=True)
    if ways > len(values):
        raise ValueError(f"expected ways <= {len(values)}, the classes of this data set; found {ways}: ask for fewer")
    by_class, start = np.argsort(labels, kind="stable"), np.cumsum(counts) - counts
    classes = np.argsort(_uniform(seed, "classes", (tasks, len(values))), axis=-1, kind="stable")[:, :ways]

    n = counts[classes][..., None]  # (tasks, ways, 1)
    keys = _uniform(seed, "drawings", (tasks, ways, int(counts.max())))
    keys[np.arange(keys.shape[-1]) >= n] = np.inf
    shuffled = np.argsort(keys, axis=-1, kind="stable")  # its first n are a permutation of a class's n drawings
    for_support = np.clip(np.minimum(shots, np.maximum(n - queries, n // 2)), 1, None)
    for_query = np.maximum(n - for_support, 1)
    support = np.arange(shots) % for_support
    query = np.minimum(for_support, n - 1) + np.arange(queries) % for_query
    rows = [by_class[start[classes][..., None] + np.take_along_axis(shuffled, slot, -1)] for slot in (support, query)]
    return Choice(values[classes], *rows)


def _moved(
    images: Pixels, rows: NDArray[np.int64], moves: NDArray[np.float64], size: int, jitter: Jitter | None
) -> Tensor:
    """Those rows of the images, moved, then averaged down: (M, C, size, size); moves (M, 5) lie in [0, 1)."""

    def seen(chunk: slice) -> Tensor:
        some = torch.from_numpy(images[rows[chunk]]).to(torch.float64) / 255
        some = some if some.ndim == 4 else some[:, None]
        if jitter is None:
            return F.adaptive_avg_pool2d(some, size)
        grid = _grid(torch.from_numpy(moves[chunk]), some.shape[-2], some.shape[-1], jitter)
        moved = F.grid_sample(some, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return F.adaptive_avg_pool2d(moved, size).clamp(0, 1)  # bilinear weights sum to 1 up to rounding

    return torch.cat(in_chunks(seen, len(rows), _CHUNK))


def _refuse_unfit(images: Pixels, size: int) -> None:
    whole_number("size", size, 1)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(
            f"expected images (D, H, W) or (D, C, H, W) of uint8, found {images.dtype} of shape {images.shape}: convert"
        )
    if size > min(images.shape[-2:]):
        raise ValueError(f"expected size <= {min(images.shape[-2:])}, the side of the images; found {size}: lower it")


def _grid(moves: Tensor, height: int, width: int, jitter: Jitter) -> Tensor:
    """Where each pixel of the moved image comes from, (M, height, width, 2), in the units of grid_sample.

    The move is p -> scale * rotation * shear * p + shift about the centre, in pixels; this is its inverse. It is made
    of exactly rounded operations on single elements (affine_grid multiplies matrices, whose rounding may change with
    the batch): no bit of an episode depends on its neighbours.
    """
    rotation, scale, shear, shift_x, shift_y = (2 * moves - 1)[..., None, None].unbind(1)  # (M, 1, 1), in [-1, 1)
    half = rotation * math.tan(math.radians(jitter.rotation) / 2)  # tan of half the angle gives cos and sin by division
    cos, sin = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    slant = jitter.shear * shear
    factor = (jitter.largest + jitter.smallest + scale * (jitter.largest - jitter.smallest)) / 2
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    y = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    u = (x - jitter.shift * width * shift_x) / factor  # (M, 1, width)
    v = (y - jitter.shift * height * shift_y) / factor  # (M, height, 1)
    from_x = (cos + slant * sin) * u + (sin - slant * cos) * v
    from_y = cos * v - sin * u
    return torch.stack([from_x * (2 / width), from_y * (2 / height)], dim=-1)


def _uniform(seed: int, variable: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return stream(seed, _STREAMS.index(variable)).random(shape)
