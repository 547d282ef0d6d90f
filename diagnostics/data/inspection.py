"""What a data set is, and whether it is whole: every image decoded, counted, hashed and compared.

The content of an image is its pixels as read, so a copy that was saved again in another lossless format is the same
image. The content of a data set is a hash over (split, class, image) in sorted order: it depends neither on the names
of files nor on how they lie.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diagnostics.data.bad_data import BadData
from diagnostics.data.image_data import ImageData, Read
from diagnostics.registry import unknown

PIECE = 256  # images looked at together
NAMED = 5  # examples in a message

# What was published, by split: classes, and images of each class or (a single number) of all.
PUBLISHED: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "omniglot": {"train": (1028, 20560), "validation": (172, 3440), "test": (423, 8460)},
    "omniglot-lake": {"train": (964, 19280), "test": (659, 13180)},
    "mini-imagenet": {"train": (64, 38400), "validation": (16, 9600), "test": (20, 12000)},
    "tiered-imagenet": {"train": (351, 448695), "validation": (97, 124261), "test": (160, 206209)},
    "cifar-fs": {"train": (64, 38400), "validation": (16, 9600), "test": (20, 12000)},
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, whether it is as it should be, and what to do where it is not."""

    what: str
    value: str
    good: bool = True
    advice: str = ""


def described(data: ImageData) -> list[Finding]:
    """What is known without decoding."""
    count, channels, height, width = data.source.shape
    sizes = [int(data.counts[at.start : at.stop].sum()) for at in data.splits.values()]
    return [
        Finding("layout", data.layout),
        Finding("images", f"{count} of {channels} x {height} x {width}, {count * channels * height * width:,} bytes"),
        *(
            Finding(
                f"split {name}", f"{len(at)} classes, {size} images, {_range(data.counts[at.start : at.stop])} each"
            )
            for (name, at), size in zip(data.splits.items(), sizes, strict=True)
        ),
    ]


def checked(
    data: ImageData, read: Read, expect: str | None, content: str | None, report: Callable[[int], None]
) -> list[Finding]:
    """Decode everything and compare: counts with those published for `expect`, the hash with `content`, all images.

    An image in two splits is a fault; one that occurs twice within a split is told. `report` is told how many images
    are done. Raises `BadData` that names the images that cannot be read, `ValueError` for an unknown `expect`.
    """
    if expect is not None and expect not in PUBLISHED:
        raise ValueError(unknown("data set", expect, tuple(PUBLISHED)))
    digests, bad = _digests(data, read, report)
    if bad:
        raise BadData(f"{bad[0]}; {len(bad)} of {data.source.shape[0]} images cannot be read")
    found = described(data)
    if expect is not None:
        found.append(_counted(data, expect))
    across, within = _twins(data, digests)
    found.append(
        Finding("classes shared by splits", "none" if data.named else "not known: the files do not name the classes")
    )
    found.append(
        Finding(
            "images shared by splits",
            _pairs(data, across),
            not across,
            "expected none: a test image that was trained on is no test; take one of each pair out",
        )
    )
    found.append(Finding("images twice within a split", _pairs(data, within)))
    total = _content(data, digests)
    good = content is None or total == content
    found.append(Finding("content", total, good, f"expected {content}: another data set, or a changed one"))
    return found


def _digests(data: ImageData, read: Read, report: Callable[[int], None]) -> tuple[list[bytes], list[str]]:
    """The hash of each image, and what is wrong with those that cannot be read."""
    digests: list[bytes] = []
    bad: list[str] = []
    count = data.source.shape[0]
    for first in range(0, count, PIECE):
        rows = np.arange(first, min(first + PIECE, count))
        try:
            images = list(read(rows))
        except BadData:
            images = []
            for row in rows:  # one by one, to name each that is bad
                try:
                    images.append(read(np.array([row]))[0])
                except BadData as error:
                    bad.append(str(error))
        digests += [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]
        report(min(first + PIECE, count))
    return digests, bad


def _twins(data: ImageData, digests: list[bytes]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs of rows with equal images: those of two splits, and those of one."""
    ends = np.cumsum([0, *data.counts])
    stops = [int(ends[at.stop]) for at in data.splits.values()]
    across: list[tuple[int, int]] = []
    within: list[tuple[int, int]] = []
    seen: dict[bytes, int] = {}
    for row, digest in enumerate(digests):
        other = seen.setdefault(digest, row)
        if other != row:
            apart = any(other < stop <= row for stop in stops)
            (across if apart else within).append((other, row))
    return across, within


def _content(data: ImageData, digests: list[bytes]) -> str:
    total = hashlib.sha256(repr(data.source.shape[1:]).encode())
    ends = np.cumsum([0, *data.counts]).tolist()
    for split, at in sorted(data.splits.items()):
        for place in sorted(at, key=lambda place: data.classes[place]):
            total.update(f"\0{split}\0{data.classes[place]}\0".encode(errors="surrogateescape"))
            total.update(b"".join(sorted(digests[ends[place] : ends[place + 1]])))
    return total.hexdigest()


def _counted(data: ImageData, expect: str) -> Finding:
    found = {
        name: (len(at), int(data.counts[at.start : at.stop].sum()))
        for name, at in data.splits.items()
    }  # fmt: skip
    wanted = PUBLISHED[expect]
    advice = f"expected {_counts(wanted)}: the copy is incomplete, or another data set"
    return Finding(f"counts of {expect}", _counts(found), found == wanted, advice)


def _counts(of: Mapping[str, tuple[int, int]]) -> str:
    return ", ".join(f"{name} {classes} classes of {images} images" for name, (classes, images) in of.items())


def _range(counts: NDArray[np.int64]) -> str:
    least, most = int(counts.min()), int(counts.max())
    return str(least) if least == most else f"{least} to {most}"


def _pairs(data: ImageData, pairs: list[tuple[int, int]]) -> str:
    if not pairs:
        return "none"
    shown = "; ".join(f"{data.source.name(a)} = {data.source.name(b)}" for a, b in pairs[:NAMED])
    return f"{len(pairs)}: {shown}" + ("; ..." if len(pairs) > NAMED else "")
