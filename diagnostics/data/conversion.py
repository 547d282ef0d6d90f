"""The pickled caches of few-shot data sets as .npz files, which need no unpickling.

    {"image_data": (D, H, W, C), "class_dict": {class: rows}}     mini-ImageNet, as Ren et al. 2018 keep it
    {"data": (D, H, W, C), "labels": (D,)}                        mini-ImageNet and CIFAR-FS of others
    [png, png, ...] and {"label_specific": (D,), ...}             tieredImageNet: the images and the labels apart
    .npz with images, and the labels as above                     the same, decoded

A file is one split. tieredImageNet's PNGs were written and are mostly read by OpenCV, which swaps red and blue both
ways: read by Pillow, as here, the two may stay swapped. A network that is trained on them does not mind; one that was
trained elsewhere may.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from diagnostics.data.array_files import write_npz
from diagnostics.data.bad_data import BadData
from diagnostics.data.decoding import decoded, measured
from diagnostics.data.npz_files import IMAGES
from diagnostics.data.plain_pickle import read_pickle

PIECE = 2**24  # bytes of images written at a time


def convert(images: Path, labels: Path | None, out: Path) -> tuple[int, int]:
    """Write the split that the pickles hold as `out`, an uncompressed .npz; its images and its classes, counted.

    Raises `BadData` for what is not one of the forms above, `OSError` where `out` cannot be written.
    """
    if out.suffix != ".npz":
        raise ValueError(f"out: expected a name that ends in .npz, found {out}")
    shape, pieces, inside = _images(images)
    given = read_pickle(labels) if labels else inside
    of, names = _classes(given, shape[0], labels or images)
    write_npz(out, {"labels": of, "classes": names} if len(names) else {"labels": of}, "images", shape, pieces())
    return shape[0], len(np.unique(of))


def _images(path: Path) -> tuple[tuple[int, ...], Callable[[], Iterator[NDArray[np.uint8]]], object]:
    """The shape of the images, what gives them piece by piece, and the pickle that they were found in."""
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                value: object = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError) as error:
            raise BadData(f"{path}: expected an .npz of plain arrays, found {error}; replace it") from None
    else:
        value = read_pickle(path)
    if isinstance(value, list) and value and all(_is_file(entry) for entry in value):
        return _encoded([bytes(cast(NDArray, entry)) for entry in value[:1]], value, path)
    array = next((value[name] for name in IMAGES if name in value), None) if isinstance(value, dict) else None
    if isinstance(array, list) and array and all(isinstance(entry, np.ndarray) for entry in array):
        array = _stacked(array, path)
    if not isinstance(array, np.ndarray):
        raise BadData(
            f"{path}: expected a dictionary with an array named {' or '.join(IMAGES)}, or a list of PNGs, found "
            f"{_kind(value)}; see `gradgauge data convert -h`"
        )
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or 0 in array.shape:
        raise BadData(f"{path}: expected images (D, H, W, C) of uint8, found {array.dtype} {array.shape}; convert them")
    if array.ndim == 4 and array.shape[3] not in (1, 3) and array.shape[1] not in (1, 3):
        raise BadData(f"{path}: expected 1 or 3 channels, found images of shape {array.shape[1:]}; convert them")
    step = max(1, PIECE // array[0].nbytes)
    return array.shape, lambda: (array[first : first + step] for first in range(0, len(array), step)), value


def _is_file(entry: object) -> bool:
    return isinstance(entry, bytes) or (
        isinstance(entry, np.ndarray) and entry.dtype == np.uint8 and entry.squeeze().ndim == 1
    )


def _encoded(
    first: Sequence[bytes], files: Sequence[object], path: Path
) -> tuple[tuple[int, ...], Callable[[], Iterator[NDArray[np.uint8]]], None]:
    """Images that are files of an image format, each decoded when it is written."""
    channels, height, width = measured(first[0], f"{path}, image 0")
    if height != width:
        raise BadData(f"{path}: expected square images, found {height} x {width}; cut them")

    def pieces() -> Iterator[NDArray[np.uint8]]:
        for place, file in enumerate(files):
            image = decoded(bytes(cast(NDArray, file)), f"{path}, image {place}", channels, height)
            yield np.ascontiguousarray(image.transpose(1, 2, 0))[None]

    return (len(files), height, width, channels), pieces, None


def _stacked(images: list[NDArray], path: Path) -> NDArray:
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise BadData(f"{path}: expected images of one shape, found {len(shapes)} shapes; scale them")
    return np.stack(images)


def _classes(value: object, count: int, path: Path) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """The label of each image from 0, and the names of the classes, none where there are only numbers."""
    if isinstance(value, dict) and isinstance(value.get("class_dict"), dict):
        return _of_rows(value["class_dict"], count, path)
    labels = value
    if isinstance(value, dict):
        labels = next((value[key] for key in ("label_specific", "labels", "targets") if key in value), None)
    array = np.asarray(labels) if isinstance(labels, list | np.ndarray) else np.zeros(0, "V1")
    if array.shape != (count,) or array.dtype.kind not in "iuSU":
        raise BadData(
            f"{path}: expected labels or class_dict for {count} images, found {_kind(value)}; give them with --labels"
        )
    if array.dtype.kind in "SU":
        names, of = np.unique(array.astype(str), return_inverse=True)
        return of.reshape(-1).astype(np.int64), names
    names = value.get("label_specific_str") if isinstance(value, dict) else None
    if isinstance(names, list | np.ndarray) and len(names) > int(array.max()) and int(array.min()) >= 0:
        return array.astype(np.int64), np.asarray([str(name) for name in names])
    return array.astype(np.int64), np.zeros(0, "U1")


def _of_rows(rows: Mapping[object, object], count: int, path: Path) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    of = np.full(count, -1, np.int64)
    names = sorted(str(name) for name in rows)
    for name, entry in rows.items():
        places = np.asarray(entry)
        good = places.ndim == 1 and places.dtype.kind in "iu" and len(places) > 0
        if not good or places.min() < 0 or places.max() >= count or (of[places] >= 0).any():
            raise BadData(f"{path}: expected each image in one class, found class_dict[{str(name)!r:.40}] otherwise")
        of[places] = names.index(str(name))
    if (of < 0).any():
        raise BadData(f"{path}: expected a class for every image, found {int((of < 0).sum())} of {count} without")
    return of, np.asarray(names)


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return f"a dictionary with {', '.join(map(str, value))[:80] or 'nothing'}"
    return f"a {type(value).__name__}"
