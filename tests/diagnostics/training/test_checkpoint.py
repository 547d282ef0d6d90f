"""Checkpoints: a killed run ends in the same numbers, and what is damaged or of other settings is refused."""

import json
import random
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diagnostics.training.checkpoint import (
    NAME,
    BadCheckpoint,
    OtherCheckpoint,
    read_checkpoint,
    write_checkpoint,
)
from diagnostics.training.progress import Progress
from diagnostics.training.recipe import OUTER_OPTIMIZERS, Recipe
from diagnostics.training.train import train
from tests.diagnostics.training.cases import tiny
from tests.diagnostics.training.test_train import numbers, same

ROOT = Path(__file__).parents[3]
KILLS = {"adam": 2, "sgd": 5}  # a process takes seconds to begin
CHILD = """
import json, sys, torch
from pathlib import Path
from diagnostics.training.recipe import Recipe
from diagnostics.training.train import train
torch.set_num_threads(1)
settings = json.loads(sys.argv[1])
print("begun", flush=True)
train(Recipe(**settings | {"test_steps": tuple(settings["test_steps"])}), Path(sys.argv[2]), every_seconds=0.0)
"""


def long(outer: str = "adam") -> Recipe:
    return tiny(
        meta_iterations=90, probe_every=10, probe_tasks=2, validate_every=20, precision="float32",
        outer_optimizer=outer, schedule="cosine", meta_lr=0.01,
    )  # fmt: skip


@pytest.mark.parametrize(
    "outer", [name if name == "adam" else pytest.param(name, marks=pytest.mark.slow) for name in OUTER_OPTIMIZERS]
)
def test_a_run_that_was_killed_many_times_ends_in_the_same_numbers(outer: str, tmp_path: Path) -> None:
    """Killed (SIGKILL) at random moments of its life, and begun again, until so many kills have met it at work."""
    recipe, path = long(outer), tmp_path / NAME
    undisturbed = train(recipe)
    chance, reached = random.Random(0), []
    while len(reached) < KILLS[outer] and (not reached or reached[-1] < recipe.meta_iterations):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, json.dumps(asdict(recipe)), str(tmp_path)],
            cwd=ROOT, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None and child.stdout.readline() == b"begun\n"
        before, patience = path.stat().st_mtime_ns if path.exists() else 0, time.monotonic() + 60
        while child.poll() is None and (path.stat().st_mtime_ns if path.exists() else 0) == before:
            assert time.monotonic() < patience
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.15))
        child.kill()
        child.stdout.close()
        child.wait()
        kept = read_checkpoint(path, recipe)
        assert kept is not None  # whole, whatever was being written
        reached.append(kept.iteration)
    assert reached == sorted(reached) and 0 < reached[0] < recipe.meta_iterations, reached
    resumed = train(recipe, tmp_path)
    assert same(resumed, undisturbed)
    assert resumed.progress.seconds != undisturbed.progress.seconds  # the clock's readings alone may differ


def test_what_is_read_is_what_was_written_bit_for_bit(tmp_path: Path) -> None:
    recipe = tiny(probe_every=2, probe_tasks=2)
    trained = train(recipe, tmp_path)
    found = read_checkpoint(tmp_path / NAME, recipe)
    assert found is not None
    assert same(replace(trained, progress=found), trained)
    assert found.seconds == trained.progress.seconds and len(numbers(trained)) > 8
    assert [path.name for path in tmp_path.iterdir()] == [NAME]  # nothing temporary is left


def test_a_finished_run_trains_no_further(tmp_path: Path) -> None:
    recipe = tiny()
    first = train(recipe, tmp_path)
    seen: list[Progress] = []
    again = train(recipe, tmp_path, report=seen.append)
    assert not seen and same(first, again)


def test_a_diverged_run_stays_diverged(tmp_path: Path) -> None:
    recipe = tiny(outer_optimizer="sgd", meta_lr=1e6, meta_iterations=30)
    first = train(recipe, tmp_path)
    assert first.progress.diverged_at > 0
    assert train(recipe, tmp_path).progress.diverged_at == first.progress.diverged_at


def test_a_checkpoint_of_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    recipe, path = tiny(meta_iterations=1), tmp_path / NAME
    train(recipe, tmp_path)
    with pytest.raises(OtherCheckpoint, match=r"found one of others \(meta_lr: 0.001 -> 0.01\); choose another --out"):
        read_checkpoint(path, replace(recipe, meta_lr=0.01))
    with pytest.raises(OtherCheckpoint, match="seed: 0 -> 1; tasks: 3 -> 4|tasks: 3 -> 4; seed: 0 -> 1"):
        read_checkpoint(path, replace(recipe, seed=1, tasks=4))
    with pytest.raises(OtherCheckpoint, match="other code"):
        read_checkpoint(path, recipe, "new")
    assert read_checkpoint(path, recipe) is not None


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / NAME, tiny()) is None


def test_any_damage_is_told_in_one_line(tmp_path: Path) -> None:
    """Each byte in turn (in strides, for time) is changed, and the file cut short: none is taken for a checkpoint."""
    recipe, path = tiny(meta_iterations=2), tmp_path / NAME
    train(recipe, tmp_path)
    whole = path.read_bytes()
    taken = 0
    for at in [*range(0, len(whole), len(whole) // 150), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        try:
            # What the archive says of itself beside the numbers (times, attributes) may change, no number may.
            assert numbers_of(read_checkpoint(path, recipe)) == numbers_of(train(recipe).progress)
            taken += 1
        except BadCheckpoint as error:
            assert str(path) in str(error) and "\n" not in str(error) and "delete it" in str(error)
    assert taken < 15
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(BadCheckpoint, match="expected an undamaged checkpoint"):
            read_checkpoint(path, recipe)


def numbers_of(progress: Progress | None) -> tuple[object, ...]:
    assert progress is not None
    return (progress.iteration, progress.theta.tolist(), progress.losses, progress.best.theta.tolist())


def test_a_number_that_was_changed_in_an_archive_that_is_whole_is_noticed(tmp_path: Path) -> None:
    recipe, path = tiny(meta_iterations=1), tmp_path / NAME
    train(recipe, tmp_path)
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["theta"][0] += 1e-12
    with path.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadCheckpoint, match="found numbers that its hash does not fit"):
        read_checkpoint(path, recipe)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(BadCheckpoint, match="expected an undamaged checkpoint, found"):
        train(tiny(), tmp_path)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "boom",))

    objects = np.empty(1, dtype=object)
    objects[0] = Bomb()
    with (tmp_path / NAME).open("wb") as file:
        np.savez(file, facts=objects)
    with pytest.raises(BadCheckpoint):
        read_checkpoint(tmp_path / NAME, tiny())
    assert not (tmp_path / "boom").exists()


def test_an_archive_of_something_else_and_a_folder_are_refused(tmp_path: Path) -> None:
    with (tmp_path / NAME).open("wb") as file:
        np.savez(file, weights=np.zeros(3))
    with pytest.raises(BadCheckpoint):
        read_checkpoint(tmp_path / NAME, tiny())
    (tmp_path / "folder" / NAME).mkdir(parents=True)
    with pytest.raises(BadCheckpoint, match="expected a checkpoint"):
        read_checkpoint(tmp_path / "folder" / NAME, tiny())


def test_the_outer_optimizer_goes_on_from_its_moments(tmp_path: Path) -> None:
    """Without them the next steps of Adam would be others: what the checkpoint keeps is needed."""
    recipe = tiny(meta_iterations=4)
    whole = train(recipe, tmp_path).progress
    kept = read_checkpoint(tmp_path / NAME, recipe)
    assert kept is not None and set(kept.moments) == {"step", "exp_avg", "exp_avg_sq"}
    half = train(replace(recipe, meta_iterations=2)).progress
    write_checkpoint(tmp_path / NAME, recipe, half)
    assert torch.equal(train(recipe, tmp_path).progress.theta, whole.theta)
    half.moments = {}
    write_checkpoint(tmp_path / NAME, recipe, half)
    assert not torch.equal(train(recipe, tmp_path).progress.theta, whole.theta)
