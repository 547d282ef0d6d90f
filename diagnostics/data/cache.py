"""Arrays kept on disk, that are believed only if every byte is as it was written.

An entry is `<name>.npz` (no pickle) and `<name>.npz.sha256` beside it, in the format of sha256sum. The key says what
the arrays were made from. Whatever is missing, truncated, altered or of another key reads as absent.
"""

import hashlib
import io
import logging
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diagnostics.files import write_whole

_log = logging.getLogger(__name__)
_KEY = "key"


def folder() -> Path:
    """Where caches live: $GRADGAUGE_CACHE, else $XDG_CACHE_HOME/gradgauge, else ~/.cache/gradgauge."""
    chosen, shared = os.environ.get("GRADGAUGE_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    if chosen:
        return Path(chosen)
    # The XDG specification has relative paths ignored.
    return (Path(shared) if os.path.isabs(shared) else Path.home() / ".cache") / "gradgauge"


def read(path: Path, key: str) -> dict[str, NDArray] | None:
    """The arrays of the entry at `path` (an .npz), or None unless it is whole and was written under `key`."""
    try:
        data = path.read_bytes()
        if _sidecar(path).read_text(encoding="ascii").split()[:1] != [hashlib.sha256(data).hexdigest()]:
            return None
        with np.load(io.BytesIO(data), allow_pickle=False) as entry:
            arrays = {name: entry[name] for name in entry.files}
        return arrays if str(arrays.pop(_KEY)) == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def write(path: Path, key: str, arrays: Mapping[str, NDArray]) -> None:
    """Keep the arrays (none of them named "key") at `path`; where that is impossible, log a warning and go on.

    Each file appears whole or not at all. Processes may race: equal arrays make equal bytes, and a reader that meets
    the files of two different writers sees a sum that does not fit, hence no entry.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in {_KEY: np.asarray(key), **arrays}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    data = buffer.getvalue()
    try:
        write_whole(path, data)
        write_whole(_sidecar(path), f"{hashlib.sha256(data).hexdigest()}  {path.name}\n".encode("ascii"))
    except OSError as error:
        advice = "it will be made again next time; set GRADGAUGE_CACHE to a folder that can be written"
        _log.warning("cannot keep %s (%s): %s", path, error, advice)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
