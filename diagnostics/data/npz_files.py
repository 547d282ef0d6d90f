"""Data sets in .npz files, one file a split, as `gradgauge data convert` writes them and others pass them on.

A file holds the images (uint8; D, H, W or D, H, W, C or D, C, H, W) under one of the names `IMAGES`, and a label for
each under one of `LABELS`; where `classes` (C,) is there too, it names them. Uncompressed arrays are read where they
lie; a compressed one is unpacked once, into the cache folder.
"""

import hashlib
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diagnostics.data import cache
from diagnostics.data.array_files import ArrayAt, StoredImages, in_npy, npy_header, stored_at, whole_file
from diagnostics.data.bad_data import BadData
from diagnostics.data.class_lists import SPLITS, in_order
from diagnostics.data.image_data import ImageData, shared

IMAGES = ("images", "image_data", "data", "features")
LABELS = ("labels", "label_specific", "targets")
CLASSES = "classes"


@dataclass(frozen=True, eq=False)
class Part:
    """One file: its images, and the name of the class of each."""

    images: ArrayAt
    of: NDArray[np.str_]  # (D,)
    named: bool
    stamp: tuple[str, int, int]


def npz_files(path: Path) -> list[Path]:
    """The .npz files at `path`: itself, or those in the folder that are named after a split; [] where it is neither."""
    if path.suffix.lower() == ".npz" and path.is_file():
        return [path]
    if not path.is_dir():
        return []
    return sorted(file for file in path.iterdir() if file.suffix.lower() == ".npz" and split_in(file.stem))


def split_in(stem: str) -> str | None:
    """The split that the name of a file tells: `mini-imagenet-cache-train` is `train`; None where it tells none."""
    words = "".join(letter if letter.isalnum() else " " for letter in stem.lower()).split()
    found = [SPLITS[word] for word in words if word in SPLITS]
    return found[-1] if found else None


def npz_data(files: Sequence[Path]) -> ImageData:
    """The data set that the files are. Raises `BadData` for a file that is damaged or none, and splits that overlap."""
    parts: dict[str, Part] = {}
    for file in files:
        split = split_in(file.stem) or "all"
        if split in parts:
            raise BadData(f"{file}: expected one file for each split, found two for {split}; take one away")
        parts[split] = _part(file)
    parts = in_order(parts)
    shapes = {part.images.shape[1:] for part in parts.values()}
    if len(shapes) > 1:
        raise BadData(f"{files[0].parent}: expected images of one shape in all splits, found {sorted(shapes)}")
    named = all(part.named for part in parts.values())
    # Labels without names count from 0 in every file: they are told apart by the split.
    names = {split: part.of if named else np.char.add(f"{split}/", part.of) for split, part in parts.items()}
    common = shared({split: tuple(np.unique(of).tolist()) for split, of in names.items()})
    if common:
        raise BadData(
            f"{files[0].parent}: expected splits that share no class, found {common[0]!r} in {common[1]} and in "
            f"{common[2]}; mend the files"
        )
    classes: list[str] = []
    counts: list[NDArray[np.int64]] = []
    order: list[NDArray[np.int64]] = []
    splits: dict[str, range] = {}
    first = 0
    for split, of in names.items():
        values, count = np.unique(of, return_counts=True)
        splits[split] = range(len(classes), len(classes) + len(values))
        classes += values.tolist()
        counts.append(count)
        order.append(first + np.argsort(of, kind="stable"))
        first += len(of)
    key = hashlib.sha256(repr([part.stamp for part in parts.values()]).encode()).hexdigest()
    source = StoredImages(tuple(part.images for part in parts.values()), np.concatenate(order), key)
    return ImageData("npz", source, tuple(classes), np.concatenate(counts), splits, named)


def _part(file: Path) -> Part:
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            images, labels = _one_of(IMAGES, members, file), _one_of(LABELS, members, file)
            with archive.open(members[images]) as member:
                shape, dtype = npy_header(member, f"{file}: {images}")
            channels_last = _channels_last(shape, dtype, file)
            of = _labels(archive, members[labels], file, shape[0])
            if CLASSES in members:
                names = _small(archive, members[CLASSES], file)
                if of.dtype.kind not in "iu" or names.ndim != 1 or not (0 <= of.min() and of.max() < len(names)):
                    raise BadData(f"{file}: expected labels from 0 to {len(names) - 1} for {CLASSES}, found others")
                of = names.astype(str)[of]
            status = file.stat()
            stamp = (str(file.absolute()), status.st_size, status.st_mtime_ns)
            at, place = _unpacked(archive, members[images], file, stamp)
    except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise BadData(f"{file}: expected an .npz, found a damaged one ({error}); replace it") from None
    named = CLASSES in members or of.dtype.kind in "SU"
    return Part(ArrayAt(str(at), place, shape, channels_last), of.astype(str), named, stamp)


def _one_of(known: tuple[str, ...], members: dict[str, zipfile.ZipInfo], file: Path) -> str:
    for name in known:
        if name in members:
            return name
    raise BadData(
        f"{file}: expected an array named {' or '.join(known)}, found {', '.join(members) or 'none'}; save it under one"
    )


def _channels_last(shape: tuple[int, ...], dtype: np.dtype, file: Path) -> bool:
    if dtype != np.uint8:
        raise BadData(f"{file}: expected images of uint8, 0 to 255, found {dtype}; convert them")
    if len(shape) not in (3, 4) or 0 in shape:
        raise BadData(f"{file}: expected images (D, H, W), (D, H, W, C) or (D, C, H, W), found {shape}; reshape them")
    if len(shape) == 4 and shape[3] not in (1, 3) and shape[1] not in (1, 3):
        raise BadData(f"{file}: expected 1 or 3 channels, found images of shape {shape[1:]}; convert them")
    return len(shape) == 4 and shape[3] in (1, 3)


def _labels(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path, count: int) -> NDArray:
    labels = _small(archive, member, file)
    if labels.shape != (count,) or labels.dtype.kind not in "iuSU":
        raise BadData(f"{file}: expected a label for each of {count} images, found {labels.dtype} {labels.shape}")
    return labels


def _small(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path) -> NDArray:
    with archive.open(member) as stream:
        try:
            return np.lib.format.read_array(stream, allow_pickle=False)
        except (ValueError, MemoryError) as error:
            raise BadData(f"{file}: expected plain numbers or text in {member.filename}, found {error}") from None


def _unpacked(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path, stamp: tuple[str, int, int]
) -> tuple[Path, int]:
    """Where the numbers of the member lie as they are: in the zip, or in a copy in the cache folder."""
    if member.compress_type == zipfile.ZIP_STORED:
        at = stored_at(file, member)
        return file, in_npy(file, at)[2]
    copy = cache.folder() / f"unpacked-{hashlib.sha256(repr((stamp, member.filename)).encode()).hexdigest()[:32]}.npy"
    if not copy.is_file() or copy.stat().st_size != member.file_size:
        try:
            with archive.open(member) as source, whole_file(copy) as target:
                shutil.copyfileobj(source, target, 2**20)
        except OSError as error:
            raise ValueError(
                f"{copy.parent}: expected a folder with room for {member.file_size} bytes to unpack {file}, found "
                f"{error.strerror or error}; set GRADGAUGE_CACHE to one"
            ) from None
    return copy, in_npy(copy)[2]
