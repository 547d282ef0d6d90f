"""Checkpoints: a run's progress in one file that is there whole or not at all, and is believed only if undamaged.

The file is a NumPy archive (.npz) of plain arrays, read without pickle. Its member `facts` is JSON: the settings that
the progress belongs to, and a hash over all other members. What is read back is bit for bit what was written.
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diagnostics.files import write_whole
from diagnostics.training.progress import PROBE_COLUMNS, Best, Progress, table
from diagnostics.training.recipe import Recipe

VERSION = 1
NAME = "checkpoint.npz"
MOMENT = "moment."  # before the names of what the outer optimizer remembers
LARGEST = 1 << 34  # bytes: no checkpoint of a network that this instrument trains comes near
# What NumPy and zipfile raise for archives that are none, or damaged in one place or another.
DAMAGE = (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error, NotImplementedError)
RECORDS = {"losses": np.float64, "norms": np.float64, "warned": np.int64, "seconds": np.float64}
TABLES = {"validations": 4, "probes": len(PROBE_COLUMNS)}  # name -> columns


class BadCheckpoint(ValueError):
    """A checkpoint that is damaged, or is none: what was expected, found, and what to do, in one line."""


class OtherCheckpoint(ValueError):
    """A checkpoint of other settings, which are named."""


def write_checkpoint(path: Path, recipe: Recipe, progress: Progress, code: str = "") -> None:
    """Put the progress in the place of an earlier one; a process that is killed meanwhile leaves that one whole.

    `code` stands for the code that made it, where someone cares.
    """
    arrays = _arrays(progress)
    facts = {"version": VERSION, "settings": _plain(recipe), "code": code, "content": _content(arrays)}
    text = np.frombuffer(json.dumps(facts, sort_keys=True).encode(), np.uint8)
    whole = io.BytesIO()
    np.savez(whole, allow_pickle=False, facts=text, **arrays)
    write_whole(path, whole.getvalue())


def read_checkpoint(path: Path, recipe: Recipe, code: str = "") -> Progress | None:
    """The progress kept at `path`, on the CPU; None where there is none.

    Raises `BadCheckpoint` for a file that is damaged or no checkpoint, and `OtherCheckpoint`, naming what differs, for
    one of another recipe or other code.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path.stat().st_size} bytes")
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{path}: expected a checkpoint, found {error}; delete it to begin anew") from None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        facts = json.loads(arrays.pop("facts").tobytes())
        if facts["version"] != VERSION:
            raise ValueError(f"version {facts['version']!r}")
        if facts["content"] != _content(arrays):
            raise ValueError("numbers that its hash does not fit")
        kept = {"settings": dict(facts["settings"]), "code": str(facts["code"])}
    except DAMAGE as error:
        said = (str(error).splitlines() or [""])[0] or type(error).__name__
        advice = "delete it to begin anew"
        raise BadCheckpoint(f"{path}: expected an undamaged checkpoint, found {said}; {advice}") from None
    changes = _differences(kept, {"settings": _plain(recipe), "code": code})
    if changes:
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise OtherCheckpoint(
            f"{path}: expected a checkpoint of these settings, found one of others ({'; '.join(changes[:3])}{more}); "
            "choose another --out"
        )
    try:
        return _progress(arrays)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise BadCheckpoint(f"{path}: expected a checkpoint, found {error}; delete it to begin anew") from None


def _arrays(progress: Progress) -> dict[str, NDArray[Any]]:
    best = progress.best
    arrays: dict[str, NDArray[Any]] = {
        "iteration": np.array([progress.iteration, best.iteration, progress.diverged_at], np.int64),
        "score": np.array(best.score, np.float64),
        "theta": progress.theta.detach().cpu().numpy(),
        "best": best.theta.cpu().numpy(),
        **{f"{MOMENT}{name}": value.cpu().numpy() for name, value in progress.moments.items()},
        **{name: np.array(getattr(progress, name), kind) for name, kind in RECORDS.items()},
    }
    return arrays | {name: table(getattr(progress, name), columns) for name, columns in TABLES.items()}


def _progress(arrays: Mapping[str, NDArray[Any]]) -> Progress:
    iteration, best_iteration, diverged_at = arrays["iteration"].tolist()
    moments = {name: value for name, value in arrays.items() if name.startswith(MOMENT)}
    records: dict[str, Any] = {name: arrays[name].tolist() for name in RECORDS}
    records |= {name: [tuple(row) for row in arrays[name].tolist()] for name in TABLES}
    return Progress(
        iteration=iteration,
        theta=torch.from_numpy(arrays["theta"]),
        moments={name.removeprefix(MOMENT): torch.from_numpy(value) for name, value in moments.items()},
        best=Best(torch.from_numpy(arrays["best"]), best_iteration, float(arrays["score"])),
        diverged_at=diverged_at,
        **records,
    )


def _plain(recipe: Recipe) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(recipe)))


def _content(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _differences(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    old, new = ({"code": side["code"], **side["settings"]} for side in (kept, wanted))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [
        "other code" if name == "code" else f"{name}: {json.dumps(old.get(name))} -> {json.dumps(new.get(name))}"
        for name in names
    ]
