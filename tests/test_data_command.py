"""`gradgauge data` as a user types it, and an analysis on a data set from disk."""

import os
import pickle
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

import cli
from diagnostics.data.library import spelled
from tests.diagnostics.data import made

FAST = "strength=100,learning_rate=0.009"  # so strong a pull to theta that the inner loop soon reaches its minimiser


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADGAUGE_CACHE", str(tmp_path / "the cache"))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def refused(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == "" and "Traceback" not in result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    for word in words:
        assert word in line


def test_info_spells_the_problem_and_steps_runs_on_it(tmp_path: Path) -> None:
    """From files on disk to the table of an analysis, by commands alone."""
    folder = made.class_folders(tmp_path / "my set, [1]", {"a": 3, "b": 3, "c": 3}, side=16)
    told = run("data", "info", folder)
    assert told.exit_code == 0, told.output
    lines = told.stdout.strip().splitlines()
    assert lines[:2] == ["layout: class folders", "images: 9 of 3 x 16 x 16, 6,912 bytes"]
    name = lines[-1].removeprefix("--problem '").removesuffix("'")
    problem = f"{name[:-1]},ways=2,queries=2,width=1,norm=none,activation=tanh,pool=average,{FAST}]"
    done = run("run", "steps", "--problem", problem, "--steps", "0,2", "--iterations", "2", "--tasks", "2", "--seed",
               "0", "--precision", "float32", "--reference-seconds", "0", "--out", tmp_path / "run")  # fmt: skip
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "run" / "tables" / "steps.csv")
    measured = table[(table.estimator == "unrolled") & (table.target == "unrolled")]
    assert sorted(measured.inner_steps) == [0, 0, 2, 2] and (measured.outcome == "ok").all()
    assert (measured.relative_error < 1e-4).all()  # float32: eps 1e-7, some hundred roundings


def test_an_analysis_on_omniglot_whose_ink_is_dark(tmp_path: Path) -> None:
    folder = made.omniglot_zips(tmp_path / "omniglot")
    problem = f"few_shot[data={spelled(str(folder))},turns=4,split=test,ways=3,queries=2,width=1,{FAST}]"
    done = run("run", "steps", "--problem", problem, "--steps", "1", "--iterations", "1", "--tasks", "1", "--seed", "0",
               "--precision", "float64", "--reference-seconds", "0", "--out", tmp_path / "run")  # fmt: skip
    assert done.exit_code == 0, done.output


def test_check_says_what_is_good_and_what_is_not(tmp_path: Path) -> None:
    folder = made.cifar_fs(tmp_path / "set")
    good = run("data", "check", folder, "--workers", "1")
    assert good.exit_code == 0 and "BAD" not in good.stdout
    bad = run("data", "check", folder, "--expect", "cifar-fs", "--content", "0" * 64)
    assert bad.exit_code == 1
    marked = [line for line in bad.stdout.splitlines() if line.startswith("BAD")]
    assert [line.partition(":")[0] for line in marked] == ["BAD  counts of cifar-fs", "BAD  content"]
    refused(run("data", "check", folder, "--expect", "cifar"), 2, "unknown data set 'cifar'", "'cifar-fs'")


def test_cache_keeps_what_check_then_reads(tmp_path: Path) -> None:
    folder = made.cifar_fs(tmp_path / "set")
    before = run("data", "check", folder).stdout
    kept = run("data", "cache", folder)
    assert kept.exit_code == 0 and Path(kept.stdout.strip()).parent == tmp_path / "the cache"
    assert run("data", "check", folder).stdout == before
    # The check reads the files themselves, also one that was changed without a trace in its size and times.
    bad = folder / "data" / "fox" / "00000.png"
    times = bad.stat().st_atime_ns, bad.stat().st_mtime_ns
    bad.write_bytes(b"\0" * bad.stat().st_size)
    os.utime(bad, ns=times)
    refused(run("data", "check", folder), 3, str(bad))


def test_convert_then_info(tmp_path: Path) -> None:
    for split in ("train", "val"):
        source = made.mini_imagenet_pickle(tmp_path / f"{split}.pkl", names=(f"{split}1", f"{split}2"))
        done = run("data", "convert", source, tmp_path / "set" / f"{split}.npz")
        assert done.exit_code == 0, done.output
        assert done.stdout == f"{tmp_path / 'set' / f'{split}.npz'}: 8 images of 2 classes\n"
    assert "split validation: 2 classes, 8 images, 4 each" in run("data", "info", tmp_path / "set").stdout


class Hostile:
    def __reduce__(self) -> tuple:
        return os.system, ("touch ran",)


def test_bad_data_end_with_3_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    refused(run("data", "info", "empty"), 3, "expected images", "found none")
    refused(run("data", "check", "nowhere"), 3, "found nothing there")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Hostile()))
    refused(run("data", "convert", "x.pkl", "train.npz"), 3, "x.pkl: expected a pickle of plain arrays", "system")
    assert not (tmp_path / "ran").exists()
    folder = made.class_folders(tmp_path / "set", {"a": 2, "b": 2}, side=16)
    (folder / "b" / "00001.png").write_bytes(b"\x89PNG")
    refused(run("data", "check", folder), 3, str(folder / "b" / "00001.png"))
    refused(run("data", "cache", folder), 3, str(folder / "b" / "00001.png"))
    for wanted, words in (
        ("ways=3,queries=1", "expected at least 3 classes"), ("ways=2,queries=2", "expected at least 3 images"),
    ):  # fmt: skip
        name = f"few_shot[data={spelled(str(folder))},split=all,{wanted}]"
        refused(run("run", "steps", "--problem", name, "--out", tmp_path / "run"), 3, words)
    refused(run("run", "steps", "--problem", "few_shot[data=/nowhere]", "--out", tmp_path / "run"), 3, "nothing there")
    assert not (tmp_path / "run").exists()


def test_a_corrupt_image_fails_its_cell_by_name_and_spares_the_rest(tmp_path: Path) -> None:
    folder = made.class_folders(tmp_path / "set", {name: 2 for name in "abcd"}, side=16)
    (folder / "d" / "00001.png").write_bytes((folder / "d" / "00001.png").read_bytes()[:-40])
    name = f"few_shot[data={spelled(str(folder))},split=all,ways=2,queries=1,width=1,norm=none,{FAST}]"
    few = ("--steps", "1", "--iterations", "1", "--tasks", "1", "--seed", "0,1,2,3", "--precision", "float32")
    done = run("run", "steps", "--problem", name, *few, "--reference-seconds", "0", "--out", tmp_path / "run")
    assert done.exit_code == 4
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed")]
    assert 0 < len(failed) < 4
    assert all(str(folder / "d" / "00001.png") in line and "expected a whole image" in line for line in failed)
