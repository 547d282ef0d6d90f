"""Which class and which split every file of a folder or zip belongs to, told from how they lie.

    omniglot        images_background/<alphabet>/<character>/*.png, images_evaluation/..., or the two zips
    csv lists       train.csv, val.csv, test.csv with the columns filename and label; images in images/ or beside them
    split folders   train/<class>/*, val/<class>/*, test/<class>/*
    class folders   <class>/*, or data/<class>/*, with the splits in lists of classes (see `class_lists`), or no splits

They are tried in this order. A split is called `validation` however it is spelt.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from diagnostics.checks import one_of
from diagnostics.data.bad_data import BadData
from diagnostics.data.class_lists import SPLITS, chosen_lists, in_order, in_splits
from diagnostics.data.csv_lists import csv_lists
from diagnostics.data.image_data import shared
from diagnostics.data.listing import Folder, Listing

WHOLE = "all"  # the one split of a data set without splits

Classes = Mapping[str, list[str]]  # class -> its files

# Omniglot's split by Vinyals et al. 2016, as its lists circulate: of the background set, five alphabets validate; of
# the evaluation set, characters from this one on, in the order of names, test; all others train (1028, 172, 423).
VALIDATING = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
FIRST_TESTING = ("Gurmukhi", "character42")
PARTITIONS = ("vinyals", "lake")


@dataclass(frozen=True)
class Assignment:
    """The layout that was recognised, the files of each class of each split, and whether ink is dark on white."""

    layout: str
    splits: Mapping[str, Classes]
    dark_ink: bool = False


def assignment(listing: Listing, partition: str) -> Assignment:
    """The files by split and class; `partition` says which of several ways of splitting is meant ("": the usual).

    It is `vinyals` (the usual) or `lake` for Omniglot, and for class folders the name of a folder in `splits/`, or the
    path of a list. Raises `BadData` where no layout fits or splits share a class, `ValueError` for another partition.
    """
    parts = [tuple(name.split("/")) for name in listing.images]
    if any(part[0] in ("images_background", "images_evaluation") for part in parts):
        found = Assignment("omniglot", _omniglot(parts, one_of("partition", partition or "vinyals", PARTITIONS)), True)
    elif not partition and (from_lists := csv_lists(listing)):
        found = Assignment("csv lists", from_lists)
    elif not partition and all(len(part) == 3 and part[0].lower() in SPLITS for part in parts):
        found = Assignment("split folders", _split_folders(parts))
    else:
        found = Assignment("class folders", _class_folders(listing, parts, partition))
    found = replace(found, splits=in_order(found.splits))
    common = shared({split: tuple(classes) for split, classes in found.splits.items()})
    if common:
        raise BadData(
            f"expected splits that share no class, found {common[0]!r} in {common[1]} and in {common[2]}; "
            "mend the lists or folders"
        )
    return found


def _omniglot(parts: list[tuple[str, ...]], partition: str) -> dict[str, Classes]:
    splits: dict[str, dict[str, list[str]]] = {name: {} for name in ("train", "validation", "test")}
    for part in parts:
        if len(part) != 4 or part[0] not in ("images_background", "images_evaluation"):
            raise BadData(
                "omniglot: expected images_background/<alphabet>/<character>/<image> and images_evaluation/ alike, "
                f"found {'/'.join(part)}; take it out"
            )
        background, alphabet, character = part[0] == "images_background", part[1], part[2]
        if partition == "lake":
            split = "train" if background else "test"
        elif background:
            split = "validation" if alphabet in VALIDATING else "train"
        else:
            split = "test" if (alphabet, character) >= FIRST_TESTING else "train"
        splits[split].setdefault(f"{alphabet}/{character}", []).append("/".join(part))
    return {name: classes for name, classes in splits.items() if classes}


def _split_folders(parts: list[tuple[str, ...]]) -> dict[str, Classes]:
    splits: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for split, name, file in parts:
        splits[SPLITS[split.lower()]].setdefault(name, []).append(f"{split}/{name}/{file}")
    return dict(splits)


def _class_folders(listing: Listing, parts: list[tuple[str, ...]], partition: str) -> dict[str, Classes]:
    below = 1 if all(part[0] in ("data", "images") and len(part) == 3 for part in parts) else 0
    wrong = next((part for part in parts if len(part) != below + 2), None)
    if wrong is not None:
        raise BadData(
            "expected images as <class>/<image>, <split>/<class>/<image>, Omniglot's folders, or with train.csv, "
            f"val.csv and test.csv beside them; found {'/'.join(wrong)}; choose the folder that holds the classes"
        )
    classes: dict[str, list[str]] = defaultdict(list)
    for part in parts:
        classes[part[below]].append("/".join(part))
    lists = chosen_lists(listing, partition)
    if not lists:
        return {WHOLE: dict(classes)}
    where = listing.container.root if isinstance(listing.container, Folder) else listing.container.paths[0]
    return {**in_splits(lists, dict(classes), Path(where))}
