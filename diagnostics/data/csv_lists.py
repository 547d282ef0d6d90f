"""Splits given as CSV lists of files, as mini-ImageNet's are (Ravi and Larochelle 2017).

`train.csv`, `val.csv` and `test.csv` have a header with the columns `filename` and `label`. Blanks around a cell and
blank rows do not count: both occur in the copies that circulate.
"""

import csv
import io
from collections import defaultdict
from pathlib import PurePosixPath

from diagnostics.data.bad_data import BadData
from diagnostics.data.class_lists import SPLITS
from diagnostics.data.listing import Listing


def csv_lists(listing: Listing) -> dict[str, dict[str, list[str]]]:
    """The files by split and class; empty where there is no such list. Raises `BadData` for a list that is wrong.

    A file is looked for by its name, in whatever folder it lies.
    """
    lists = [name for name in listing.lists if name.endswith(".csv") and PurePosixPath(name).stem.lower() in SPLITS]
    if not lists:
        return {}
    places: dict[str, str] = {}
    for image in listing.images:
        name = PurePosixPath(image).name
        if name in places:
            raise BadData(f"{image}: expected each name once, found it in {places[name]} too; {lists[0]} names files")
        places[name] = image
    splits: dict[str, dict[str, list[str]]] = {}
    owner: dict[str, str] = {}
    for path in lists:
        classes: dict[str, list[str]] = defaultdict(list)
        for file, label in _rows(listing.container.read(path), path):
            if file not in places:
                raise BadData(f"{path}: expected every image that it lists, found no {file!r:.80}; restore the image")
            if file in owner:
                raise BadData(f"{path}: expected each image once, found {file!r:.80} in {owner[file]} too; mend it")
            owner[file] = path
            classes[label].append(places[file])
        splits[SPLITS[PurePosixPath(path).stem.lower()]] = dict(classes)
    return splits


def _rows(content: bytes, path: str) -> list[tuple[str, str]]:
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadData(f"{path}: expected a CSV with the columns filename and label, found {error}; mend it") from None
    cells = [[cell.strip() for cell in row] for row in rows]
    header = [cell.lower() for cell in cells[0]] if cells else []
    if not {"filename", "label"} <= set(header):
        raise BadData(f"{path}: expected the header filename,label, found {','.join(header)!r:.80}; mend the first row")
    columns = header.index("filename"), header.index("label")
    found = [row for row in cells[1:] if any(row)]
    short = next((row for row in found if len(row) <= max(columns) or not all(row[c] for c in columns)), None)
    if short is not None or not found:
        what = f"the row {','.join(short)!r:.80}" if short else "no rows"
        raise BadData(f"{path}: expected rows with a file name and a label, found {what}; mend it")
    return [(row[columns[0]], row[columns[1]]) for row in found]
