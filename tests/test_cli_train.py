"""`gradgauge train` as a user types it: what it says, what it leaves, and how it goes on."""

import inspect
import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

import cli
from analyses.table import COLUMNS
from diagnostics.training.checkpoint import NAME
from diagnostics.training.recipe import Recipe

ROOT = Path(__file__).parent.parent
TINY = ("--problem", "sinusoid[shots=5,queries=5]", "--inner-steps", "2", "--batch", "3", "--iterations", "4",
        "--validate-every", "2", "--validation-tasks", "3", "--test-tasks", "4", "--test-steps", "1,3")  # fmt: skip
GLYPHS = ("--problem", "few_shot[width=4,queries=2]", *TINY[2:])
FILES = {"curve.csv", "probe.csv", "test.csv", NAME, "manifest.json"}


def train(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, ["train", *map(str, arguments)])


def refused(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == "" and "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1
    for word in words:
        assert word in errors[0]


def test_training_leaves_its_tables_and_says_what_came_of_it(tmp_path: Path) -> None:
    done = train(*GLYPHS, "--method", "imaml", "--probe-every", "2", "--probe-tasks", "2", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    lines = done.stdout.splitlines()
    assert lines[0].startswith("after 1 inner steps: loss ") and lines[1].startswith("after 3 inner steps: loss ")
    assert "nearest neighbour" in lines[0] and "untrained" in lines[0] and lines[2] == str(tmp_path / "run")
    told = [line for line in done.stderr.splitlines() if line.startswith(("2/4: ", "4/4: "))]
    assert len(told) == 2 and all(word in told[0] for word in ("validation", "accuracy", "cosine", "s left"))
    tables = {name: pd.read_csv(tmp_path / "run" / f"{name}.csv") for name in ("curve", "probe", "test")}
    for table in tables.values():
        assert set(table.columns) <= set(COLUMNS) and len(table)
    assert set(tables["curve"]["stage"]) == {"train", "validation", "end"}
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["settings"]["method"] == "imaml" and manifest["transductive"] is True
    assert manifest["iterations"] == 4 and manifest["diverged at"] is None and "glyphs" in manifest["data"]


def test_the_defaults_in_the_help_are_those_of_the_recipe() -> None:
    text = " ".join(train("--help").output.split())
    names = {"meta_iterations": "iterations", "tasks": "batch", "outer_optimizer": "outer"}
    options = {parameter.name: parameter for parameter in cli.main.commands["train"].params}  # pyright: ignore[reportAttributeAccessIssue]
    for name, field in Recipe.__dataclass_fields__.items():
        assert name in options, name
        if name in ("problem", "inner_lr", "strength"):
            continue
        default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        assert f"[default: {default}]" in " ".join((options[name].help or "").split()), name
        assert f"--{names.get(name, name).replace('_', '-')}" in text
    assert set(options) == {*Recipe.__dataclass_fields__, "out", "checkpoint_seconds"}
    assert inspect.signature(Recipe).parameters["problem"].default is inspect.Parameter.empty


def test_a_finished_run_is_told_again_and_one_of_other_settings_refused(tmp_path: Path) -> None:
    first = train(*TINY, "--out", tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix == ".csv"}
    again = train(*TINY, "--out", tmp_path)
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix == ".csv"}
    refused(train(*TINY, "--meta-lr", "0.01", "--out", tmp_path), 2, "meta_lr: 0.001 -> 0.01", "--out")
    (tmp_path / NAME).write_bytes(b"damaged")
    refused(train(*TINY, "--out", tmp_path), 3, NAME, "expected an undamaged checkpoint", "delete it")


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (("--method", "mamml"), "unknown method 'mamml'; did you mean 'maml'"),
        (("--problem", "sinus"), "unknown problem 'sinus'"),
        (("--iterations", "0"), "meta_iterations: expected a whole number >= 1, found 0"),
        (("--outer", "lion"), "outer_optimizer: expected one of adam, sgd, found 'lion'"),
        (("--method", "imaml", "--strength", "0"), "expected a proximal strength > 0"),
    ],
)
def test_what_means_nothing_is_one_line(wrong: tuple[str, ...], line: str, tmp_path: Path) -> None:
    refused(train(*TINY, *wrong, "--out", tmp_path / "run"), 2, line)


def test_divergence_is_told_and_has_a_code(tmp_path: Path) -> None:
    done = train(*TINY, "--outer", "sgd", "--meta-lr", "1e20", "--out", tmp_path)
    assert done.exit_code == 4 and "diverged at iteration 1: " in done.stderr
    assert "after 1 inner steps" in done.stdout and {path.name for path in tmp_path.iterdir()} == FILES
    curve = pd.read_csv(tmp_path / "curve.csv")
    assert curve.loc[curve["stage"] == "end", ["iteration", "outcome"]].to_numpy().tolist() == [[1, "diverged"]]


def test_an_interrupted_run_says_so_and_goes_on(tmp_path: Path) -> None:
    more = ("--iterations", "300", "--checkpoint-seconds", "0.001", "--out", str(tmp_path / "run"))
    command = [sys.executable, str(ROOT / "cli.py"), "train", *TINY, *more]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what runs in the background may not hear it
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    patience = time.monotonic() + 90
    while not (tmp_path / "run" / NAME).exists():
        assert child.poll() is None and time.monotonic() < patience
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130 and "the same command goes on from here" in said and "Traceback" not in said
    resumed = train(*TINY, *more)
    undisturbed = train(*TINY, *more[:2], "--out", tmp_path / "other")
    assert resumed.exit_code == undisturbed.exit_code == 0
    assert resumed.stdout.splitlines()[:-1] == undisturbed.stdout.splitlines()[:-1]
    assert (tmp_path / "run" / "test.csv").read_bytes() == (tmp_path / "other" / "test.csv").read_bytes()
