"""Processes killed at random moments, in a few of the rounds of which `benchmarks.kill_rounds` plays a hundred."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analyses.store import Store
from benchmarks import kill_rounds
from benchmarks.kill_rounds import ROOT, VICTIMS, Kept, in_store
from tests.analyses.test_store import begun, by_hand

ROUNDS = 6
# Whose rounds kill two of each kind; which one is drawn first in a round, as there.
SEED = next(
    seed
    for seed in range(1000)
    if sorted(random.Random(f"{seed} {number}").choice(VICTIMS) for number in range(ROUNDS)) == sorted(VICTIMS * 2)
)


@pytest.mark.slow
def test_what_is_killed_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    """No acknowledged cell is lost, none is there twice, and the table of a run that ended is an undisturbed run's."""
    command = [sys.executable, "-m", "benchmarks.kill_rounds", "--rounds", str(ROUNDS), "--cells", "16",
               "--longest", "12", "--seed", str(SEED), "--folder", str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rounds = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert len(rounds) == ROUNDS and {each["victim"] for each in rounds} == set(VICTIMS)
    assert not any(each["lost"] for each in rounds) and all(each["same"] for each in rounds)
    assert sum(each["killed"] for each in rounds) >= 3  # a process may have ended before its time
    assert any(each["finished"] for each in rounds) and any(each["acknowledged"] for each in rounds)


def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **found: object) -> str | int | None:
    """How the script ends when its one round found this."""
    fine = {"number": 0, "engine": "inline", "victim": "driver", "after": 1.0, "killed": True, "acknowledged": 3,
            "lost": 0, "exit_code": -9, "finished": False, "same": True}  # fmt: skip
    (tmp_path / "rounds.jsonl").write_text(json.dumps(fine | found) + "\n")
    (tmp_path / "whole" / "tables").mkdir(parents=True, exist_ok=True)
    (tmp_path / "whole" / "tables" / "steps.csv").write_text("")
    monkeypatch.setattr(kill_rounds.subprocess, "run", lambda *arguments, **options: None)
    monkeypatch.setattr(sys, "argv", ["kill_rounds", "--rounds", "1", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        kill_rounds.main()
    return ended.value.code


def test_the_script_ends_with_1_where_anything_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert played(tmp_path, monkeypatch) == 0
    assert played(tmp_path, monkeypatch, exit_code=0, finished=True) == 0
    for wrong in ({"lost": 1}, {"same": False, "exit_code": 0, "finished": True}, {"exit_code": 3}):
        assert played(tmp_path, monkeypatch, **wrong) == 1, wrong


def test_a_cell_that_is_there_twice_is_seen(tmp_path: Path) -> None:
    """Under two keys, as a driver would keep it that takes a finished cell for another one."""
    from analyses.analysis import Cell

    store = begun(tmp_path)
    spec = {"problem": "quadratic", "precision": "float32", "seed": 1}
    store.put(Cell("grid", spec), [{"x": 1.0}], 0.5)
    assert in_store(tmp_path) == {"quadratic, float32, seed 1"}
    shutil.copy(store.path, tmp_path / "before")
    store.put(Cell("grid", spec | {"tasks": 2}), [{"x": 1.0}], 0.5)
    with pytest.raises(Kept, match="twice"):
        in_store(tmp_path)
    shutil.copy(tmp_path / "before", store.path)
    by_hand(store, "delete from cell")
    with pytest.raises(ValueError, match="0 cells where 1 were kept"):
        in_store(tmp_path)
    assert Store(tmp_path / "nowhere").identity() is None and in_store(tmp_path / "nowhere") == set()
