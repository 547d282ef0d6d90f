"""Lists that say which class is in which split.

A list is a text file `train.txt`, `val.txt`, `test.txt`, `base.txt` or `novel.txt` with a class a line, as CIFAR-FS has
them in `splits/bertinetto/`; or one JSON file that maps splits to classes, as the low-shot split of ImageNet-1k is
given (Hariharan and Girshick 2017: `base_classes`, 389, and `novel_classes`, 611). There classes may be numbers, which
count the folders from 0 in the order of their names.
"""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TypeVar

from diagnostics.checks import one_of
from diagnostics.data.bad_data import BadData
from diagnostics.data.listing import Folder, Listing

T = TypeVar("T")

SPLITS = {
    "train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test",
    "base": "base", "novel": "novel", "base_classes": "base", "novel_classes": "novel",
}  # fmt: skip

ORDER = ("train", "validation", "test", "base", "novel")  # in which splits are told and stored

Lists = dict[str, list[str | int]]  # split -> classes, by name or by number


def in_order(splits: Mapping[str, T]) -> dict[str, T]:
    """The splits in their usual order, others after them by name."""
    return {name: splits[name] for name in sorted(splits, key=lambda name: (name not in ORDER, _place(name), name))}


def chosen_lists(listing: Listing, partition: str) -> Lists:
    """The lists that `partition` names: a folder in `splits/`, or a path; "" is the only folder, or the root itself.

    No lists at all give no splits. Raises `BadData` for a list that cannot be read, `ValueError` for another partition.
    """
    found = [PurePosixPath(name) for name in listing.lists]
    ways = {path.parts[1]: path.parent for path in found if len(path.parts) == 3 and path.parts[0] == "splits"}
    if partition and partition not in ways and Path(partition).exists():
        return _from_path(Path(partition))
    if partition or len(ways) > 1:
        known = (*ways, "the path of a list")
        folder = ways[one_of("partition", partition, known)]
    else:
        folder = next(iter(ways.values()), PurePosixPath("."))
    texts = [path for path in found if path.parent == folder and path.suffix == ".txt" and path.stem.lower() in SPLITS]
    return {SPLITS[path.stem.lower()]: _lines(listing.container.read(str(path)), str(path)) for path in texts}


def in_splits(lists: Lists, classes: Mapping[str, list[str]], where: Path) -> dict[str, dict[str, list[str]]]:
    """The files of the classes that the lists name; those of other classes are left out. Raises `BadData`."""
    ordered = sorted(classes)
    splits: dict[str, dict[str, list[str]]] = {}
    for split, wanted in lists.items():
        splits[split] = {}
        for entry in wanted:
            if isinstance(entry, int) and 0 <= entry < len(ordered):
                entry = ordered[entry]
            if not isinstance(entry, str) or entry not in classes:
                raise BadData(
                    f"{where}: expected a folder of images for every class of the list {split}, found none for "
                    f"{entry!r:.80} among {len(ordered)} classes; mend the list or add the class"
                )
            splits[split][entry] = classes[entry]
        if not splits[split]:
            raise BadData(f"{where}: expected classes in the list {split}, found none; mend or remove the list")
    return splits


def _from_path(path: Path) -> Lists:
    if path.is_dir():
        files = sorted(file for file in path.glob("*.txt") if file.stem.lower() in SPLITS)
        lists = {SPLITS[file.stem.lower()]: _lines(Folder(str(path)).read(file.name), str(file)) for file in files}
    else:
        lists = _from_json(Folder(str(path.parent)).read(path.name), str(path))
    if not lists:
        raise BadData(f"{path}: expected lists named {', '.join(SPLITS)}, found none; see `gradgauge data info -h`")
    return lists


def _from_json(content: bytes, name: str) -> Lists:
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadData(f"{name}: expected JSON with a list of classes for each split, found {error}") from None
    lists = {SPLITS[key]: entry for key, entry in value.items() if key in SPLITS} if isinstance(value, dict) else {}
    for split, entries in lists.items():
        if not isinstance(entries, list) or any(type(entry) not in (str, int) for entry in entries):
            raise BadData(f"{name}: expected names or numbers of classes in {split}, found something else; mend it")
    return lists


def _place(name: str) -> int:
    return ORDER.index(name) if name in ORDER else 0


def _lines(content: bytes, name: str) -> list[str | int]:
    try:
        lines = [line.strip() for line in content.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise BadData(f"{name}: expected a text file with a class a line, found {error}; save it as UTF-8") from None
    return [line for line in lines if line]
