"""Rows as bytes and back, exactly: compressed JSON, column by column.

JSON as Python writes it holds every float in the digits that give it back (-0.0, subnormals and infinities included; a
NaN comes back as a NaN), and integers in full. Values are text, numbers, truth values and None, and names are text.
"""

import json
import zlib
from hashlib import sha256

from analyses.analysis import Rows


def pack(rows: Rows) -> bytes:
    """The rows as bytes; `TypeError` for a value that JSON has no word for."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    without = {name: [i for i, row in enumerate(rows) if name not in row] for name in names}
    value = {"count": len(rows), "columns": columns, "without": {name: at for name, at in without.items() if at}}
    return zlib.compress(json.dumps(value).encode())


def unpack(body: bytes) -> Rows:
    """The rows that `pack` was given."""
    value = json.loads(zlib.decompress(body))
    names = list(value["columns"])
    rows = [dict(zip(names, of_row, strict=True)) for of_row in zip(*value["columns"].values(), strict=True)]
    rows = rows or [{} for _ in range(value["count"])]
    for name, at in value["without"].items():
        for i in at:
            del rows[i][name]
    return rows


def seal(*fields: object) -> str:
    """One hash over all fields, their kinds and where each ends included; two lists that differ have two hashes."""
    digest = sha256()
    for field in fields:
        part = field if isinstance(field, bytes) else repr(field).encode()
        digest.update(f"{type(field).__name__} {len(part)} ".encode() + part)
    return digest.hexdigest()
