"""What `gradgauge train` leaves in its folder: the checkpoint, three tables, the manifest; and what it says at its end.

The tables are rows of the one table (`analyses.table`), without the columns that are empty throughout.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analyses import manifest
from analyses.folder import as_csv, make_writable, write_manifest
from analyses.lock import locked
from analyses.settings import fingerprint
from analyses.table import tidy
from analyses.training import rows_of
from diagnostics.files import write_whole
from diagnostics.protocols.intervals import interval
from diagnostics.training.progress import Progress
from diagnostics.training.recipe import Recipe, parts
from diagnostics.training.train import Trained, train

FILES = {"curve": ("train", "validation", "end"), "probe": ("probe",), "test": ("test",)}


def folder_name(recipe: Recipe) -> str:
    """A folder name that is the same for the same settings and code, so that a run begun again completes itself."""
    return f"train-{fingerprint({'settings': asdict(recipe), 'source': manifest.source()['sha256']})[:10]}"


def train_into(folder: Path, recipe: Recipe, report: Callable[[Progress], None], seconds: float) -> Trained:
    """Train, or complete the training that the folder holds, and write what came of it.

    A checkpoint is written every `seconds`. Raises `ValueError` for settings that mean nothing and for a folder of
    other settings or code, `BadCheckpoint`, `Locked`, and `OSError` where the folder cannot be written.
    """
    parts(recipe)
    make_writable(folder)
    begun, source = manifest.now(), manifest.source()
    with locked(folder):
        run = train(recipe, folder, report, seconds, code=source["sha256"])
        table = tidy(rows_of(run)).assign(analysis="training")
        for name, stages in FILES.items():
            write_whole(folder / f"{name}.csv", as_csv(_filled(table.loc[table["stage"].isin(stages)])))
        write_manifest(folder, facts(run, begun, source))
    return run


def _filled(table: pd.DataFrame) -> pd.DataFrame:
    return table.dropna(axis="columns", how="all")


def facts(run: Trained, begun: str, source: dict[str, Any]) -> dict[str, Any]:
    """What a reader needs to judge or repeat the run; `begun` is when this process did, not the first one."""
    return {
        "gradgauge": metadata.version("gradgauge"),
        "command": manifest.command(),
        "settings": asdict(run.recipe),
        "begun": begun,
        "ended": manifest.now(),
        "training seconds": round(run.progress.spent, 1),
        "iterations": run.progress.iteration,
        "diverged at": run.progress.diverged_at if run.progress.diverged_at >= 0 else None,
        "best iteration": run.progress.best.iteration,
        "transductive": run.transductive,
        "source": source,
        "numerics": manifest.numerics((run.recipe.device,)),
        "machine": manifest.machine(),
        "packages": manifest.packages(),
        "data": manifest.image_sets({run.recipe.problem}),
    }


def summary(run: Trained) -> Iterator[str]:
    """The test in words: a line for each number of inner steps, with a 95% interval over the tasks of this one seed."""
    classes = bool(run.trained.accuracy.isfinite().all())
    for place, steps in enumerate(run.trained.steps):
        told = [f"loss {_told(run.trained.loss[place])} (untrained {float(run.untrained.loss[place].mean()):.4g})"]
        if classes:
            floor = f"untrained {float(run.untrained.accuracy[place].mean()):.1%}"
            if run.nearest is not None:
                floor += f", nearest neighbour {float(run.nearest.mean()):.1%}"
            told.append(f"accuracy {_told(run.trained.accuracy[place], percent=True)} ({floor})")
        lost = int((run.trained.outcome[place] != 0).sum())
        told += [f"{lost} tasks diverged"] if lost else []
        yield f"after {steps} inner steps: {', '.join(told)}"


def _told(values: torch.Tensor, *, percent: bool = False) -> str:
    half = float(interval(values.unsqueeze(0)).episodes_half_width)
    mean = float(values.mean())
    return f"{mean:.1%} +- {half:.1%}" if percent else f"{mean:.4g} +- {half:.2g}"
