"""A run measured again: the sample, the verdict, the exit codes, and that the run stays as it was."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

import cli
from analyses import run as runs
from analyses.check import check, chosen, measure_again, other_seeds
from analyses.engine import Inline
from analyses.finished import read_run
from analyses.settings import resolve
from analyses.store import VERSION
from analyses.tolerances import COMPARED

TINY = ("--problem", "quadratic", "--steps", "0,2", "--iterations", "1", "--tasks", "2", "--seed", "0,1",
        "--precision", "float32,float64", "--reference-seconds", "0")  # fmt: skip
pytestmark = pytest.mark.usefixtures("one_kind")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the analysis `cg`, whose table shows the finest arithmetic only."""
    folder = tmp_path_factory.mktemp("run") / "a run"
    done = run("run", "cg", *TINY, "--out", folder)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def table_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "tables" / "cg.csv", dtype=str, keep_default_na=False)


def edit(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(table_of(folder)).to_csv(folder / "tables" / "cg.csv", index=False)


def edit_manifest(folder: Path, change: Callable[[dict], object]) -> None:
    facts = json.loads((folder / "manifest.json").read_text())
    change(facts)
    (folder / "manifest.json").write_text(json.dumps(facts))


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()
    }


def test_a_run_is_reproduced_bit_for_bit_and_left_as_it_was(finished: Path) -> None:
    before = state(finished)
    done = run("check", finished)
    assert done.exit_code == 0, done.output
    assert "level: bitwise (same machine, numerics, libraries, settings and code)" in done.stdout
    assert "reproduced at the level bitwise: 4 of 4 cells" in done.stdout
    assert "[4/4]" in done.stderr
    assert "for your checklist:" in done.stdout and "seeds: 0, 1; tasks per seed: 2" in done.stdout
    assert state(finished) == before


def test_a_sample_is_drawn_by_its_seed_and_shown_as_the_whole_run_shows_it(finished: Path) -> None:
    """The table `cg` shows float64 alone, and so nothing of a cell in float32, whichever cells are drawn."""
    shown = len(table_of(finished)) // 2  # rows of one seed
    for seed, rows in ((0, shown), (1, shown), (2, 0)):
        done = run("check", finished, "--sample", "1", "--sample-seed", str(seed))
        assert done.exit_code == (0 if rows else 2), done.output
        if rows:
            assert f"1 of 4 cells drawn with seed {seed}" in done.stdout
            assert done.stdout.splitlines()[1].split() == ["cg", "all", "columns", str(rows * len(COMPARED) + rows)]


def test_the_sample_is_the_same_again_and_never_parts_twins() -> None:
    settings = resolve(("steps", "precision", "rescaling"), "quick", {}, {})
    cells = chosen(settings)
    assert chosen(settings, 3, seed=5) == chosen(settings, 3, seed=5)
    assert len({tuple(cell.key for cell in chosen(settings, 3, seed)) for seed in range(8)}) > 4
    assert chosen(settings, len(cells) + 1) == cells
    with pytest.raises(ValueError, match="expected at least 1 cell, found 0"):
        chosen(settings, 0)


def test_other_seeds_are_as_many_and_all_new() -> None:
    trained = {
        "problems": ["sinusoid"],
        "methods": ["maml"],
        "steps": [1],
        "seeds": [0, 7],
        "tasks": 2,
        "meta_iterations": 3,
    }
    settings = resolve(("steps", "training"), "quick", {"training": [trained], "generalized": [trained]}, {})
    assert settings.trainings and settings.generalized
    old = {seed for table in settings.tables() for seed in table.seeds}
    moved = other_seeds(settings)
    assert not old & {seed for table in moved.tables() for seed in table.seeds}
    assert [len(t.seeds) for t in moved.tables()] == [len(t.seeds) for t in settings.tables()]


def test_a_changed_number_ends_with_1_and_is_named(copy: Path) -> None:
    edit(copy, lambda t: t.assign(norm_ratio=["1.5", *t.norm_ratio[1:]]))
    for level in ("bitwise", "numeric"):
        done = run("check", copy, "--level", level)
        assert done.exit_code == 1
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("outside:")]
        assert line.startswith("outside: cg norm_ratio: quadratic, task 0, seed 0")
        assert "expected 1.5, found " in line
        assert f"NOT reproduced at the level {level}" in done.stdout


def test_code_or_a_machine_that_differs_is_named_and_compared_in_numbers(copy: Path) -> None:
    edit_manifest(copy, lambda facts: facts["source"].update(sha256="0" * 64))
    done = run("check", copy, "--sample", "2")
    assert done.exit_code == 0, done.output
    assert "at the level numeric (not measured alike: source:" in done.stderr
    edit_manifest(copy, lambda facts: facts["numerics"].update({"cpu capability": "NEON"}))
    assert 'numerics.cpu capability: "NEON"' in run("check", copy, "--sample", "2").stderr


def test_a_cell_that_was_not_finished_is_missing_and_no_failure(copy: Path) -> None:
    edit(copy, lambda t: t[t.seed != "1"])
    done = run("check", copy)
    assert done.exit_code == 0, done.output
    gone = (table_of(copy).seed == "0").sum()
    assert any(line.split()[:2] == ["cg", "rows"] and str(gone) in line.split() for line in done.stdout.splitlines())


def test_a_row_that_was_taken_out_is_a_failure(copy: Path) -> None:
    edit(copy, lambda t: t.drop(index=3))
    done = run("check", copy)
    assert done.exit_code == 1
    assert "outside: cg rows:" in done.stdout and "not in the run" in done.stdout


def test_a_row_that_the_cell_does_not_give_is_a_failure(copy: Path) -> None:
    edit(copy, lambda t: pd.concat([t, t.iloc[[0]].assign(task="7")], ignore_index=True))
    done = run("check", copy)
    assert done.exit_code == 1
    assert "outside: cg rows: quadratic, task 7, seed 0" in done.stdout and "not in the comparison" in done.stdout


def test_a_column_that_was_taken_out_is_a_failure_on_this_machine(copy: Path) -> None:
    edit(copy, lambda t: t.drop(columns="cosine"))
    done = run("check", copy)
    assert done.exit_code == 1
    assert "outside: cg cosine: the column is not there" in done.stdout
    assert run("check", copy, "--level", "numeric").exit_code == 0


def test_an_interrupted_run_is_checked_from_its_store(copy: Path) -> None:
    for path in [copy / "manifest.json", *(copy / "tables").iterdir()]:
        path.unlink()
    done = run("check", copy)
    assert done.exit_code == 0, done.output
    assert "no manifest tells where one of them was measured" in done.stdout
    assert [path.name for path in (copy / "tables").iterdir()] == []


def test_the_store_of_an_older_version_is_left_aside_and_of_a_newer_refused(copy: Path) -> None:
    for version, code in ((VERSION - 1, 0), (VERSION + 1, 3)):
        with closing(sqlite3.connect(copy / "run.sqlite")) as database:
            database.execute(f"pragma user_version = {version}")
        assert run("check", copy, "--sample", "2").exit_code == code


@pytest.mark.slow
def test_other_seeds_agree_in_distribution(tmp_path: Path) -> None:
    asked = [*TINY[: TINY.index("--tasks")], "--tasks", "12", "--seed", "0,1", "--precision", "float64"]
    assert run("run", "steps", *asked, "--out", tmp_path).exit_code == 0
    done = run("check", tmp_path, "--level", "statistical")
    assert done.exit_code == 0, done.output
    assert "reproduced at the level statistical: 2 of 2 cells" in done.stdout


def test_too_few_tasks_are_no_agreement(finished: Path) -> None:
    done = run("check", finished, "--level", "statistical")
    assert done.exit_code == 2 and "found none" in done.stderr


def test_runs_are_compared_with_one_another(finished: Path, copy: Path, tmp_path: Path) -> None:
    assert "reproduced at the level bitwise" in run("compare", finished, copy).stdout
    edit(copy, lambda t: t.assign(outcome=["diverged", *t.outcome[1:]]))
    done = run("compare", finished, copy)
    assert done.exit_code == 1 and "outside: cg outcome" in done.stdout
    other = tmp_path / "other"
    assert run("run", "cg", *TINY, "--seed", "5,6", "--out", other).exit_code == 0
    for level in ([], ["--level", "numeric"]):  # too few tasks for a median; no row that is on both sides
        refused = run("compare", finished, other, *level)
        assert refused.exit_code == 2 and "found none" in refused.stderr


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "manifest.json").write_text("{"), "expected a run (manifest.json, tables/*.csv)"),
        (lambda f: (f / "manifest.json").write_text("[]"), "expected a run"),
        (lambda f: edit_manifest(f, lambda m: m.pop("settings")), "settings that this version does not know"),
        (lambda f: edit_manifest(f, lambda m: m["settings"].update(colour=1)), "colour"),
        (lambda f: (f / "tables" / "cg.csv").unlink(), "found no tables"),
        (lambda f: (f / "tables" / "cg.csv").write_bytes(b"\xff\x00"), "expected a run"),
        (lambda f: edit(f, lambda t: t.rename(columns={"task": "tusk"})), "tusk"),
        (lambda f: edit(f, lambda t: t.assign(cosine="many")), "expected a run"),
        (lambda f: (f / "tables" / "cg.csv").rename(f / "tables" / "new.csv"), "found tables of new"),
        (lambda f: (f / "run.sqlite").write_bytes((f / "run.sqlite").read_bytes()[:5000]), "run.sqlite: expected"),
    ],
)  # fmt: skip
def test_a_damaged_run_ends_with_3_and_one_line(copy: Path, damage: Callable[[Path], object], words: str) -> None:
    damage(copy)
    for command in (["check", copy], ["compare", copy, copy]):
        done = run(*command)
        assert done.exit_code == 3, done.output
        assert done.stdout == "" and "Traceback" not in done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
        assert words in line and str(copy) in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--level", "exact"], "expected one of bitwise, numeric, statistical, found 'exact'"),
     (["--sample", "0"], "sample: expected at least 1 cell, found 0"), (["--workers", "0"], "--workers")],
)  # fmt: skip
def test_what_cannot_be_is_refused(finished: Path, arguments: list[str], words: str) -> None:
    done = run("check", finished, *arguments)
    assert done.exit_code == 2 and words in done.stderr


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    done = run("check", tmp_path / "nowhere")
    assert done.exit_code == 3 and "expected a run" in done.stderr


def test_a_cell_that_fails_now_is_named_and_missing(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from analyses.analysis import measurements

    def broken(spec: object) -> list[dict[str, object]]:
        if spec["seed"] == 1:  # type: ignore[index]
            raise RuntimeError("no such luck")
        return measure(spec)  # type: ignore[arg-type]

    measure = measurements["grid"]
    monkeypatch.setitem(measurements.entries, "grid", broken)
    done = run("check", finished)
    assert done.exit_code == 4, done.output
    assert "RuntimeError: no such luck" in done.stderr


def test_the_same_by_the_functions(finished: Path) -> None:
    found = read_run(finished)
    again = measure_again(found.settings, chosen(found.settings), lambda _: None, Inline())
    assert len(again.rows) == len(runs.cells_of(found.settings))
    lines = check(found, again, "bitwise")
    assert sum(line.equal for line in lines) > 1000 and not any(line.outside or line.missing for line in lines)
