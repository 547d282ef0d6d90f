"""Data sets by where they are: `glyphs`, or the path of a folder, a zip or an .npz."""

import functools
import os
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np

from diagnostics.checks import whole_number
from diagnostics.data import glyphs
from diagnostics.data.bad_data import BadData
from diagnostics.data.encoded import encoded_images
from diagnostics.data.image_cache import kept
from diagnostics.data.image_data import ImageData
from diagnostics.data.in_memory import InMemory
from diagnostics.data.layouts import assignment
from diagnostics.data.listing import listed
from diagnostics.data.npz_files import npz_data, npz_files
from diagnostics.data.turned import TURNS, turned

GLYPHS = "glyphs"


def spelled(path: str) -> str:
    """A path as it stands in the name of a problem: what would end it there is written %2C and so on."""
    return quote(path, safe="/~:@!$&()*+;=", errors="surrogateescape")


def unspelled(text: str) -> str:
    """The path that `spelled` wrote."""
    return unquote(text, errors="surrogateescape")


def problem_name(data: ImageData, path: str, partition: str = "", side: int = 0) -> str:
    """The name of the few-shot problem on that data set, as `--problem` takes it."""
    where = path if path == GLYPHS else os.path.abspath(os.path.expanduser(path))
    split = "train" if "train" in data.splits else next(iter(data.splits))
    parameters = {"data": spelled(where), "split": split, "partition": spelled(partition), "size": str(side or "")}
    return f"few_shot[{','.join(f'{key}={value}' for key, value in parameters.items() if value)}]"


def load(path: str, partition: str = "", turns: int = 1, side: int = 0, *, cached: bool = True) -> ImageData:
    """The data set; its files are listed and the header of one image a class is read, but nothing is decoded.

    `partition` is one of several ways to split (see `layouts.assignment`); `turns` 4 makes classes of the quarter
    turns; `side` is that of images that come in many sizes, 0 for 84. Decoded images are taken from the cache folder
    where it holds them, unless `cached` is False.

    Raises `BadData` for what is no data set or a damaged one, `ValueError` for settings that mean nothing.
    """
    whole_number("side", side, 0)
    if turns not in TURNS:
        raise ValueError(f"turns: expected one of {TURNS}, found {turns!r}")
    if path == GLYPHS:
        if partition:
            raise ValueError(f"partition: expected none for the glyphs, found {partition!r}")
        return turned(_glyphs(), turns)
    return turned(_on_disk(os.path.abspath(os.path.expanduser(path)), partition, side, cached), turns)


@functools.lru_cache(maxsize=4)
def _on_disk(path: str, partition: str, side: int, cached: bool) -> ImageData:
    files = npz_files(Path(path))
    if files:
        if partition:
            raise ValueError(f"partition: expected none for .npz files, found {partition!r}")
        return npz_data(files)
    listing = listed(Path(path))
    try:
        found = assignment(listing, partition)
    except BadData as error:
        raise BadData(f"{path}: {error}") if path not in str(error) else error from None
    classes = [(name, sorted(files)) for split in found.splits.values() for name, files in sorted(split.items())]
    if not classes:
        raise BadData(f"{path}: expected classes of images, found none; choose another folder")
    splits, first = {}, 0
    for name, members in found.splits.items():
        splits[name] = range(first, first + len(members))
        first += len(members)
    names = [file for _, files in classes for file in files]
    samples = [files[0] for _, files in classes]
    source = encoded_images(listing.container, names, samples, listing.stamp, side, found.dark_ink)
    counts = np.array([len(files) for _, files in classes])
    return ImageData(
        found.layout, kept(source) if cached else source, tuple(name for name, _ in classes), counts, splits
    )


@functools.cache
def _glyphs() -> ImageData:
    parts = {split: glyphs.load(split) for split in glyphs.SPLITS}
    splits, first = {}, 0
    for name, part in parts.items():
        splits[name] = range(first, first + len(part.names))
        first += len(part.names)
    return ImageData(
        layout=GLYPHS,
        source=InMemory(np.concatenate([part.images for part in parts.values()])[:, None], GLYPHS),
        classes=tuple(name for part in parts.values() for name in part.names),
        counts=np.concatenate([np.bincount(part.labels) for part in parts.values()]),
        splits=splits,
    )
