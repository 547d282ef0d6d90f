"""Tiny data sets in the layouts of the real ones, made by the tests."""

import csv
import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ALPHABETS = {  # set -> alphabet -> characters; every split of Vinyals et al. has some
    "images_background": {"Alphabet_of_the_Magi": 3, "Armenian": 2},
    "images_evaluation": {"Angelic": 2, "Tibetan": 2},
}
DRAWINGS = 4


def pixels(seed: int, *shape: int) -> NDArray[np.uint8]:
    """An image of its own for every seed."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def drawing(seed: int) -> NDArray[np.bool_]:
    """Dark ink on white, 105 x 105, as Omniglot's: True where there is paper."""
    paper = np.ones((105, 105), bool)
    for x, y in np.random.default_rng(seed).integers(10, 80, (6, 2)):
        paper[y : y + 3, x : x + 15] = False
    return paper


def png(image: NDArray) -> bytes:
    """The image (H, W) or (H, W, 3) as a PNG; truth values as one of a single bit."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def omniglot_files() -> Iterator[tuple[str, bytes]]:
    seed = 0
    for half, alphabets in ALPHABETS.items():
        for alphabet, characters in alphabets.items():
            for character in range(1, characters + 1):
                for drawer in range(1, DRAWINGS + 1):
                    name = f"{half}/{alphabet}/character{character:02d}/{seed // DRAWINGS + 1:04d}_{drawer:02d}.png"
                    yield name, png(drawing(seed))
                    seed += 1


def omniglot(root: Path) -> Path:
    for name, content in omniglot_files():
        write(root / name, content)
    return root


def omniglot_zips(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for half in ALPHABETS:
        with zipfile.ZipFile(root / f"{half}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{half}/", b"")
            archive.writestr(f"__MACOSX/{half}/._0001_01.png", b"not an image")
            for name, content in omniglot_files():
                if name.startswith(half):
                    archive.writestr(name, content)
    return root


def class_folders(
    root: Path, classes: dict[str, int], side: int = 20, colour: bool = True, kind: str = "PNG", first: int = 0
) -> Path:
    """`<class>/<image>`; the images go on from the seed `first`."""
    for name, count in classes.items():
        for place in range(count):
            image = pixels(first, *((side, side, 3) if colour else (side, side)))
            first += 1
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / name / f"{place:05d}.{'png' if kind == 'PNG' else 'jpg'}", kind)
    return root


def mini_imagenet(root: Path, header: str = "filename, label", blank: str = "\r\n") -> Path:
    """One folder of images and three lists; the header has a space, the last row is blank."""
    splits = {"train": ("n01", "n02", "n03"), "val": ("n04", "n05"), "test": ("n06", "n07")}
    seed = 0
    for split, classes in splits.items():
        file = io.StringIO()
        rows = csv.writer(file)
        for name in classes:
            for place in range(DRAWINGS):
                image = f"{name}{place:012d}.jpg"
                (root / "images").mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels(seed, 84, 84, 3)).save(root / "images" / image, "JPEG", quality=95)
                rows.writerow([image, name])
                seed += 1
        write(root / f"{split}.csv", (f"{header}\r\n{file.getvalue()}{blank}").encode())
    return root


def cifar_fs(root: Path) -> Path:
    """`data/<class>/<image>` and the lists of classes in `splits/bertinetto/`."""
    splits = {"train": ("apple", "bear", "can"), "val": ("dolphin", "elephant"), "test": ("fox", "girl")}
    class_folders(root / "data", {name: DRAWINGS for names in splits.values() for name in names}, side=32)
    for split, names in splits.items():
        write(root / "splits" / "bertinetto" / f"{split}.txt", ("\n".join(names) + "\n\n").encode())
    return root


def low_shot(root: Path) -> tuple[Path, Path]:
    """Class folders of photographs in many sizes, and the list of base and novel classes by number."""
    sizes = [(40, 30), (25, 50), (33, 33), (90, 120), (84, 84), (20, 60)]
    for place, (width, height) in enumerate(sizes):
        for image in range(DRAWINGS):
            path = root / f"n{place:08d}" / f"n{place:08d}_{image}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(10 * place + image, height, width, 3)).save(path, "JPEG")
    lists = root.parent / "label_idx.json"
    names = [f"class {place}" for place in range(len(sizes))]
    write(
        lists,
        (
            '{"label_names": ["' + '", "'.join(names) + '"], "base_classes": [0, 2, 3, 5], "novel_classes": [1, 4], '
            '"base_classes_1": [0, 2], "novel_classes_1": [1]}'
        ).encode(),
    )
    return root, lists


def images_of(classes: int, each: int, side: int = 20, first: int = 0) -> NDArray[np.uint8]:
    return np.stack([pixels(first + place, side, side, 3) for place in range(classes * each)])


def mini_imagenet_pickle(
    path: Path, protocol: int = 2, first: int = 0, names: tuple[str, ...] = ("n01", "n02")
) -> Path:
    """A split as Ren et al. cache it."""
    images = images_of(len(names), DRAWINGS, first=first)
    rows = {name: list(range(DRAWINGS * place, DRAWINGS * (place + 1))) for place, name in enumerate(names)}
    write(path, pickle.dumps({"image_data": images, "class_dict": rows}, protocol=protocol))
    return path


def python2(value: object) -> bytes:
    """What Python 2 pickled: text as byte strings, numpy by the module names of its time; protocol 2.

    Written opcode by opcode, since Python 3 cannot write byte strings so.
    """
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: object) -> bytes:
    if isinstance(value, str | bytes):
        text = value.encode() if isinstance(value, str) else value
        return b"T" + len(text).to_bytes(4, "little") + text
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return b"J" + value.to_bytes(4, "little", signed=True)
    if value is None:
        return b"N"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_python2, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(key) + _python2(entry) for key, entry in value.items()) + b"u"
    assert isinstance(value, np.ndarray)
    kind = (
        b"cnumpy\ndtype\n" + _python2((value.dtype.str[1:], 0, 1)) + b"R"
        + _python2((3, value.dtype.str[0], None, None, None, -1, -1, 0)) + b"b"
    )  # fmt: skip
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + _python2((0,)) + _python2("b") + b"tR("
        + _python2(1) + _python2(value.shape) + kind + _python2(False) + _python2(value.tobytes()) + b"tb"
    )  # fmt: skip
