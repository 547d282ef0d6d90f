"""When two drawings are the same shape: equal ink, wherever it stands, up to anti-aliasing.

Two drawings a, b, cropped to their ink, count as one shape if the best placement of one on the other leaves

    |a - b|^2 <= TOLERANCE * min(|a|^2, |b|^2).

Position does not count, because a random shift would undo it: a subscript is the superscript moved down. Size does
count: small capitals stay apart from capitals. Equality to the bit would not do, for outlines shared by two letters
that sit a fraction of a pixel apart come out with other greys at their edges (Latin turned m and Armenian ayb differ
by one grey level in one font). The tolerance stands in a gap: over all pairs of letters from different splits, twins
leave at most 0.9 % (Latin L, Armenian liwn) and lookalikes at least 1.7 % (Cyrillic i, Armenian seh).
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 0.01

# Twins can differ by one faint row or column, so each ink box meets its own size and, once per pair, those next to it.
_NEIGHBOURS = ((0, 0), (0, 1), (1, 0), (1, 1), (1, -1))


def cropped(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The ink box of an image (H, W): its smallest rectangle that holds every pixel above 0; (0, 0) if blank."""
    rows, columns = np.nonzero(image.any(axis=1))[0], np.nonzero(image.any(axis=0))[0]
    if len(rows) == 0:
        return image[:0, :0]
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def same_shape(drawings: Sequence[NDArray[np.uint8]], tolerance: float = TOLERANCE) -> NDArray[np.int64]:
    """All pairs of drawings that are one shape, as rows (i, j), i < j, of an array (P, 2), in ascending order.

    `drawings` are ink boxes of any sizes, as `cropped` gives them, none of them blank.
    """
    indices: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, drawing in enumerate(drawings):
        indices[drawing.shape[0], drawing.shape[1]].append(index)
    # Grey levels as float64 hold every product and sum below exactly: the answer is the same on every machine.
    stacks = {box: np.stack([drawings[i] for i in rows]).astype(np.float64) for box, rows in indices.items()}
    pairs = [np.zeros((0, 2), np.int64)]
    for (height, width), stack in stacks.items():
        for taller, wider in _NEIGHBOURS:
            other = (height + taller, width + wider)
            if other in stacks:
                near = np.argwhere(_residual(stack, stacks[other], taller, wider) <= tolerance)
                found = np.stack(
                    [np.asarray(indices[height, width])[near[:, 0]], np.asarray(indices[other])[near[:, 1]]], axis=1
                )
                pairs.append(np.sort(found[found[:, 0] != found[:, 1]], axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def _residual(a: NDArray[np.float64], b: NDArray[np.float64], taller: int, wider: int) -> NDArray[np.float64]:
    """Least |a - b|^2 / min(|a|^2, |b|^2) over placements, (n, m); b is `taller` and `wider` than a by at most 1."""
    height, width = b.shape[1], max(a.shape[2], b.shape[2])
    energy_a, energy_b = (a**2).sum(axis=(1, 2))[:, None], (b**2).sum(axis=(1, 2))[None, :]
    overlap = np.zeros((len(a), len(b)))
    for y in range(taller + 1):
        for x in range(abs(wider) + 1):
            placed_a = _placed(a, height, width, y, x if wider > 0 else 0)
            placed_b = _placed(b, height, width, 0, x if wider < 0 else 0)
            overlap = np.maximum(overlap, placed_a @ placed_b.T)
    return (energy_a + energy_b - 2 * overlap) / np.minimum(energy_a, energy_b)


def _placed(stack: NDArray[np.float64], height: int, width: int, y: int, x: int) -> NDArray[np.float64]:
    """The stack (n, h, w) with its corner at (y, x) of a blank (height, width), one flat row each."""
    canvas = np.zeros((len(stack), height, width))
    canvas[:, y : y + stack.shape[1], x : x + stack.shape[2]] = stack
    return canvas.reshape(len(stack), -1)
