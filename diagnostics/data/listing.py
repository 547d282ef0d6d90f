"""The files of a data set, in a folder or inside zips, by names relative to its root.

Zips are read in place: nothing is ever extracted, and one whose members point outside, are links, are encrypted or are
larger than `LARGEST_FILE` is refused whole, for it was made to deceive or cannot be read.
"""

import functools
import hashlib
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from diagnostics.data.bad_data import BadData

IMAGES = frozenset((".png", ".jpg", ".jpeg", ".gif", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"))
LISTS = frozenset((".csv", ".txt", ".json"))
LARGEST_FILE = 2**27  # bytes of one image or list
DEEPEST = 5  # folders below the root that are looked into, so that a link in a circle comes to an end


@dataclass(frozen=True)
class Folder:
    """Files under a root."""

    root: str

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises `BadData` for one that cannot be read."""
        path = Path(self.root, name)
        try:
            with open(path, "rb") as file:
                content = file.read(LARGEST_FILE + 1)
        except OSError as error:
            raise BadData(f"{path}: expected a file that can be read, found {error.strerror}; restore it") from None
        if len(content) > LARGEST_FILE:
            raise BadData(f"{path}: expected at most {LARGEST_FILE} bytes, found more; leave it out")
        return content

    def full(self, name: str) -> str:
        """What a message calls that file."""
        return str(Path(self.root, name))


@dataclass(frozen=True)
class Zips:
    """Members of zips, which together are one tree."""

    paths: tuple[str, ...]

    def read(self, name: str) -> bytes:
        """The bytes of a member. Raises `BadData` for one that cannot be read."""
        path, archive = self._holding(name)
        try:
            return archive.read(name)
        except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            raise BadData(f"{path}: expected a whole zip, found {name} damaged ({error}); replace it") from None

    def full(self, name: str) -> str:
        """What a message calls that member."""
        return f"{self._holding(name)[0]}: {name}"

    def _holding(self, name: str) -> tuple[str, zipfile.ZipFile]:
        for path in self.paths:
            archive = _archive(path)
            if name in archive.NameToInfo:
                return path, archive
        raise BadData(f"{', '.join(self.paths)}: expected the member {name}, found none; the zip has changed")


@dataclass(frozen=True)
class Listing:
    """What is there: images and lists by name, and a hash of names, sizes and times."""

    container: Folder | Zips
    images: tuple[str, ...]  # sorted; posix paths relative to the root
    lists: tuple[str, ...]
    stamp: str


def listed(path: Path) -> Listing:
    """The files at `path`: a folder, a folder of zips and nothing else, or one zip.

    Raises `BadData` for what is none of these, holds no image, or is a zip that is unsafe.
    """
    if path.is_file() and path.suffix.lower() == ".zip":
        return _of_zips((path,))
    if not path.is_dir():
        found = "a file" if path.is_file() else "nothing there"
        raise BadData(f"{path}: expected a folder, a .zip or a .npz of images, found {found}; see `gradgauge data -h`")
    found = sorted(_walk(path, ""))
    if not any(_suffix(name) in IMAGES for name, _, _ in found):
        zips = tuple(sorted(entry for entry in path.iterdir() if entry.suffix.lower() == ".zip" and entry.is_file()))
        if zips:
            return _of_zips(zips)
        raise BadData(f"{path}: expected images ({', '.join(sorted(IMAGES))}), zips or .npz, found none; unpack them")
    return _listing(Folder(str(path)), found, str(path))


def _listing(container: Folder | Zips, found: list[tuple[str, int, int]], where: str) -> Listing:
    images = tuple(name for name, _, _ in found if _suffix(name) in IMAGES)
    if not images:
        raise BadData(f"{where}: expected images ({', '.join(sorted(IMAGES))}), found none; choose another")
    stamp = hashlib.sha256(where.encode(errors="surrogateescape"))
    for entry in found:
        stamp.update(repr(entry).encode())
    return Listing(container, images, tuple(name for name, _, _ in found if _suffix(name) in LISTS), stamp.hexdigest())


def _walk(root: Path, below: str) -> Iterator[tuple[str, int, int]]:
    """(name, bytes, time) of the images and lists; hidden files and what an archiver of macOS leaves are passed by."""
    try:
        with os.scandir(root / below) as entries:
            for entry in entries:
                name = f"{below}{entry.name}"
                if _hidden(entry.name):
                    continue
                if entry.is_dir():
                    if name.count("/") < DEEPEST:
                        yield from _walk(root, f"{name}/")
                elif _suffix(name) in IMAGES | LISTS and entry.is_file():
                    status = entry.stat()
                    yield name, status.st_size, status.st_mtime_ns
    except OSError as error:
        raise BadData(f"{root / below}: expected a folder that can be read, found {error.strerror}") from None


def _of_zips(paths: tuple[Path, ...]) -> Listing:
    found: list[tuple[str, int, int]] = []
    for path in paths:
        for info in _archive(str(path)).infolist():
            _refuse_unsafe(path, info)
            if not any(_hidden(part) for part in info.filename.split("/")) and _suffix(info.filename) in IMAGES | LISTS:
                found.append((info.filename, info.file_size, info.CRC))
    found.sort()
    for (name, _, _), (following, _, _) in zip(found, found[1:], strict=False):
        if name == following:
            raise BadData(f"{', '.join(map(str, paths))}: expected each name once, found {name} twice; repack it")
    return _listing(Zips(tuple(map(str, paths))), found, ", ".join(map(str, paths)))


def _refuse_unsafe(path: Path, info: zipfile.ZipInfo) -> None:
    name, reason = info.filename, None
    if PurePosixPath(name).is_absolute() or ".." in name.split("/") or "\\" in info.orig_filename or ":" in name[:2]:
        reason = "a path that leads outside"
    elif stat.S_ISLNK(info.external_attr >> 16):
        reason = "a link"
    elif info.flag_bits & 1:
        reason = "an encrypted member"
    elif info.file_size > LARGEST_FILE:
        reason = f"{info.file_size} bytes in one member"
    if reason:
        raise BadData(f"{path}: expected plain files in the zip, found {reason}: {name!r:.80}; repack it")


@functools.lru_cache(maxsize=8)
def _archive(path: str) -> zipfile.ZipFile:
    """The open zip; opening one of Omniglot's takes longer than reading an episode from it."""
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise BadData(f"{path}: expected a zip, found a damaged one ({error}); replace it") from None


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
